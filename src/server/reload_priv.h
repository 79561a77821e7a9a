/* What the two files of the server's reload share: a plan, and what is known while it is prepared.
 */
#pragma once

#include <stdbool.h>

#include "base/macros.h"
#include "config/config_diff.h"
#include "server/reload.h"
#include "server/server_worker.h"
#include "tunnel/reload_keys.h"

struct server_step {
    enum plan_step_kind kind;
    struct service *service;
    /* Before the plan is posted, what will take the place of the old; then the old. NULL: no
     * change. */
    const struct config_service *config;
    struct binding *binding;
    struct binding *new_binding; /* the service's own by now */
    bool expires;                /* its sessions are over */
};

struct server_plan {
    struct server_step *steps;
    size_t step_count;
    /* Of the server itself: as in a step. */
    unsigned int changes;
    const struct config_peer *config;
    struct binding *control_binding, *new_control_binding;
    bool closes_control; /* the port is given up first, its new address would be in its way */
    struct reload_keys keys;
};

/* While a plan is prepared. */
struct preparation {
    struct server *server;
    const struct config_peer *wanted;
    struct server_plan *plan;
    struct service_view running;
    struct config_diff diff;
    struct reload_outcome *outcome;
    uint64_t now_ms;
    enum reload_attempt attempt;
};

bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b);
/* The address is in use by what is to leave it: a service, or the control port. */
bool server_reload_is_given_up(const struct preparation *prep, const struct config_service *config);
/* True: it is left to the plan that follows. said: see addresses_bind_failed. */
bool server_reload_note_failed(struct preparation *prep, const struct config_service *config,
                               unsigned int *said, int error, bool is_ours);

enum reload_place {
    RELOAD_MOVED,    /* the new address is bound */
    RELOAD_LATER,    /* by the plan that follows */
    RELOAD_REPLACED, /* in a circle: it is to be removed, and comes with that plan */
    RELOAD_STAYS,    /* where it is, if anywhere */
};
/* -ENOMEM, or enum reload_place. */
MUST_CHECK int server_reload_prepare_address(struct preparation *prep,
                                             const struct config_service *wanted,
                                             struct service *service, struct binding **ret);
/* The control port's new address. What fails leaves the old one, and is tried again. */
void server_reload_prepare_control(struct preparation *prep, unsigned int *changes);
