/* What one worker thread brings to the tunnel: its loop, its mailbox, its relays and its counters,
 * and the way to its siblings. app/worker.c makes one per thread; the role (role.h) hangs its
 * own per-worker state beside it.
 *
 * A tunnel_worker is used by its own thread alone, save for what io/ and base/ declare safe: its
 * mailbox, its loop's busy average, its counters, its number of bulk flows. */
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

struct resolver;
struct stream;
struct tunnel_worker;

/* All workers of the process; filled before the first message is sent. */
struct tunnel_workers {
    unsigned int count;
    struct tunnel_worker *items;
    struct resolver *resolver;
};

struct tunnel_worker {
    unsigned int index;
    struct tunnel_workers *all;
    struct loop *loop;
    struct mailbox *mailbox;
    struct relay_engine relays;
    struct noise_engine *noise;          /* NULL: nothing was ever encrypted */
    const struct noise_keys *noise_keys; /* NULL: transport.type = tcp */
    struct datagram_engine datagrams;
    struct metrics metrics;
    uint64_t conn_count; /* source of connection ids */
    void *role;          /* struct server_worker or struct client_worker */
};

/* Bits of mailbox_signal; each role handles its own. */
enum tunnel_signal {
    TUNNEL_SIGNAL_DRAIN = 1u << 0,        /* stop taking new work, finish what is open */
    TUNNEL_SIGNAL_STOP = 1u << 1,         /* end now */
    TUNNEL_SIGNAL_SERVICES = 1u << 2,     /* server: a service came up or went down */
    TUNNEL_SIGNAL_EVICTED = 1u << 3,      /* server: the gate gave a place of yours away */
    TUNNEL_SIGNAL_REQUESTS = 1u << 4,     /* server: a pool wants channels */
    TUNNEL_SIGNAL_VISITORS = 1u << 5,     /* server: channels are parked for visitors of yours */
    TUNNEL_SIGNAL_SESSIONS = 1u << 6,     /* client: a session has ended */
    TUNNEL_SIGNAL_PLAN = 1u << 7,         /* a reload's plan is to be applied */
    TUNNEL_SIGNAL_CUT = 1u << 8,          /* the relays of a removed service are to end */
    TUNNEL_SIGNAL_HANDOVER = 1u << 9,     /* the phase of a handover has changed (handover.h) */
    TUNNEL_SIGNAL_TICK = 1u << 10,        /* answered by app/worker.c: this loop turns */
    TUNNEL_SIGNAL_DESCRIPTORS = 1u << 11, /* client: UDP visitors are to make room */
};

/* Descriptors from this number on are kept for control channels. */
int tunnel_fds_for_visitors(void);
/* Whether a connection for visitors may have descriptor `fd`. They are handed out lowest first, so
 * a high number says that nearly all are in use; and each connection that still lacks its other end
 * (half_open, a count of all workers') will need one more. fd_max: from tunnel_fds_for_visitors. */
bool tunnel_leaves_enough_fds(int fd, const _Atomic unsigned int *half_open, int fd_max);

/* The keys of the configuration, as the handshakes use them; NULL if it asks for none. -ENOMEM. */
MUST_CHECK int tunnel_noise_keys_create(const struct config_transport *transport,
                                        struct noise_keys **ret);
/* Wipes and frees them. Accepts NULL. */
void tunnel_noise_keys_destroy(struct noise_keys *keys);
/* Encrypts the connections to the other end from now on. keys (shared, read-only) outlive the
 * worker. -ENOMEM. */
MUST_CHECK int tunnel_use_noise(struct tunnel_worker *worker, const struct noise_keys *keys);
/* Prepares a new connection to the other end: with Noise if that is used. -ENOMEM. */
MUST_CHECK int tunnel_secure(struct tunnel_worker *worker, struct stream *stream, bool initiator);

/* Whether an error means that the peer has gone without a word: neither an end of stream nor a
 * reset nor a decision of ours. */
bool tunnel_is_silence(int error);
/* One line for a relay that has ended because one of its ends had; nothing for any other. ends:
 * what they are to the reader. */
void tunnel_log_silent_end(const struct relay *relay, const char *service, uint64_t id,
                           const char *const ends[2]);

/* An id for a connection, unique in the process, small enough to read. */
uint64_t tunnel_next_conn_id(struct tunnel_worker *worker);
/* Where to put a new relay: the least busy worker, unless `worker` itself is about as good: two
 * bulk streams use two cores, and thousands of small ones are not passed around for nothing. */
struct tunnel_worker *tunnel_place_relay(struct tunnel_worker *worker);
/* Where to move a relay that has just become bulk: a worker with at least two fewer of them, or
 * `worker` itself. */
struct tunnel_worker *tunnel_place_bulk(struct tunnel_worker *worker);
