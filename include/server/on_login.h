/* Services that exist only while a client serves them (range_set.h), from a login to some time
 * after its session. The main thread makes and removes them, with a plan like that of a reload:
 *
 *     login.c: the client has proved that it knows the token --on_login_ask--> a flag in the set
 *     main: on_login_due, begin (reload.c) ----plan: add, with its address bound----> each worker
 *     login.c: finds the service, and becomes its control channel
 *     control.c: the session has ended --on_login_wake--> main: LIMIT_ON_LOGIN_LINGER_MS later, and
 *       not before its last TCP visitor has gone ----plan: remove, free address----> each worker
 *
 * So a stranger makes no service, and a client that is back in time finds its service and its
 * address as they were. A service whose address can't be bound exists all the same, and is tried
 * again every second like any other. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "server/range_set.h"

struct inherited;
struct reload_outcome;
struct server;
struct service_view;

/* Any worker: a client has logged in for this member, which has no service. */
void on_login_ask(struct server *server, struct range_set *set, uint32_t member);
/* Any worker: a session of such a service has ended. */
void on_login_wake(const struct server *server);

/* For the main thread, like all functions below. For reload_ops: see there. */
int on_login_fd(void *shared);
bool on_login_due(void *shared, uint64_t now_ms, uint64_t *ret_next_ms);

/* Makes the set of a new configuration, and counts its changed sections in the outcome. *ret NULL:
 * they are those of the running set. -ENOMEM. */
MUST_CHECK int on_login_prepare(const struct server *server, const struct config_peer *wanted,
                                struct reload_outcome *outcome, struct range_set **ret);

/* A configuration in which each section with bind = on_login is replaced by those of its members
 * that should exist. It borrows from `wanted` and from the set. */
struct on_login_view {
    struct config_peer peer;
    char (*names)[LIMIT_SERVICE_NAME + 1];
};
/* set: of `wanted`. decides: takes what clients have asked for, and closes services that have been
 * without a client for long enough; otherwise members that exist now stay. -ENOMEM. */
MUST_CHECK int on_login_expand(const struct server *server, struct range_set *set,
                               const struct service_view *running, const struct config_peer *wanted,
                               bool decides, uint64_t now_ms, struct on_login_view *ret);
void on_login_view_finish(struct on_login_view *view);

/* At the start: makes the members whose sockets a predecessor or a service manager has passed, so
 * that the visitors who wait in them are not lost. -ENOMEM. */
MUST_CHECK int on_login_adopt(struct server *server, const struct inherited *inherited);
