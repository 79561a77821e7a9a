/* What the process runs as, as app/ knows it. server/server.h and client/client.h offer one each,
 * app/main.c chooses.
 *
 *     main thread    create -> bind ------------------------------------------------> destroy
 *                                    \   status, list_sockets, reload, ...          /
 *     each worker                     start -> signalled ... until is_done -> finish
 *
 * `shared` is what create has made: a struct server or a struct client. No function is NULL; one
 * that a role has no use for does nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

struct inherited;

struct role_options {
    const struct config_peer *config; /* what is needed of it is copied */
    const char *file;                 /* for messages; borrowed */
    unsigned int workers;
    void (*thread_begins)(void); /* of the role's own threads; see resolver_create_polled */
};

/* Of this moment. */
struct role_status {
    unsigned int unbound_services; /* their addresses can't be had yet: for a RELOAD_RETRY */
    unsigned int waiting_visitors;
};

struct role {
    enum config_role half;  /* of the file */
    const char *name;       /* and of its section */
    const char *start_text; /* in the log, before the address of config */
    bool has_addresses;     /* to bind; without, a LISTEN_FDS that is wrong does no harm */

    /* ---- the main thread's ---- */

    /* Makes all but the sockets and the workers' parts. -errno; nothing is logged. */
    int (*create)(const struct role_options *options, void **ret);
    void (*destroy)(void *shared); /* accepts NULL */
    /* Until it does not return -EAGAIN, with the time since the first call: names and ports may
     * take theirs. Takes what is its own out of inherited. -errno: it can't serve, which is logged.
     */
    int (*bind)(void *shared, struct inherited *inherited, uint32_t waited_ms);
    struct role_status (*status)(void *shared);
    const struct reload_ops *reload;

    struct handover *(*handover)(void *shared);
    /* All that is bound, for a successor; while no reload is being applied. -ENOMEM.
     * handover_sockets_finish in every case. */
    int (*list_sockets)(void *shared, struct handover_sockets *ret);
    /* Gives the addresses up, save for the sockets that the workers hold. */
    void (*leave_addresses)(void *shared);

    /* ---- a worker's, in its thread ---- */

    /* Makes worker->role and starts its work. */
    int (*start)(void *shared, struct tunnel_worker *worker);
    void (*signalled)(struct tunnel_worker *worker, uint32_t bits); /* enum tunnel_signal */
    /* After DRAIN or STOP: nothing is open any more, the loop may end. */
    bool (*is_done)(const struct tunnel_worker *worker);
    /* Frees worker->role. */
    void (*finish)(struct tunnel_worker *worker);
};
