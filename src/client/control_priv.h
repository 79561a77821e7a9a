/* What the files of a client's control channel share: its state, and the functions that lead from
 * step to step. control_dial.c begins an attempt: it chooses the server and connects. control.c
 * runs it to its end, and then the next one. control_change.c acts when the configuration, the
 * servers or the process change. control_log.c says what happens.
 *
 * A control channel holds a use of its service and of its server, and while it is up one of its
 * session. Only control.c frees it. It runs in the thread of control->worker. */
#pragma once

#include <assert.h>

#include "base/log.h"
#include "base/probe.h"
#include "client/client_worker.h"
#include "client/control.h"
#include "client/dial.h"
#include "client/session.h"
#include "net/recipe.h"
#include "net/stream.h"
#include "proto/client_backoff.h"
#include "proto/client_fsm.h"

enum { COMMAND_BUFFER = 256 };

enum control_state {
    CONTROL_WAITING,   /* in back-off, or until a turn to log in or the end of a handover */
    CONTROL_RESOLVING, /* looks up the server's name */
    CONTROL_CONNECTING,
    CONTROL_LOGIN,
    CONTROL_UP,
    CONTROL_CLOSING, /* the stream is being closed; then back-off, the next address, or the end */
    CONTROL_STATE_COUNT,
};

struct client_control {
    struct stream stream;
    struct list node;         /* in worker->controls */
    struct list service_node; /* in service->controls, until it is stopping */
    struct list turn_node;    /* in worker->login_waiters, while it waits for a turn */
    struct client_worker *worker;
    struct client_service *service;
    struct client_server *server;
    /* The server's name in the recipe: of the current attempt, then of the session. */
    uint64_t target_id;
    /* With several names, of the current attempt: those tried in this round (a bit each), the
     * round, and whether an address has timed out in it. */
    uint16_t tried;
    uint8_t round;
    bool has_timed_out;
    bool is_additional; /* counted in fds.more_controls */
    uint8_t state;      /* enum control_state; client_control_set_state changes it */
    bool stopping;      /* ends for good */
    bool begins_anew;   /* begins again without back-off when the stream is closed */
    bool has_turn;      /* is counted among the logins in progress */
    bool was_clean;     /* the server ended the last session with an end of stream */
    bool has_stream;    /* a stream exists and is not closed yet */
    bool awaits_proxy;  /* the limit of the login is that of the proxy */
    bool tries_next;    /* tries the next address when the stream is closed */
    struct timer timer; /* the limit of the current step, or the end of a wait */
    struct client_fsm fsm;
    struct client_backoff backoff;
    struct client_session *session; /* while UP */
    struct resolver_query *query;
    struct resolver_answer addrs;
    struct dial dial;
    uint64_t attempt_at_ns, heard_at_ns;
    uint64_t login; /* of a retired one: what its successor tells */
    uint8_t in[COMMAND_BUFFER];
    struct client_action action;
};

static inline const char *control_name(const struct client_control *control)
{
    return client_service_name(control->service);
}

static inline const struct config_peer *control_config(const struct client_control *control)
{
    return client_config(control->worker->client);
}

static inline const struct recipe *control_recipe(const struct client_control *control)
{
    return control->worker->tunnel->recipe;
}

/* NULL: a reload has just removed it. */
static inline const struct recipe_server *control_target(const struct client_control *control)
{
    return recipe_find(control_recipe(control), control->target_id);
}

/* client/control_log.c */

/* A line at trace level. */
void client_control_trace(const struct client_control *control, enum control_state old);
/* An attempt or a session has ended. To be called before the state changes. */
void client_control_log_failed(const struct client_control *control, int error);
/* dialled: the address of the server or of the proxy. */
void client_control_log_up(const struct client_control *control, const struct addr *dialled);

/* The only function that changes the state. */
static inline void client_control_set_state(struct client_control *control,
                                            enum control_state state)
{
    static const bool edges[CONTROL_STATE_COUNT][CONTROL_STATE_COUNT] = {
        [CONTROL_WAITING] = {[CONTROL_WAITING] = true, [CONTROL_RESOLVING] = true},
        [CONTROL_RESOLVING] = {[CONTROL_CONNECTING] = true,
                               [CONTROL_RESOLVING] = true, /* the next name */
                               [CONTROL_WAITING] = true},
        [CONTROL_CONNECTING] = {[CONTROL_LOGIN] = true,
                                [CONTROL_CLOSING] = true,
                                [CONTROL_RESOLVING] = true, /* the next name */
                                [CONTROL_WAITING] = true},  /* no socket could be made */
        [CONTROL_LOGIN] = {[CONTROL_UP] = true, [CONTROL_CLOSING] = true},
        [CONTROL_UP] = {[CONTROL_CLOSING] = true},
        /* CONNECTING: to the next address of the same attempt. */
        [CONTROL_CLOSING] = {[CONTROL_WAITING] = true, [CONTROL_CONNECTING] = true},
    };
    const enum control_state old = (enum control_state)control->state;
    assert(old < CONTROL_STATE_COUNT && edges[old][state]);
    control->state = (uint8_t)state;
    PROBE3(client_control_state, client_service_name(control->service), old, state);
    if (log_enabled(LOG_TRACE))
        client_control_trace(control, old);
}

/* client/control_dial.c */

/* Begins an attempt, or waits for a turn. During a handover it does nothing;
 * client_control_release_all calls it again. */
void client_control_begin(struct client_control *control);
/* False while a handover holds attempts back. */
bool client_control_may_begin(const struct client_control *control);
/* Connects to the next address that a socket can be made for, of this name or of the next. */
void client_control_try_address(struct client_control *control);
/* Gives up this address; when the stream is closed, the next one is tried. */
void client_control_connect_failed(struct client_control *control, int error);
/* The look-up of the name has failed. */
void client_control_name_failed(struct client_control *control, int error);
/* A login has failed with this error. True: the next name is tried at once. */
bool client_control_goes_on(struct client_control *control, int error);

/* client/control_change.c */

/* Tells a predecessor, if there is one, that this one is up. */
void client_control_tell_login(const struct client_control *control);

/* client/control.c */

extern const struct stream_ops client_control_stream_ops;
/* Starts a control channel of the service. -ENOMEM. */
MUST_CHECK int client_control_start(struct client_worker *worker, struct client_service *service,
                                    struct client_server *server);
/* Ends it for good, and frees it, now or when its connection is closed. */
void client_control_stop(struct client_control *control);
/* Starts the time limit of a step. */
void client_control_deadline(struct client_control *control, uint64_t limit_ms);
/* Ends an attempt or a session with an error: logs it, ends the session, closes the connection, and
 * begins again after the back-off. Frees the control channel if it is stopping. -ECANCELED and
 * ERR_RECONFIGURED are not counted as failures of the server. */
void client_control_fail(struct client_control *control, int error);
/* Gives back the turn to log in, if there is one. */
void client_control_give_up_turn(struct client_control *control);
/* While UP: restarts the heartbeat timeout, if one is configured. */
void client_control_watch_heartbeat(struct client_control *control);
