/* The servers that a client's services are logged in to, one set for the whole client:
 *
 *     servers = first   one entry, `any`: a control channel goes through the names on its own
 *     servers = all     an entry for each address of each name. Worker 0 looks the names up again
 *                       each resolve_interval, and signals the workers when the set has changed:
 *                       they begin and end control channels (client_control_follow)
 *
 * An address of several names is one entry, which is dialled as the name that had it first, while
 * that one has it. A name counts with one address family (docs/decisions.md, "servers = all uses
 * one address family"). An address that a name has no more leaves the name after two good look-ups
 * without it, and the set with the last of its names. A failed look-up changes nothing.
 * Behind a proxy names are the proxy's to look up: there is an entry for each name.
 *
 * An entry is shared: the set and its control channels hold a use each. The list is behind a lock;
 * what belongs to the look-ups is worker 0's. */
#pragma once

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"
#include "io/timer.h"

struct config_peer;
struct recipe;
struct resolver_query;
struct tunnel_worker;

struct client_server {
    _Atomic unsigned int users;
    /* Logins take turns for each server, so a dead one costs the others nothing. */
    _Atomic unsigned int logins_in_progress;
    /* Of the name in the recipe that attempts go by; 0: any of the names, in order. */
    _Atomic uint64_t id;
    struct addr addr; /* len 0: looked up at each attempt */
    /* Worker 0's, by the place of a name in client_servers: */
    uint16_t names;                     /* those that have it, a bit each */
    uint8_t absent[LIMIT_SERVER_NAMES]; /* look-ups in a row without it */
};
static_assert(LIMIT_SERVER_NAMES <= 16, "a bit for each name");

void client_server_use(struct client_server *server);
void client_server_drop(struct client_server *server);

struct server_name {
    struct client_servers *servers;
    uint64_t id;
    struct host_port addr;
    struct timer timer; /* the next look-up */
    struct resolver_query *query;
    uint32_t look_up; /* the last one that was taken (resolver_list) */
    bool is_known;    /* it was looked up since the last change of the configuration */
    bool has_failed;  /* the last look-up, and that was logged */
    /* prefer_ipv6 has changed: addresses of the other family leave at the next good look-up. */
    bool changes_family;
};

struct client_servers {
    pthread_mutex_t lock; /* protects these: */
    bool follows;         /* false: `any` is the set */
    size_t count;
    struct client_server *list[LIMIT_SERVERS];

    struct client_server *any;
    /* servers = first: the name that worked last, 0: the first. Two values that need not match. */
    _Atomic uint64_t preferred_id, preferred_until_ns;
    /* Worker 0's; the main thread's before it starts: */
    struct tunnel_worker *worker; /* NULL: look-ups have not begun, or have ended */
    bool is_all, has_proxy, prefer_ipv6;
    uint64_t interval_ms;
    size_t name_count;
    struct server_name names[LIMIT_SERVER_NAMES];
};

/* -ENOMEM. finish accepts a zeroed object, and one whose init failed. */
MUST_CHECK int client_servers_init(struct client_servers *servers);
void client_servers_finish(struct client_servers *servers);
/* Takes the names of the recipe, and settings: before the workers start, and then in worker 0 after
 * a reload, which also looks them up at once. Entries of names that stay are kept. */
void client_servers_configure(struct client_servers *servers, const struct recipe *recipe,
                              const struct config_peer *config);
/* For worker 0: begins the look-ups; ends them for good. The second does nothing elsewhere. */
void client_servers_begin(struct client_servers *servers, struct tunnel_worker *worker);
void client_servers_stop(struct client_servers *servers, struct tunnel_worker *worker);

/* The set at this moment, with a use of each entry for the caller. Returns their number. */
size_t client_servers_list(struct client_servers *servers,
                           struct client_server *ret[static LIMIT_SERVERS]);
/* servers = first: a control channel has come up at the server with this id. */
void client_servers_prefer(struct client_servers *servers, const struct recipe *recipe, uint64_t id,
                           uint64_t now_ns);
/* The id to begin with; 0: the first name. */
uint64_t client_servers_preferred(struct client_servers *servers, uint64_t now_ns);
/* Between two look-ups of a name: interval_ms, or up to a tenth less, so that clients that started
 * together do not ask together. random: any 32 bits. */
uint64_t client_servers_interval_ms(uint64_t interval_ms, uint32_t random);
