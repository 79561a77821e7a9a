/* What the two files of the server's reload share: a plan, and what is known while it is prepared.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
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
    struct binding *new_binding; /* the service's own by now; NULL: it gives its address up */
    bool rebinds;                /* to new_binding */
    bool expires;                /* its sessions are over */
};

struct server_plan {
    struct server_step *steps;
    size_t step_count;
    /* Of the server itself: as in a step. */
    unsigned int changes;
    const struct config_peer *config;
    struct binding *control_binding, *new_control_binding;
    bool closes_control; /* as a service that gives its address up */
    struct reload_keys keys;
};

enum reload_fate {
    PLACE_STAYS,
    PLACE_WAITS,  /* until the address that its owner wants is free */
    PLACE_LEAVES, /* with this plan */
};

/* The address of a running service, of the control port, or none, of a service that is added; and
 * what its owner wants in its stead, if that could not be bound. */
struct reload_place {
    enum reload_fate fate;
    int error;               /* 0: it was bound, or nothing is wanted */
    struct service *service; /* these are NULL: the control port */
    const struct config_service *wanted;
    size_t behind;     /* WAITS: for this place to be free */
    size_t addr_count; /* 0: what is wanted is not in use */
    struct addr addrs[LIMIT_ADDRESSES];
};
#define NO_PLACE SIZE_MAX

/* While a plan is prepared. */
struct preparation {
    struct server *server;
    const struct config_peer *wanted;
    struct server_plan *plan;
    struct service_view running;
    struct config_diff diff;
    struct reload_outcome *outcome;
    struct reload_place *places; /* reload_ports.c */
    size_t place_count;
    uint64_t now_ms;
    enum reload_attempt attempt;
};

struct server_step *server_reload_add_step(struct preparation *prep, enum plan_step_kind kind,
                                           struct service *service);

/* ---- reload_ports.c ---- */

/* -ENOMEM. prep->places are the caller's to free. */
MUST_CHECK int server_reload_begin_places(struct preparation *prep);
/* The plan takes the address of a running service away from it. */
void server_reload_leaves(struct preparation *prep, const struct config_service *running);
/* The address that a new service wants, or one that has another. 0, -ENOMEM, or another error:
 * without it. */
MUST_CHECK int server_reload_bind(struct preparation *prep, const struct config_service_diff *item,
                                  struct service *service, struct binding **ret);
/* The control port's new address: in the plan. False: without it. */
MUST_CHECK bool server_reload_bind_control(struct preparation *prep);
/* When all have tried: what comes of those that are without. */
void server_reload_settle(struct preparation *prep);
/* When the plan is in force: of those that will not have it soon. */
void server_reload_log_failures(struct preparation *prep);
bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b);
