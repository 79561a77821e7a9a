#include "server/control_watch.h"

#include "base/error.h"

enum {
    QUIET_AFTER = 2, /* transmissions in a row without an answer: one alone is lost now and then */
    HEARD_LATELY_MS = 1000, /* then it need not be asked */
};

void control_watch_end(struct control_watch *watch, int fd)
{
    if (watch->silence.asked)
        socket_stop_asking(fd, &watch->keepalive);
    watch->silence = (struct silence){.watched = false};
}

int control_watch_look(struct control_watch *watch, int fd, bool doubted, uint32_t step_ms,
                       bool *ret_is_quiet)
{
    struct socket_life life;
    *ret_is_quiet = false;
    if (socket_life(fd, &life) < 0)
        return 0; /* no TCP_INFO, so it can't be judged */
    bool was_asked = watch->silence.asked;
    if (silence_judge(&watch->silence, &life, step_ms) == SILENCE_DEAD)
        return was_asked ? ERR_SILENT : ERR_UNACKED;
    if (was_asked && !watch->silence.asked)
        socket_stop_asking(fd, &watch->keepalive);
    /* The retransmission of outstanding bytes is a probe too. */
    if (doubted && !was_asked && life.unacked == 0 && life.unsent == 0 &&
        life.heard_ms >= HEARD_LATELY_MS) {
        socket_ask(fd, &watch->keepalive);
        silence_ask(&watch->silence);
    }
    *ret_is_quiet = life.retransmits >= QUIET_AFTER || life.probes >= QUIET_AFTER;
    return 0;
}
