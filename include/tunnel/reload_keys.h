/* The Noise keys in a reload, for either role: new keys replace the old ones, or Noise begins, or
 * Noise ends.
 *
 *     main thread: prepare --> commit                        finish: the old ones are wiped
 *     each worker:                    `--> apply, once --'
 *
 * If there is no commit, `finish` frees what was prepared. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

struct noise_engine;
struct noise_keys;
struct tunnel_worker;

struct reload_keys {
    struct noise_keys *keys;           /* owned: new before the commit, old after it; NULL: none */
    const struct noise_keys *new_keys; /* after the commit: owned by the role; NULL: none */
    struct noise_engine **engines;     /* one for each worker; a worker without one takes its own */
    unsigned int worker_count;
};

/* keys must be zeroed. -ENOMEM: the caller still calls finish. */
MUST_CHECK int reload_keys_prepare(struct reload_keys *keys, const struct config_transport *wanted,
                                   unsigned int workers);
/* Exchanges the new keys and *running, which are the role's. Can't fail. */
void reload_keys_commit(struct reload_keys *keys, struct noise_keys **running);
/* In each worker: connections that begin from now on use the new keys, or no Noise. Open
 * connections go on as they are. */
void reload_keys_apply(const struct reload_keys *keys, struct tunnel_worker *worker);
void reload_keys_finish(struct reload_keys *keys); /* accepts a zeroed one */
