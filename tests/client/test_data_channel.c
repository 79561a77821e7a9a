#include <criterion/criterion.h>
#include <signal.h>

#include "data_channel_priv.h"

static struct client_worker worker;

static void make(struct data_channel *channel)
{
    list_init(&worker.channels);
    list_init(&worker.relaying);
    *channel = (struct data_channel){.worker = &worker, .state = CHANNEL_NEW};
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
