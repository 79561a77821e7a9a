/* A session on the client: what data channels need of the control channel that asked for them.
 * Made at login, shared by the workers, counted by its users, wiped with the last. Any worker. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "crypto/keys.h"

struct client_service;
struct client_worker;

struct client_session {
    _Atomic unsigned int users;
    _Atomic bool ended;             /* parked channels of an ended session are reset */
    _Atomic unsigned int unstarted; /* channels without a visitor yet; bounded */
    struct client_service *service;
    struct addr server; /* where the control channel went */
    uint8_t key[KEYS_DIGEST_SIZE];
};

/* -ENOMEM leaves NULL. The session starts with one user. */
struct client_session *client_session_create(struct client_service *service,
                                             const struct addr *server,
                                             const uint8_t key[static KEYS_DIGEST_SIZE]);
void client_session_use(struct client_session *session);
void client_session_drop(struct client_session *session);
/* Ends it: all workers reset its parked channels. The caller's use goes on. */
void client_session_end(struct client_worker *worker, struct client_session *session);
