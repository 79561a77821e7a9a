#include "client/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/probe.h"
#include "client/client_worker.h"
#include "net/recipe.h"

struct client_session *client_session_create(struct client_service *service, uint64_t server_id,
                                             const struct addr *server,
                                             const uint8_t key[static KEYS_DIGEST_SIZE])
{
    struct client_session *session = calloc(1, sizeof(*session));
    if (session == NULL)
        return NULL;
    session->users = 1;
    session->service = service;
    client_service_use(service);
    session->server = *server;
    session->server_id = server_id;
    memcpy(session->key, key, sizeof(session->key));
    PROBE2(session_begin, client_service_name(service), session);
    return session;
}

void client_session_use(struct client_session *session)
{
    (void)atomic_fetch_add(&session->users, 1);
}

void client_session_drop(struct client_session *session)
{
    if (atomic_fetch_sub(&session->users, 1) != 1)
        return;
    client_service_drop(session->service);
    keys_wipe(session->key, sizeof(session->key));
    free(session);
}

const struct recipe_server *client_session_target(const struct client_worker *worker,
                                                  const struct client_session *session)
{
    return recipe_find(worker->tunnel->recipe, session->server_id);
}

void client_session_end(struct client_worker *worker, struct client_session *session)
{
    struct tunnel_worker *own = worker->tunnel;
    atomic_store(&session->ended, true);
    PROBE2(session_end, client_service_name(session->service), session);
    /* By a signal and not inside this call, because a reload may end hundreds of sessions in a
     * turn. */
    for (unsigned int i = 0; i < own->all->count; i++)
        mailbox_signal(own->all->items[i].mailbox, own->mailbox, TUNNEL_SIGNAL_SESSIONS);
}
