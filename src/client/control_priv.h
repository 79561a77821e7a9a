/* What the files of a client's control channel share: its state, and the ways from step to step.
 * client/control.c takes it from an attempt to its end and to the next; client/control_change.c
 * steps in when the configuration or the process changes.
 *
 * It holds a use of its service, and while it is up one of its session; client/control.c alone
 * frees it. Runs in the thread of control->worker. */
#pragma once

#include <assert.h>

#include "client/client_worker.h"
#include "client/control.h"
#include "client/dial.h"
#include "client/session.h"
#include "net/stream.h"
#include "proto/client_backoff.h"
#include "proto/client_fsm.h"

enum { COMMAND_BUFFER = 256 };

enum control_state {
    CONTROL_WAITING,   /* back-off, or a turn to log in */
    CONTROL_RESOLVING, /* the server's name */
    CONTROL_CONNECTING,
    CONTROL_LOGIN,
    CONTROL_UP,
    CONTROL_CLOSING, /* the stream is being torn down; then back-off, or the end */
    CONTROL_STATE_COUNT,
};

struct client_control {
    struct stream stream;
    struct list node; /* in worker->controls */
    struct client_worker *worker;
    struct client_service *service;
    uint8_t state;      /* enum control_state; client_control_set_state changes it */
    bool stopping;      /* never again */
    bool begins_anew;   /* as soon as the stream is closed, without a wait */
    bool has_turn;      /* counts among the logins in progress */
    bool was_clean;     /* the server has ended the last session as it should */
    bool has_stream;    /* that is not closed yet */
    bool tries_next;    /* as soon as the stream is closed: another address */
    struct timer timer; /* the limit of the current step, or the end of a wait */
    struct client_fsm fsm;
    struct client_backoff backoff;
    struct client_session *session; /* while UP */
    struct resolver_query *query;
    struct resolver_answer addrs;
    struct dial dial;
    uint64_t attempt_at_ns, heard_at_ns;
    uint8_t in[COMMAND_BUFFER];
    struct client_action action;
};

/* The only way from one state to another. */
static inline void client_control_set_state(struct client_control *control,
                                            enum control_state state)
{
    static const bool edges[CONTROL_STATE_COUNT][CONTROL_STATE_COUNT] = {
        [CONTROL_WAITING] = {[CONTROL_WAITING] = true, [CONTROL_RESOLVING] = true},
        [CONTROL_RESOLVING] = {[CONTROL_CONNECTING] = true, [CONTROL_WAITING] = true},
        [CONTROL_CONNECTING] = {[CONTROL_LOGIN] = true,
                                [CONTROL_CLOSING] = true,
                                [CONTROL_WAITING] = true}, /* no socket could be made */
        [CONTROL_LOGIN] = {[CONTROL_UP] = true, [CONTROL_CLOSING] = true},
        [CONTROL_UP] = {[CONTROL_CLOSING] = true},
        /* CONNECTING: to the next address of the same attempt. */
        [CONTROL_CLOSING] = {[CONTROL_WAITING] = true, [CONTROL_CONNECTING] = true},
    };
    const enum control_state old = (enum control_state)control->state;
    assert(old < CONTROL_STATE_COUNT && edges[old][state]);
    control->state = (uint8_t)state;
}

/* client/control.c */

/* Begins an attempt, or waits for a turn; during a handover, for client_control_release_all. */
void client_control_begin(struct client_control *control);
/* Whatever went wrong: log it, end the session, tear the connection down, wait, begin again. May
 * free it if it is stopping. -ECANCELED and ERR_RECONFIGURED are no failures of the server's. */
void client_control_fail(struct client_control *control, int error);
/* It counts among the logins in progress no longer, if it did. */
void client_control_give_up_turn(struct client_control *control);
/* While UP: the time without a heartbeat counts from now on, if it is limited. */
void client_control_watch_heartbeat(struct client_control *control);
