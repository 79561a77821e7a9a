#include "tunnel/reload_recipe.h"

#include <errno.h>
#include <stdlib.h>

#include "net/recipe.h"
#include "tunnel/tunnel_worker.h"

int reload_recipe_prepare(struct reload_recipe *prepared, const struct config_peer *wanted,
                          bool is_client, unsigned int workers)
{
    int result = tunnel_recipe_create(wanted, is_client, &prepared->recipe);
    if (result < 0 || !recipe_is_coded(prepared->recipe))
        return result;
    prepared->engines = calloc(workers, sizeof(*prepared->engines));
    if (prepared->engines == NULL)
        return -ENOMEM;
    prepared->worker_count = workers;
    for (unsigned int i = 0; i < workers && result == 0; i++)
        result = link_engine_create(&prepared->engines[i]);
    return result;
}

void reload_recipe_commit(struct reload_recipe *prepared, struct recipe **running)
{
    struct recipe *old = *running;
    prepared->new_recipe = *running = prepared->recipe;
    prepared->recipe = old;
}

void reload_recipe_apply(const struct reload_recipe *prepared, struct tunnel_worker *worker)
{
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
