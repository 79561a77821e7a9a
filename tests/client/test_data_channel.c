#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "data_channel_priv.h"
#include "net/recipe.h"
#include "side.h"

static struct client_worker worker;
static const struct config_service named = {.name = (char *)"s"};
static struct client_service service = {.entry.config = &named};

static void make(struct data_channel *channel)
{
    list_init(&worker.channels);
    list_init(&worker.relaying);
    *channel = (struct data_channel){.worker = &worker, .service = &service, .state = CHANNEL_NEW};
    list_init(&channel->node);
}

Test(data_channel, its_list_changes_with_its_state)
{
    static const enum channel_state before_relay[] = {CHANNEL_DIALING, CHANNEL_PARKED,
                                                      CHANNEL_LOCAL};
    struct data_channel channel;
    make(&channel);
    for (size_t i = 0; i < ARRAY_SIZE(before_relay); i++) {
        data_channel_set_state(&channel, before_relay[i]);
        cr_assert_eq(worker.channels.next, &channel.node);
    }
    data_channel_set_state(&channel, CHANNEL_RELAYING);
    cr_assert(list_is_empty(&worker.channels));
    cr_assert_eq(worker.relaying.next, &channel.node);
}

Test(data_channel, one_from_another_worker_relays_at_once)
{
    struct data_channel channel;
    make(&channel);
    data_channel_set_state(&channel, CHANNEL_RELAYING);
    cr_assert_eq(worker.relaying.next, &channel.node);
}

Test(data_channel, one_that_closes_is_not_parked, .signal = SIGABRT)
{
    struct data_channel channel;
    make(&channel);
    data_channel_set_state(&channel, CHANNEL_DIALING);
    data_channel_set_state(&channel, CHANNEL_CLOSING);
    data_channel_set_state(&channel, CHANNEL_PARKED);
}

Test(data_channel, no_relay_without_a_local_service, .signal = SIGABRT)
{
    struct data_channel channel;
    make(&channel);
    data_channel_set_state(&channel, CHANNEL_DIALING);
    data_channel_set_state(&channel, CHANNEL_PARKED);
    data_channel_set_state(&channel, CHANNEL_RELAYING);
}

/* ---- what one channel finds out for all ---- */

static struct side side;
static struct client *client;
static int listener;
static struct client_session *good, *bad;

/* Sessions of two services: one with a server, one with an address that no socket can be made for.
 * Time stands still. */
static void start(void)
{
    static const uint8_t key[KEYS_DIGEST_SIZE];
    static const char text[] = "[client]\nremote_addr = 127.0.0.1:9\ndefault_token = t\n"
                               "[client.services.a]\nlocal_addr = 127.0.0.1:9\n"
                               "[client.services.b]\nlocal_addr = 127.0.0.1:9\n";
    struct addr server, unknown = {.any.sa_family = AF_MAX};
    struct client_service *services[2] = {NULL, NULL};
    size_t count = 0;
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    listener = tcp_listener(&server);
    cr_assert_eq(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    struct config *config = side_config(text);
    cr_assert_eq(side_init(&side, 1), 0);
    side_set_idle_step_ms(&side, 0);
    cr_assert_eq(client_create(&config->client, 1, &client), 0);
    config_destroy(config);
    handover_set_phase(&client->handover, HANDOVER_AWAITED); /* so that no control channel begins */
    cr_assert_eq(side_start(&side, &client_role, client), 0);
    list_for_each (node, &client->services.entries)
        services[count++] = client_service_of(container_of(node, struct service_base, node));
    uint64_t id = client->recipe->servers[0].id;
    bad = client_session_create(services[0], id, &unknown, key);
    good = client_session_create(services[1], id, &server, key);
    cr_assert(bad != NULL && good != NULL);
}

static void finish(void)
{
    client_session_drop(bad);
    client_session_drop(good);
    (void)close(listener);
    side_finish(&side);
    client_destroy(client);
}

/* Counts the connections that have reached the server. */
static int come(void)
{
    int count = 0, fd;
    side_settle(&side, 4);
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        (void)close(fd);
        count++;
    }
    return count;
}

Test(data_channel, an_address_that_is_no_good_holds_up_its_own_session_alone, .init = start,
     .fini = finish)
{
    struct client_worker *own = side.workers[0].role;
    data_channel_open(own, bad);
    cr_assert_eq(come(), 0);
    data_channel_open(own, good);
    cr_assert_eq(come(), 1, "at once");
}

Test(data_channel, one_without_a_descriptor_finds_out_for_all, .init = start, .fini = finish)
{
    struct client_worker *own = side.workers[0].role;
    struct rlimit old, none;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    data_channel_open(own, good);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    data_channel_open(own, good);
    cr_assert_eq(come(), 0, "not for a moment");
    side_advance(&side, 200);
    cr_assert_eq(come(), 2);
}

static void open_good(struct timer *timer)
{
    (void)timer;
    data_channel_open(side.workers[0].role, good);
}

/* Its server would never answer, so nothing else ends it but the time. */
Test(data_channel, one_whose_hello_cannot_be_sent_ends_at_once, .init = start, .fini = finish)
{
    static const struct fake_faults none, no_memory = {.enomem = 1000};
    const struct client_worker *own = side.workers[0].role;
    struct timer timer; /* the faults are those of a turn */
    timer_init(&timer, open_good);
    side_set_faults(&side, &no_memory);
    loop_timer_start(side.workers[0].loop, &timer, 1);
    side_advance(&side, 1);
    cr_expect_eq(fake_loop_deadly_count(side.workers[0].loop), 1);
    cr_expect(list_is_empty(&own->channels));
    cr_expect_eq(side_metric(&side, METRIC_DATA_CHANNELS_FAILED), 1);
    side_set_faults(&side, &none);
    loop_timer_start(side.workers[0].loop, &timer, 1);
    side_advance(&side, 1);
    cr_expect_eq(come(), 1);
    cr_expect_eq(side_metric(&side, METRIC_DATA_CHANNELS), 1);
}
