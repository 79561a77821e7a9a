/* What the files of a client's data channel share: its state, and the functions that lead from step
 * to step. data_channel.c dials, waits for the command, and ends channels that have no relay;
 * local_service.c connects to the local service; data_channel_relay.c joins the two.
 *
 * Until the relay starts, a channel holds a use of its session and of its service, and is in
 * worker->channels. After that it holds only the use of its service, and is in worker->relaying. It
 * runs in the thread of channel->worker. */
#pragma once

#include <assert.h>

#include "base/log.h"
#include "base/probe.h"
#include "client/client_worker.h"
#include "client/data_channel.h"
#include "client/session.h"
#include "net/stream.h"
#include "proto/message.h"
#include "relay/relay.h"

enum channel_state {
    CHANNEL_NEW,     /* being made; in no list */
    CHANNEL_DIALING, /* connecting, or waiting to try again */
    CHANNEL_PARKED,  /* sends hello, and waits for the command */
    CHANNEL_LOCAL,   /* looks up or connects to the local service */
    CHANNEL_RELAYING,
    CHANNEL_CLOSING,
    CHANNEL_STATE_COUNT,
};

struct data_channel {
    union {
        struct {
            struct stream stream; /* to the server */
            struct stream local;
            struct resolver_query *query;
            struct dial dial; /* the addresses of the local service */
            uint8_t hello[MESSAGE_HELLO_SIZE];
            uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
        };
        struct relay relay; /* when both ends are connected */
    };
    struct list node; /* in the list that data_channel_list names */
    struct client_worker *worker;
    struct client_session *session; /* used; NULL from the start of the relay on */
    struct client_service *service; /* used */
    struct timer timer;             /* the limit of the current step, or of a wait */
    uint64_t id;
    uint64_t begun_at_ns; /* the dialling; once the command has come: that moment */
    struct tunnel_worker *move_to;
    uint32_t local_generation; /* of the look-up (struct client_local) */
    uint32_t local_version;    /* of the addresses that dial counts */
    uint8_t state;             /* enum channel_state; data_channel_set_state changes it */
    int error;                 /* of the last attempt */
    uint8_t streams_open;      /* while CLOSING: `closed` callbacks that are still to come */
    bool has_local;
    bool waits_for_queue; /* of a unix socket, until the timer */
    bool retries;         /* an attempt has failed: shorter delays from now on */
    bool half_open;       /* counted as lacking its second descriptor */
    bool held;            /* counted by client_fds_hold */
    bool awaits_proxy;    /* while PARKED: the timer is the proxy's limit */
};

static_assert(sizeof(struct data_channel) <= 1024, "memory of an idle relay");

static inline struct loop *channel_loop(const struct data_channel *channel)
{
    return channel->worker->tunnel->loop;
}

static inline const char *channel_service(const struct data_channel *channel)
{
    return client_service_name(channel->service);
}

static inline struct client_local *channel_local(const struct data_channel *channel)
{
    return &channel->service->locals[channel->worker->tunnel->index];
}

static inline struct service_stats *channel_stats(const struct data_channel *channel)
{
    return service_stats_of(&channel_local(channel)->stats);
}

/* The worker's list for channels in this state; NULL: they are in none. */
static inline struct list *data_channel_list(const struct data_channel *channel,
                                             enum channel_state state)
{
    if (state == CHANNEL_NEW)
        return NULL;
    return state == CHANNEL_RELAYING ? &channel->worker->relaying : &channel->worker->channels;
}

/* data_channel.c: a line at trace level. */
void data_channel_trace(const struct data_channel *channel, enum channel_state old);

/* The only function that changes the state. It also moves the channel to that state's list. */
static inline void data_channel_set_state(struct data_channel *channel, enum channel_state state)
{
    static const bool edges[CHANNEL_STATE_COUNT][CHANNEL_STATE_COUNT] = {
        [CHANNEL_NEW] = {[CHANNEL_DIALING] = true, [CHANNEL_RELAYING] = true},
        [CHANNEL_DIALING] = {[CHANNEL_PARKED] = true, [CHANNEL_CLOSING] = true},
        /* DIALING again: the proxy has failed before it connected. */
        [CHANNEL_PARKED] =
            {[CHANNEL_DIALING] = true, [CHANNEL_LOCAL] = true, [CHANNEL_CLOSING] = true},
        /* LOCAL again: a reload has changed local_addr. */
        [CHANNEL_LOCAL] =
            {[CHANNEL_LOCAL] = true, [CHANNEL_RELAYING] = true, [CHANNEL_CLOSING] = true},
        /* RELAYING again: a move failed, because the other worker's mailbox was full. */
        [CHANNEL_RELAYING] = {[CHANNEL_RELAYING] = true},
    };
    const enum channel_state old = (enum channel_state)channel->state;
    struct list *list = data_channel_list(channel, state);
    assert(old < CHANNEL_STATE_COUNT && edges[old][state]);
    channel->state = (uint8_t)state;
    PROBE4(data_channel_state, channel_service(channel), channel->id, old, state);
    if (log_enabled(LOG_TRACE))
        data_channel_trace(channel, old);
    if (list != data_channel_list(channel, old)) {
        list_remove(&channel->node);
        list_push_back(list, &channel->node);
    }
}

/* data_channel.c */

/* Ends the channel's use of its session, if it has one, which counts one channel less without a
 * visitor. */
void data_channel_drop_session(struct data_channel *channel);
/* To be called when its descriptors are closed: gives back their count, and ends its use of the
 * service. */
void data_channel_drop_service(struct data_channel *channel);
/* Resets the connections of a channel that has no relay: to the server, and to the local service.
 * May free the channel. */
void data_channel_close(struct data_channel *channel);
/* While CLOSING: one of its streams is closed. Frees the channel after the last one. */
void data_channel_stream_gone(struct data_channel *channel);
/* Frees the channel alone, when its use of the service has moved to another worker or has ended. */
void data_channel_forget(struct data_channel *channel);

/* local_service.c. All of these may free the channel. */

/* To be called when the command has come: connects to the local service within connect_timeout,
 * then starts the relay. */
void local_service_begin(struct data_channel *channel);
/* Closes a channel whose local service can't be reached. error: -errno, for the log. */
void local_service_unavailable(struct data_channel *channel, int error);
/* The limit of a step is over: of the look-up, or of an address. */
void local_service_expired(struct data_channel *channel);

/* data_channel_relay.c */

/* Starts the relay, which takes over the descriptors and the Noise state. May free the channel. */
void data_channel_relay_start(struct data_channel *channel, struct transport server, int local_fd);
