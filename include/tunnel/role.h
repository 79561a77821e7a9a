/* The role of the process, server or client, as app/ knows it. server/server.h and client/client.h
 * define one each, and app/main.c chooses.
 *
 *     main thread    create -> bind ------------------------------------------------> destroy
 *                                    \   status, list_sockets, reload, ...          /
 *     each worker                     start -> signalled ... until is_done -> finish
 *
 * `shared` is the object that create has made, a struct server or a struct client. No function is
 * NULL; one that a role does not need does nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/service_stats.h"
#include "tunnel/tunnel_worker.h"

struct inherited;
struct recipe;

struct role_options {
    const struct config_peer *config; /* what the role needs of it is copied */
    struct recipe **recipe;           /* of the transport: taken over; NULL: to be made */
    const char *file;                 /* the file's name, for messages; borrowed */
    unsigned int workers;
    void (*thread_begins)(void); /* the role's own threads call it first */
};

/* The state of the role at this moment. */
struct role_status {
    unsigned int unbound_services; /* services whose addresses can't be had yet: RELOAD_RETRY */
    unsigned int waiting_visitors;
};

struct role {
    enum config_role half;  /* the half of the file that it runs */
    const char *name;       /* of the role and of its section */
    const char *start_text; /* the log has it before the address in config */
    bool has_addresses;     /* has addresses to bind; otherwise a wrong LISTEN_FDS is ignored */

    /* ---- in the main thread ---- */

    /* Makes everything but the sockets and the workers' parts. -errno; logs nothing. */
    int (*create)(const struct role_options *options, void **ret);
    void (*destroy)(void *shared); /* accepts NULL */
    /* Binds the addresses; takes its sockets out of `inherited` first. -EAGAIN: names or ports need
     * more time, call again. waited_ms: the time since the first call. Other -errno: the role can't
     * serve; the cause is logged. */
    int (*bind)(void *shared, struct inherited *inherited, uint32_t waited_ms);
    struct role_status (*status)(void *shared);
    const struct reload_ops *reload;

    struct handover *(*handover)(void *shared);
    /* Lists the bound sockets for a successor. Not while a reload is being applied. -ENOMEM. The
     * caller calls handover_sockets_finish in every case. */
    int (*list_sockets)(void *shared, struct handover_sockets *ret);
    /* Gives up the addresses. Sockets that the workers hold stay open. */
    void (*leave_addresses)(void *shared);

    /* ---- in any thread ---- */

    /* Calls `tell` for each configured service. Holds the lock of their list meanwhile, so `tell`
     * is quick. */
    void (*list_services)(void *shared, service_report_fn *tell, void *arg);
    /* The name of a reason in the totals of a service that is not UDP; NULL: there are no more. */
    const char *(*refusal_name)(unsigned int reason);

    /* ---- in a worker's thread ---- */

    /* Makes worker->role and starts its work. -errno. */
    int (*start)(void *shared, struct tunnel_worker *worker);
    void (*signalled)(struct tunnel_worker *worker, uint32_t bits); /* enum tunnel_signal */
    /* The successor has told a login (tunnel/handover.h). */
    void (*succeeded)(struct tunnel_worker *worker, uint64_t login);
    /* After DRAIN or STOP: true when nothing is open any more and the loop may end. */
    bool (*is_done)(const struct tunnel_worker *worker);
    /* Frees worker->role. Accepts a worker that was never started. */
    void (*finish)(struct tunnel_worker *worker);
};
