#include "client/opening.h"

#include <assert.h>
#include <string.h>

#include "base/limits.h"
#include "client/client_worker.h"
#include "client/data_channel.h"
#include "client/session.h"

enum { ABOUT_AS_BUSY_PERMILLE = 250 }; /* a smaller difference does not count */

struct open_request {
    struct client_session *session; /* with one use of it */
    size_t count;
};

static void open_here(struct client_worker *worker, struct client_session *session, size_t count)
{
    /* One more than the limit, so that data_channel_open logs the excess once. */
    for (size_t i = 0; i < count && i <= LIMIT_CLIENT_CHANNELS_PENDING; i++)
        data_channel_open(worker, session);
}

static void deliver_open(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct open_request request;
    memcpy(&request, payload, sizeof(request));
    open_here(tunnel->role, request.session, request.count);
    client_session_drop(request.session);
}

static void open_on(struct client_worker *worker, struct tunnel_worker *target,
                    struct client_session *session, size_t count)
{
    struct tunnel_worker *own = worker->tunnel;
    if (count == 0)
        return;
    if (target != own) {
        struct open_request request = {session, count};
        client_session_use(session);
        if (mailbox_post(target->mailbox, own->mailbox, deliver_open, &request, sizeof(request)) ==
            0)
            return;
        client_session_drop(session);
    }
    open_here(worker, session, count);
}

void client_open_channels(struct client_worker *worker, struct client_session *session,
                          size_t count)
{
    struct tunnel_workers *all = worker->tunnel->all;
    assert(all->count > 0);
    unsigned int least = UINT32_MAX;
    unsigned int busy[LIMIT_WORKERS];
    for (unsigned int i = 0; i < all->count; i++) {
        busy[i] = loop_busy_permille(all->items[i].loop);
        least = MIN(least, busy[i]);
    }
    /* Workers that are about as busy as the least busy one take turns. */
    unsigned int first = atomic_fetch_add_explicit(&worker->client->next_worker,
                                                   (unsigned int)count, memory_order_relaxed);
    size_t share[LIMIT_WORKERS] = {0};
    count = MIN(count, (size_t)LIMIT_CLIENT_CHANNELS_PENDING + 1);
    for (unsigned int at = first; count > 0; at++) {
        unsigned int i = at % all->count;
        if (busy[i] <= least + ABOUT_AS_BUSY_PERMILLE) {
            share[i]++;
            count--;
        }
    }
    for (unsigned int i = 0; i < all->count; i++)
        open_on(worker, &all->items[i], session, share[i]);
}
