/* Whether the client at the other end of a control channel is still there. A client that has
 * vanished without a word keeps its session, and with clients = balance visitors would go on coming
 * to it. So the worker asks the kernel (io/socket_life.h) about each such control channel once a
 * second, and has it probe the client if there is a reason to doubt: a login from the same address
 * looks like that client, come back.
 *
 * What this may do wrong: if two transmissions in a row are lost, a live client gets no visitors
 * for about a second, while there are other ones. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "io/socket_life.h"
#include "net/silence.h"

/* Embedded in the control channel. All zero: nothing is known. */
struct control_watch {
    struct silence silence;
    struct socket_keepalive keepalive; /* the socket's own settings while it is probed */
};

/* To be called about every step_ms. doubted: there is a reason to ask the client. *ret_is_quiet: it
 * has left two transmissions unanswered. ERR_UNACKED or ERR_SILENT: it has gone. */
MUST_CHECK int control_watch_look(struct control_watch *watch, int fd, bool doubted,
                                  uint32_t step_ms, bool *ret_is_quiet);
/* A reload has put an end to `clients = balance`: the socket gets its own settings back. */
void control_watch_end(struct control_watch *watch, int fd);
