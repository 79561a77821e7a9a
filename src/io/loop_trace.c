/* The ring's operations as lines at trace level. Callers ask for the level first, so that nothing
 * of this is called, and nothing is prepared for it, while it is off. Numbers only: no bytes of a
 * peer and no pointers. */
#include <assert.h>

#include "base/log.h"
#include "loop_priv.h"

static const char *const kind_names[] = {
    [LOOP_OP_NONE] = "none",
    [LOOP_OP_ACCEPT] = "accept",
    [LOOP_OP_ACCEPT_MULTISHOT] = "accept_multishot",
    [LOOP_OP_RECV] = "recv",
    [LOOP_OP_RECV_SELECT] = "recv_select",
    [LOOP_OP_SEND] = "send",
    [LOOP_OP_POLL] = "poll",
    [LOOP_OP_POLL_EXACT] = "poll_exact",
    [LOOP_OP_POLL_MULTISHOT] = "poll_multishot",
    [LOOP_OP_NOP] = "nop",
};
static_assert(ARRAY_SIZE(kind_names) == LOOP_OP_KIND_COUNT, "a name for each kind");

void loop_trace_started(const struct loop_op *op)
{
    log_write(LOG_TRACE, NULL, 0, "op started: %s fd=%d", kind_names[op->kind], op->fd);
}

void loop_trace_done(const struct loop_op *op, int res)
{
    log_write(LOG_TRACE, NULL, 0, "op done: %s fd=%d result=%d%s", kind_names[op->kind], op->fd,
              res, loop_op_is_idle(op) ? "" : ", goes on");
}
