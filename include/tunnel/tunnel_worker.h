/* What one worker thread provides to its role: its loop, mailbox, relays and counters, and the way
 * to the other workers. app/worker.c makes one for each thread. The role (role.h) adds its own
 * state for the worker.
 *
 * A tunnel_worker is used by its own thread alone, except for what io/ and base/ declare safe for
 * others: its mailbox, its loop's busy average, its counters, and its number of bulk flows. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/metrics.h"
#include "config/config.h"
#include "io/loop.h"
#include "io/mailbox.h"
#include "net/datagram.h"
#include "relay/relay.h"

struct recipe;
struct recipe_server;
struct resolver;
struct stream;
struct tunnel_worker;

/* All workers of the process; filled before the first message is sent. */
struct tunnel_workers {
    unsigned int count;
    struct tunnel_worker *items;
    struct resolver *resolver;
    _Atomic uint64_t gather_at_ns; /* when the next bulk relay may join another worker's */
};

struct tunnel_worker {
    unsigned int index;
    struct tunnel_workers *all;
    struct loop *loop;
    struct mailbox *mailbox;
    struct relay_engine relays;
    struct link_engine *links;   /* NULL: no connection was ever coded */
    const struct recipe *recipe; /* of connections to the other side; NULL: before the start */
    struct datagram_engine datagrams;
    struct metrics metrics;
    uint64_t conn_count; /* for tunnel_next_conn_id */
    void *role;          /* struct server_worker or struct client_worker */
};

/* Bits of mailbox_signal. Each role handles those that it needs. */
enum tunnel_signal {
    TUNNEL_SIGNAL_DRAIN = 1u << 0,    /* take no new work, finish what is open */
    TUNNEL_SIGNAL_STOP = 1u << 1,     /* end now */
    TUNNEL_SIGNAL_SERVICES = 1u << 2, /* server: some services came up or went down */
    TUNNEL_SIGNAL_EVICTED = 1u << 3,  /* server: the gate has evicted a connection of this worker */
    TUNNEL_SIGNAL_REQUESTS = 1u << 4, /* server: a pool wants channels */
    TUNNEL_SIGNAL_VISITORS = 1u << 5, /* server: channels are parked for visitors of this worker */
    TUNNEL_SIGNAL_SESSIONS = 1u << 6, /* client: a session has ended */
    TUNNEL_SIGNAL_PLAN = 1u << 7,     /* a reload's plan was posted */
    TUNNEL_SIGNAL_CUT = 1u << 8,      /* a service was cut: its relays have to end */
    TUNNEL_SIGNAL_HANDOVER = 1u << 9, /* the phase of a handover has changed (handover.h) */
    TUNNEL_SIGNAL_TICK = 1u << 10,    /* app/worker.c answers it, as a sign of life */
    TUNNEL_SIGNAL_DESCRIPTORS = 1u << 11, /* client: UDP visitors have to make room */
    TUNNEL_SIGNAL_REFUSE = 1u << 12,      /* server: no new visitors; those that wait go on */
    TUNNEL_SIGNAL_SERVERS = 1u << 13,     /* client: the set of servers has changed */
    TUNNEL_SIGNAL_REPLACED = 1u << 14,    /* server: a newer login has replaced a control channel */
};

/* Descriptor numbers from this one on are for control channels. */
int tunnel_fds_for_visitors(void);
/* Whether a connection that serves visitors may use the descriptor `fd`. The kernel gives out the
 * lowest free number, so a high one means that nearly all are in use. half_open: connections of all
 * workers that still need a second descriptor. fd_max: from tunnel_fds_for_visitors. */
bool tunnel_leaves_enough_fds(int fd, const _Atomic unsigned int *half_open, int fd_max);

/* Has the worker prepare its connections to the other side by a recipe, which is shared, read-only,
 * and must outlive the worker. -ENOMEM. */
MUST_CHECK int tunnel_use_recipe(struct tunnel_worker *worker, const struct recipe *recipe);
/* Prepares a new connection to the other side. server, peer: as for recipe_begin. -ENOMEM. */
MUST_CHECK int tunnel_prepare(struct tunnel_worker *worker, const struct recipe_server *server,
                              const struct addr *peer, struct stream *stream);
/* Whether a new connection to the other side begins with handshakes. */
bool tunnel_has_handshakes(const struct tunnel_worker *worker);

/* Whether an error means that the peer is gone without a word: neither an end of stream, nor a
 * reset, nor a decision of this process. */
bool tunnel_is_silence(int error);
/* Logs a relay that ended because one of its ends was silent; does nothing for any other. ends:
 * names for the two ends. */
void tunnel_log_silent_end(const struct relay *relay, const char *service, uint64_t id,
                           const char *const ends[2]);

/* A new connection id for the log, unique in the process. */
uint64_t tunnel_next_conn_id(struct tunnel_worker *worker);
/* The worker for a new relay: the least busy one, but `worker` itself if the difference is small.
 * So two bulk streams use two cores, and thousands of small relays are not moved without need. */
struct tunnel_worker *tunnel_place_relay(struct tunnel_worker *worker);
/* The worker for a relay of `worker` with a bulk flow. From a busy worker it goes to the one with
 * fewest bulk flows among those that are less busy. Where little is to do, it joins the bulk flows
 * of another worker, unless it has just become bulk (is_new): then nobody knows how much it will
 * be. Otherwise `worker` itself.
 * docs/decisions.md, "Bulk flows gather while there is little to do". */
struct tunnel_worker *tunnel_place_bulk(struct tunnel_worker *worker, const struct relay *relay,
                                        bool is_new);
