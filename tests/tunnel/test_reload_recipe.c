#include "tunnel/reload_recipe.h"

#include <criterion/criterion.h>
#include <string.h>

#include "config/config_diff.h"
#include "tunnel/make_recipe.h"
#include "tunnel/tunnel_worker.h"

enum { WORKERS = 2 };

static struct config_peer noise_of(uint8_t key)
{
    struct config_peer peer = {.transport.type = CONFIG_TRANSPORT_NOISE};
    struct config_noise *noise = &peer.transport.noise;
    noise->pattern = NOISE_NK;
    noise->has_local_private_key = true;
    memset(noise->local_private_key, key, sizeof(noise->local_private_key));
    return peer;
}

static const struct config_peer plain = {.transport.type = CONFIG_TRANSPORT_TCP};

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

Test(reload_recipe, another_set_takes_the_place_of_the_old, .init = set_up)
{
    const struct config_peer first = noise_of(1), second = noise_of(2);
    struct tunnel_worker workers[WORKERS] = {{.index = 0}, {.index = 1}};
    struct recipe *running, *old;
    unsigned int changes = CONFIG_CHANGE_TRANSPORT;
    char why[RECIPE_WHY_SIZE];
    cr_assert_eq(recipe_create(CONFIG_SERVER, &first, &running, why), 0);
    cr_assert_eq(tunnel_use_recipe(&workers[0], running), 0);
    const struct link_engine *engine = workers[0].links;
    old = running;

    struct reload_recipe prepared = {0};
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &second, running, WORKERS, &changes), 0);
    cr_assert_eq(running, old, "nothing is changed yet");
    reload_recipe_commit(&prepared, &running);
    cr_assert_neq(running, old);
    cr_assert_eq(prepared.recipe, old, "to be freed at the end");
    for (unsigned int i = 0; i < WORKERS; i++) {
        reload_recipe_apply(&prepared, &workers[i]);
        cr_assert_eq(workers[i].recipe, running);
        cr_assert_not_null(workers[i].links);
        cr_assert_eq(workers[i].relays.links, workers[i].links);
    }
    cr_assert_eq(workers[0].links, engine, "what is in use stays");
    reload_recipe_finish(&prepared);
    reload_recipe_finish(&prepared);
    for (unsigned int i = 0; i < WORKERS; i++)
        link_engine_destroy(workers[i].links);
    recipe_destroy(running);
}

Test(reload_recipe, none_any_more, .init = set_up)
{
    const struct config_peer first = noise_of(1);
    struct tunnel_worker worker = {.index = 0};
    struct recipe *running;
    unsigned int changes = CONFIG_CHANGE_TRANSPORT;
    char why[RECIPE_WHY_SIZE];
    cr_assert_eq(recipe_create(CONFIG_SERVER, &first, &running, why), 0);
    cr_assert_eq(tunnel_use_recipe(&worker, running), 0);
    struct reload_recipe prepared = {0};
    cr_assert_eq(reload_recipe_prepare(&prepared, CONFIG_SERVER, &plain, running, 1, &changes), 0);
    reload_recipe_commit(&prepared, &running);
    reload_recipe_apply(&prepared, &worker);
    cr_assert_not(recipe_has_handshakes(running));
    cr_assert_eq(worker.recipe, running);
    cr_assert_not_null(worker.links, "the connections there are go on");
    reload_recipe_finish(&prepared);
    link_engine_destroy(worker.links);
    recipe_destroy(running);
}

Test(reload_recipe, what_is_given_up_is_taken_back, .init = set_up)
{
    const struct config_peer wanted = noise_of(1);
    const struct recipe running = {.has_noise = false};
    unsigned int changes = CONFIG_CHANGE_TRANSPORT;
    struct reload_recipe prepared = {0};
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &wanted, &running, WORKERS, &changes), 0);
    reload_recipe_finish(&prepared);
    cr_assert_null(prepared.recipe);
    cr_assert_null(prepared.engines);
}

Test(reload_recipe, nothing_to_do, .init = set_up)
{
    const struct config_peer wanted = noise_of(1);
    const struct recipe running = {.has_noise = true};
    struct tunnel_worker worker = {.recipe = &running};
    struct recipe *own = NULL;
    unsigned int changes = CONFIG_CHANGE_LIMITS;
    struct reload_recipe prepared = {0};
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &wanted, &running, WORKERS, &changes), 0);
    cr_assert_eq(changes, CONFIG_CHANGE_LIMITS);
    reload_recipe_commit(&prepared, &own);
    reload_recipe_apply(&prepared, &worker);
    cr_assert_null(own);
    cr_assert_eq(worker.recipe, &running);
    reload_recipe_finish(&prepared);
}

Test(reload_recipe, what_is_offered_is_used, .init = set_up)
{
    const struct config_peer first = noise_of(1), second = noise_of(2);
    struct recipe *running, *offered;
    unsigned int changes = CONFIG_CHANGE_TRANSPORT;
    char why[RECIPE_WHY_SIZE];
    cr_assert_eq(recipe_create(CONFIG_SERVER, &first, &running, why), 0);
    cr_assert_eq(recipe_create(CONFIG_SERVER, &second, &offered, why), 0);
    struct reload_recipe prepared = {.offered = offered};
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &second, running, WORKERS, &changes), 0);
    cr_assert_eq(prepared.recipe, offered);
    reload_recipe_commit(&prepared, &running);
    reload_recipe_finish(&prepared);
    cr_assert_eq(running, offered);
    cr_assert_eq(running->holders, 2);
    recipe_destroy(offered);
    cr_assert(running->has_noise, "it is held");
    recipe_destroy(running);
}

/* Another attempt with the same file is offered what runs. */
Test(reload_recipe, only_other_files_of_tls_count, .init = set_up)
{
    const struct config_peer wanted = noise_of(1);
    struct recipe *offered;
    unsigned int changes = 0;
    char why[RECIPE_WHY_SIZE];
    cr_assert_eq(recipe_create(CONFIG_SERVER, &wanted, &offered, why), 0);
    struct recipe running = {.tls_fingerprint = 1};
    offered->tls_fingerprint = 1;
    struct reload_recipe prepared = {.offered = offered};
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &wanted, &running, WORKERS, &changes), 0);
    cr_assert_null(prepared.recipe);
    running.tls_fingerprint = 2;
    cr_assert_eq(
        reload_recipe_prepare(&prepared, CONFIG_SERVER, &wanted, &running, WORKERS, &changes), 0);
    cr_assert_eq(prepared.recipe, offered);
    cr_assert_eq(changes, CONFIG_CHANGE_CERTIFICATES);
    reload_recipe_finish(&prepared);
    cr_assert_eq(offered->holders, 1);
    recipe_destroy(offered);
}
