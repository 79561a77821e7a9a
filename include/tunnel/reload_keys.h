/* The keys of Noise in a reload, of either role: another set takes the place of the one before, or
 * the first comes, or the last goes.
 *
 *     main thread: prepare --> commit                        finish: the old ones are wiped
 *     each worker:                    `--> apply, once --'
 *
 * Without a commit `finish` takes back what was prepared. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

struct noise_engine;
struct noise_keys;
struct tunnel_worker;

struct reload_keys {
    struct noise_keys *keys; /* owned: before the commit the new ones, then the old; NULL: none */
    const struct noise_keys *new_keys; /* from the commit on: the role's own by now */
    struct noise_engine **engines;     /* one for each worker, taken by it if it has none */
    unsigned int worker_count;
};

/* keys is zeroed. -ENOMEM: finish. */
MUST_CHECK int reload_keys_prepare(struct reload_keys *keys, const struct config_transport *wanted,
                                   unsigned int workers);
/* running: the role's. */
void reload_keys_commit(struct reload_keys *keys, struct noise_keys **running);
/* Connections of the worker that begin from now on use the new keys, or none; those there are go on
 * as they are. */
void reload_keys_apply(const struct reload_keys *keys, struct tunnel_worker *worker);
void reload_keys_finish(struct reload_keys *keys); /* accepts a zeroed one */
