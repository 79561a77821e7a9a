/* How a connection to the other side is prepared: which handshakes it runs, with which keys. A role
 * has one recipe at a time. It is read-only once made, so all workers share it; the role frees it
 * when no handshake of it runs any more. */
#pragma once

#include <stdbool.h>

#include "crypto/noise.h"
#include "net/handshake.h"

struct recipe {
    bool is_initiator; /* of the connection: the client */
    bool has_noise;
    struct noise_keys noise;
};

/* Makes the handshakes of one connection. *ret: the first of them, for stream_begin; NULL: there is
 * none, and the connection is plain. -ENOMEM. */
MUST_CHECK int recipe_begin(const struct recipe *recipe, struct handshake **ret);
/* Whether connections are coded (net/link.h), so that the worker needs a link engine. */
bool recipe_is_coded(const struct recipe *recipe);
/* Wipes and frees. Accepts NULL. */
void recipe_destroy(struct recipe *recipe);
