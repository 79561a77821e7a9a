/* A session on the client: what data channels need to know of the control channel that asked for
 * them. It is made at login, shared by the workers, and freed and wiped by its last user. Any
 * thread. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "crypto/keys.h"

struct client_service;
struct client_worker;
struct recipe_server;

struct client_session {
    _Atomic unsigned int users;
    _Atomic bool ended;             /* then its parked channels are reset */
    _Atomic unsigned int unstarted; /* data channels without a visitor; bounded */
    struct client_service *service;
    struct addr server; /* the address that the control channel uses, which may be a proxy's */
    uint64_t server_id; /* of the worker's recipe: see client_session_target */
    uint8_t key[KEYS_DIGEST_SIZE];
};

/* Creates a session with one user, the caller. NULL: no memory. Takes a use of the service. */
struct client_session *client_session_create(struct client_service *service, uint64_t server_id,
                                             const struct addr *server,
                                             const uint8_t key[static KEYS_DIGEST_SIZE]);
void client_session_use(struct client_session *session);
void client_session_drop(struct client_session *session);
/* The server of the session in this worker's recipe. NULL while this worker and that of the control
 * channel are on different sides of a reload: the recipe may have a password for a proxy elsewhere.
 * The session is about to end, or this worker about to follow. Not to be kept over a callback. */
const struct recipe_server *client_session_target(const struct client_worker *worker,
                                                  const struct client_session *session);
/* Ends the session: has all workers reset its parked channels. The caller remains a user. */
void client_session_end(struct client_worker *worker, struct client_session *session);
