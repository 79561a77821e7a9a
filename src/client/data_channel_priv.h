/* What the files of a client's data channel share: its state, and the steps that one hands on to
 * the next. data_channel.c dials, waits for the command and ends what ends before a relay;
 * local_service.c finds the local service; data_channel_relay.c joins the two.
 *
 * Until the relay starts the channel holds its session and is in worker->channels; a channel that
 * relays holds only its use of the service and is in worker->relaying. Runs in the thread of
 * channel->worker. */
#pragma once

#include <assert.h>

#include "client/client_worker.h"
#include "client/data_channel.h"
#include "client/session.h"
#include "net/stream.h"
#include "proto/message.h"
#include "relay/relay.h"

enum channel_state {
    CHANNEL_NEW,     /* in no list: only while it is made */
    CHANNEL_DIALING, /* connecting, saying hello, or waiting to try again */
    CHANNEL_PARKED,  /* waits for the command */
    CHANNEL_LOCAL,   /* resolving or connecting the local service */
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
            struct dial dial; /* of the local service */
            uint8_t hello[MESSAGE_HELLO_SIZE];
            uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
        };
        struct relay relay; /* once both ends are there */
    };
    struct list node; /* data_channel_list says in which */
    struct client_worker *worker;
    struct client_session *session; /* until the relay starts */
    struct client_service *service; /* used */
    struct timer timer;             /* the limit of the current step, or the end of a wait */
    uint64_t id;
    uint64_t begun_at_ns;
    struct tunnel_worker *move_to;
    uint32_t local_generation; /* when the local service's name was asked for */
    uint32_t local_version;    /* of the addresses that are tried */
    uint8_t state;             /* enum channel_state; data_channel_set_state changes it */
    uint8_t streams_open;      /* while CLOSING: how many `closed` are still to come */
    bool has_local;
    bool retries;
    bool half_open;
    bool held; /* counted among those that have a descriptor (client/descriptors.h) */
};

static_assert(sizeof(struct data_channel) <= 1024, "the budget of an idle relay");

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

/* The list of its worker that a channel in that state stands in. NULL: in none. */
static inline struct list *data_channel_list(const struct data_channel *channel,
                                             enum channel_state state)
{
    if (state == CHANNEL_NEW)
        return NULL;
    return state == CHANNEL_RELAYING ? &channel->worker->relaying : &channel->worker->channels;
}

/* The only way from one state to another. Its list changes with it. */
static inline void data_channel_set_state(struct data_channel *channel, enum channel_state state)
{
    static const bool edges[CHANNEL_STATE_COUNT][CHANNEL_STATE_COUNT] = {
        [CHANNEL_NEW] = {[CHANNEL_DIALING] = true, [CHANNEL_RELAYING] = true},
        [CHANNEL_DIALING] = {[CHANNEL_PARKED] = true, [CHANNEL_CLOSING] = true},
        [CHANNEL_PARKED] = {[CHANNEL_LOCAL] = true, [CHANNEL_CLOSING] = true},
        /* Again: local_addr is another by now. */
        [CHANNEL_LOCAL] =
            {[CHANNEL_LOCAL] = true, [CHANNEL_RELAYING] = true, [CHANNEL_CLOSING] = true},
        /* Its move has found no room in the other worker's mailbox. */
        [CHANNEL_RELAYING] = {[CHANNEL_RELAYING] = true},
    };
    const enum channel_state old = (enum channel_state)channel->state;
    struct list *list = data_channel_list(channel, state);
    assert(old < CHANNEL_STATE_COUNT && edges[old][state]);
    channel->state = (uint8_t)state;
    if (list != data_channel_list(channel, old)) {
        list_remove(&channel->node);
        list_push_back(list, &channel->node);
    }
}

/* data_channel.c */

/* Gives up its session, if it has one: it counts as unstarted no longer. */
void data_channel_drop_session(struct data_channel *channel);
/* Its descriptors are closed: it counts no longer, and its use of the service ends. */
void data_channel_drop_service(struct data_channel *channel);
/* Closes what is open before the relay: the stream to the server and perhaps the local one. May
 * free it. */
void data_channel_close(struct data_channel *channel, enum stream_close how);
/* While CLOSING: one of its streams is closed. The last one frees it. */
void data_channel_stream_gone(struct data_channel *channel);
/* Frees it alone: its use of the service lives on elsewhere, or has ended. */
void data_channel_forget(struct data_channel *channel);

/* local_service.c. All of these may free the channel. */

/* The command has come: connects to the local service, within a limit, then starts the relay. */
void local_service_begin(struct data_channel *channel);
/* There is no local service: closes the channel. */
void local_service_unavailable(struct data_channel *channel, int error);
/* The time of a step is over: of the name, or of an address. */
void local_service_expired(struct data_channel *channel);

/* data_channel_relay.c */

/* Joins the two descriptors, which become the relay's; which of them have ended already is told by
 * `ended`. May free the channel. */
void data_channel_relay_start(struct data_channel *channel, struct transport server, int local_fd,
                              const bool ended[2]);
