#include "tunnel/reload_keys.h"

#include <criterion/criterion.h>
#include <string.h>

#include "tunnel/tunnel_worker.h"

enum { WORKERS = 2 };

static struct config_transport noise_of(uint8_t key)
{
    struct config_transport transport = {.type = CONFIG_TRANSPORT_NOISE};
    transport.noise.pattern = NOISE_NK;
    transport.noise.has_local_private_key = true;
    memset(transport.noise.local_private_key, key, sizeof(transport.noise.local_private_key));
    return transport;
}

static const struct config_transport plain = {.type = CONFIG_TRANSPORT_TCP};

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

Test(reload_keys, another_set_takes_the_place_of_the_old, .init = set_up)
{
    const struct config_transport first = noise_of(1), second = noise_of(2);
    struct tunnel_worker workers[WORKERS] = {{.index = 0}, {.index = 1}};
    struct noise_keys *running, *old;
    cr_assert_eq(tunnel_noise_keys_create(&first, &running), 0);
    cr_assert_eq(tunnel_use_noise(&workers[0], running), 0);
    const struct noise_engine *engine = workers[0].noise;
    old = running;

    struct reload_keys keys = {0};
    cr_assert_eq(reload_keys_prepare(&keys, &second, WORKERS), 0);
    cr_assert_eq(running, old, "nothing is changed yet");
    reload_keys_commit(&keys, &running);
    cr_assert_neq(running, old);
    cr_assert_eq(keys.keys, old, "to be wiped at the end");
    for (unsigned int i = 0; i < WORKERS; i++) {
        reload_keys_apply(&keys, &workers[i]);
        cr_assert_eq(workers[i].noise_keys, running);
        cr_assert_not_null(workers[i].noise);
        cr_assert_eq(workers[i].relays.noise, workers[i].noise);
    }
    cr_assert_eq(workers[0].noise, engine, "what is in use stays");
    reload_keys_finish(&keys);
    reload_keys_finish(&keys);
    for (unsigned int i = 0; i < WORKERS; i++)
        noise_engine_destroy(workers[i].noise);
    tunnel_noise_keys_destroy(running);
}

Test(reload_keys, none_any_more, .init = set_up)
{
    const struct config_transport first = noise_of(1);
    struct tunnel_worker worker = {.index = 0};
    struct noise_keys *running;
    cr_assert_eq(tunnel_noise_keys_create(&first, &running), 0);
    cr_assert_eq(tunnel_use_noise(&worker, running), 0);
    struct reload_keys keys = {0};
    cr_assert_eq(reload_keys_prepare(&keys, &plain, 1), 0);
    reload_keys_commit(&keys, &running);
    reload_keys_apply(&keys, &worker);
    cr_assert_null(running);
    cr_assert_null(worker.noise_keys);
    cr_assert_not_null(worker.noise, "the connections there are go on");
    reload_keys_finish(&keys);
    noise_engine_destroy(worker.noise);
}

Test(reload_keys, what_is_given_up_is_taken_back, .init = set_up)
{
    const struct config_transport wanted = noise_of(1);
    struct reload_keys keys = {0};
    cr_assert_eq(reload_keys_prepare(&keys, &wanted, WORKERS), 0);
    reload_keys_finish(&keys);
    cr_assert_null(keys.keys);
    cr_assert_null(keys.engines);
}
