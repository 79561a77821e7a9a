/* The recipe of connections (net/recipe.h) in a reload, for either role: new keys replace the old
 * ones, or the transport changes.
 *
 *     main thread: prepare --> commit                        finish: the old one is freed
 *     each worker:                    `--> apply, once --'
 *
 * If there is no commit, `finish` frees what was prepared. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

struct link_engine;
struct recipe;
struct tunnel_worker;

struct reload_recipe {
    struct recipe *recipe;           /* owned: new before the commit, old after it */
    const struct recipe *new_recipe; /* after the commit: owned by the role */
    struct link_engine **engines;    /* one for each worker; a worker without one takes its own */
    unsigned int worker_count;
};

/* prepared must be zeroed. -ENOMEM: the caller still calls finish. */
MUST_CHECK int reload_recipe_prepare(struct reload_recipe *prepared,
                                     const struct config_peer *wanted, bool is_client,
                                     unsigned int workers);
/* Exchanges the new recipe and *running, which is the role's. Can't fail. */
void reload_recipe_commit(struct reload_recipe *prepared, struct recipe **running);
/* In each worker: connections that begin from now on use the new recipe. Open connections go on as
 * they are. */
void reload_recipe_apply(const struct reload_recipe *prepared, struct tunnel_worker *worker);
void reload_recipe_finish(struct reload_recipe *prepared); /* accepts a zeroed one */
