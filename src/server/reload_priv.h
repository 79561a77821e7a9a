/* What reload.c and reload_ports.c share: a plan, and the state while it is prepared. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"
#include "config/config_diff.h"
#include "server/on_login.h"
#include "server/reload.h"
#include "server/server_worker.h"
#include "tunnel/reload_recipe.h"

/* The change of one service. */
struct server_step {
    enum plan_step_kind kind;
    struct service *service;
    /* The new ones until the plan is committed, then the old ones, which the plan frees. NULL: no
     * change. */
    const struct config_service *config;
    struct binding *binding;
    struct binding *new_binding; /* the service's, for the workers; NULL: it has no address now */
    bool rebinds;                /* the workers change to new_binding */
    bool expires;                /* its session ends */
    bool denies;                 /* its UDP visitors are looked at again */
    bool repaces;                /* its relays get other limits of the bandwidth */
};

struct server_plan {
    struct server_step *steps;
    size_t step_count;
    /* The server's own settings and control port, as in a step. */
    unsigned int changes; /* enum config_change */
    const struct config_peer *config;
    struct binding *control_binding, *new_control_binding;
    bool closes_control;      /* the control port gives its address up */
    struct range_set *ranges; /* the new one until the plan is committed, then the old one */
    struct reload_recipe recipe;
};

enum reload_fate {
    PLACE_STAYS,
    PLACE_WAITS,  /* its owner wants an address that may become free */
    PLACE_LEAVES, /* becomes free with this plan */
};

/* A place: the present address of a running service or of the control port; an added service has an
 * empty place. The fields say what the owner wants instead, if that could not be bound. */
struct reload_place {
    enum reload_fate fate;
    int error;               /* 0: it was bound, or the owner wants no other address */
    struct service *service; /* this and `wanted` are NULL for the control port */
    const struct config_service *wanted;
    bool is_in_use;   /* the error is that `addr`, which the owner wants, is in use */
    struct addr addr; /* the one address of the wanted name that was tried last */
    size_t behind;    /* the place that holds `addr`, or NO_PLACE */
};
#define NO_PLACE SIZE_MAX

/* The state while a plan is prepared. */
struct preparation {
    struct server *server;
    const struct config_peer *wanted; /* &expanded.peer, once it is made */
    struct recipe *recipe;            /* of wanted; borrowed, NULL: to be made */
    struct on_login_view expanded;
    struct range_set *new_ranges; /* NULL: they have not changed, or the plan has them */
    struct server_plan *plan;
    struct service_view running;
    struct config_diff diff;
    struct reload_outcome *outcome;
    struct reload_place *places; /* running services, the control port, added services */
    size_t place_count;
    uint64_t now_ms;
    enum reload_attempt attempt;
};

/* Appends a step to the plan, which has room for one per changed service. */
struct server_step *server_reload_add_step(struct preparation *prep, enum plan_step_kind kind,
                                           struct service *service);

/* ---- reload_compare.c ---- */

/* Compares the running configuration with the wanted one, in which `wanted` then has the services
 * that should exist. server_reload_compared frees the result. decides: as in on_login_expand.
 * -ENOMEM. */
MUST_CHECK int server_reload_compare(struct preparation *prep, bool decides);
void server_reload_compared(struct preparation *prep);
/* For reload_ops. */
void server_reload_look_up(void *shared, const struct config_peer *wanted);
bool server_reload_has_looked_up(void *shared);
int server_reload_names_fd(void *shared);

/* ---- reload_ports.c ---- */

/* Allocates prep->places, which the caller frees. -ENOMEM. */
MUST_CHECK int server_reload_begin_places(struct preparation *prep);
/* The present address of a running service becomes free with this plan. */
void server_reload_leaves(struct preparation *prep, const struct config_service *running);
/* Binds the new address of a service. -ENOMEM. Another error is noted for server_reload_settle, and
 * the service does not get the address with this plan. */
MUST_CHECK int server_reload_bind(struct preparation *prep, const struct config_service_diff *item,
                                  struct service *service, struct binding **ret);
/* Binds the new address of the control port, for the plan. False: it failed, which is noted in the
 * same way. */
MUST_CHECK bool server_reload_bind_control(struct preparation *prep);
/* Decides about all failures when all addresses have been tried: who waits for the next plan, who
 * gives an address up for it, and who stays. */
void server_reload_settle(struct preparation *prep);
/* Logs the failures of those that stay. To be called when the plan is committed. */
void server_reload_log_failures(struct preparation *prep);
/* True if both texts are the same; names are not looked up. */
bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b);
