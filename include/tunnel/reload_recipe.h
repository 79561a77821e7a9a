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
    struct recipe *offered;          /* borrowed; that of the new configuration, NULL: to be made */
    struct recipe *recipe;           /* owned: new before the commit, old after it */
    const struct recipe *new_recipe; /* after the commit: owned by the role */
    struct link_engine **engines;    /* one for each worker; a worker without one takes its own */
    unsigned int worker_count;
};

/* Prepares a recipe if one of *changes (enum config_change) needs it, or if the one that is offered
 * is of other TLS files than `running`; then CONFIG_CHANGE_CERTIFICATES is added to *changes.
 * prepared must be zeroed but for what is offered. ERR_CONFIG: the files can't be used, which is
 * logged. -ENOMEM. After an error the caller still calls finish. */
MUST_CHECK int reload_recipe_prepare(struct reload_recipe *prepared, enum config_role role,
                                     const struct config_peer *wanted, const struct recipe *running,
                                     unsigned int workers, unsigned int *changes);
/* Exchanges the new recipe and *running, which is the role's. Can't fail. */
void reload_recipe_commit(struct reload_recipe *prepared, struct recipe **running);
/* In each worker: connections that begin from now on use the new recipe. Open connections go on as
 * they are. Does nothing if no recipe was prepared. */
void reload_recipe_apply(const struct reload_recipe *prepared, struct tunnel_worker *worker);
void reload_recipe_finish(struct reload_recipe *prepared); /* accepts a zeroed one */
