#include "tunnel/reload_recipe.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "config/config_diff.h"
#include "tunnel/make_recipe.h"
#include "tunnel/tunnel_worker.h"

static int make_engines(struct reload_recipe *prepared, unsigned int workers)
{
    int result = 0;
    prepared->engines = calloc(workers, sizeof(*prepared->engines));
    if (prepared->engines == NULL)
        return -ENOMEM;
    prepared->worker_count = workers;
    for (unsigned int i = 0; i < workers && result == 0; i++)
        result = link_engine_create(&prepared->engines[i]);
    return result;
}

/* A client's recipe names its server. */
static bool needs_recipe(enum config_role role, unsigned int changes)
{
    unsigned int needs = CONFIG_CHANGE_TRANSPORT;
    if (role == CONFIG_CLIENT)
        needs |= CONFIG_CHANGE_ADDRESS;
    return (changes & needs) != 0;
}

int reload_recipe_prepare(struct reload_recipe *prepared, enum config_role role,
                          const struct config_peer *wanted, const struct recipe *running,
                          unsigned int workers, unsigned int *changes)
{
    char why[RECIPE_WHY_SIZE];
    bool is_changed = needs_recipe(role, *changes);
    struct recipe *offered = prepared->offered;
    int result = 0;
    if (!is_changed && (offered == NULL || offered->tls_fingerprint == running->tls_fingerprint))
        return 0;
    if (offered != NULL) {
        recipe_hold(offered);
        prepared->recipe = offered;
    } else {
        result = recipe_create(role, wanted, &prepared->recipe, why);
    }
    if (result == ERR_CONFIG)
        log_error("reload: %s", why);
    if (result < 0)
        return result;
    if (!is_changed)
        *changes |= CONFIG_CHANGE_CERTIFICATES;
    return recipe_has_handshakes(prepared->recipe) ? make_engines(prepared, workers) : 0;
}

void reload_recipe_commit(struct reload_recipe *prepared, struct recipe **running)
{
    struct recipe *old = *running;
    if (prepared->recipe == NULL)
        return;
    prepared->new_recipe = *running = prepared->recipe;
    prepared->recipe = old;
}

void reload_recipe_apply(const struct reload_recipe *prepared, struct tunnel_worker *worker)
{
    if (prepared->new_recipe == NULL)
        return;
    if (worker->links == NULL && prepared->engines != NULL) {
        worker->links = worker->relays.links = prepared->engines[worker->index];
        prepared->engines[worker->index] = NULL;
    }
    worker->recipe = prepared->new_recipe;
}

void reload_recipe_finish(struct reload_recipe *prepared)
{
    for (unsigned int i = 0; i < prepared->worker_count; i++)
        link_engine_destroy(prepared->engines[i]);
    free(prepared->engines);
    recipe_destroy(prepared->recipe);
    *prepared = (struct reload_recipe){0};
}
