#include "tunnel/reload_keys.h"

#include <errno.h>
#include <stdlib.h>

#include "tunnel/tunnel_worker.h"

int reload_keys_prepare(struct reload_keys *keys, const struct config_transport *wanted,
                        unsigned int workers)
{
    int result = tunnel_noise_keys_create(wanted, &keys->keys);
    if (result < 0 || keys->keys == NULL)
        return result;
    keys->engines = calloc(workers, sizeof(*keys->engines));
    if (keys->engines == NULL)
        return -ENOMEM;
    keys->worker_count = workers;
    for (unsigned int i = 0; i < workers && result == 0; i++)
        result = noise_engine_create(&keys->engines[i]);
    return result;
}

void reload_keys_commit(struct reload_keys *keys, struct noise_keys **running)
{
    struct noise_keys *old = *running;
    keys->new_keys = *running = keys->keys;
    keys->keys = old;
}

void reload_keys_apply(const struct reload_keys *keys, struct tunnel_worker *worker)
{
    if (worker->noise == NULL && keys->engines != NULL) {
        worker->noise = worker->relays.noise = keys->engines[worker->index];
        keys->engines[worker->index] = NULL;
    }
    worker->noise_keys = keys->new_keys;
}

void reload_keys_finish(struct reload_keys *keys)
{
    for (unsigned int i = 0; i < keys->worker_count; i++)
        noise_engine_destroy(keys->engines[i]);
    free(keys->engines);
    tunnel_noise_keys_destroy(keys->keys);
    *keys = (struct reload_keys){0};
}
