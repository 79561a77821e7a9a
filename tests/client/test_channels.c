/* Data channels of the client, from the server's request to the local service. */
#include "client/data_channel.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "client_rig.h"

/* An end of stream would look like an empty answer of the service. */
Test(client, without_the_local_service_the_visitor_is_reset)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    close_listener(&rig.local);
    for (int i = 0; i < 3; i++) {
        int channel = parked(&rig, control);
        say_start(channel);
        if (i > 0)
            say(channel, "request", 7);
        side_settle(&rig.side, 10);
        cr_expect_eq(side_end_of(&rig.side, channel), -ECONNRESET);
        (void)close(channel);
        side_settle(&rig.side, 3);
    }
    (void)close(control);
    rig_finish(&rig);
}

Test(client, bad_commands_reset_the_channel)
{
    static const uint8_t commands[][4] = {{1}, {3}, {0, 0, 0, 1}, {255, 255, 255, 255}};
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        int channel = parked(&rig, control);
        say(channel, commands[i], 4);
        cr_expect_eq(side_end_of(&rig.side, channel), -ECONNRESET);
        cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), i + 1);
        (void)close(channel);
    }
    cr_assert_eq(accepted(&rig, rig.local), -1);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, rathole_06s_command_is_a_stream_as_well)
{
    static const uint8_t socket_stream[4] = {2};
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say(channel, socket_stream, sizeof(socket_stream));
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0, "local_addr alone decides");
    (void)close(local);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, a_parked_channel_that_the_server_closes)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    size_t before = open_fd_count();
    for (int i = 0; i < 3; i++) {
        int channel = parked(&rig, control);
        if (i == 1)
            tcp_abort_on_close(channel);
        if (i == 2)
            say(channel, "\0", 2); /* half a command */
        (void)close(channel);
        side_settle(&rig.side, 6);
        cr_assert_eq(open_fd_count(), before);
    }
    cr_assert_eq(side_end_of(&rig.side, control), 0);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, the_end_of_the_session_resets_parked_channels_and_no_others)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        int channels[6];
        rig_init(&rig, &(struct rig_options){.workers = workers, .seed = 1});
        int control = logged_in(&rig);
        for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
            channels[i] = parked(&rig, control);
        say_start(channels[0]);
        int local = accepted(&rig, rig.local);
        (void)close(control);
        for (size_t i = 1; i < ARRAY_SIZE(channels); i++)
            cr_expect_eq(side_end_of(&rig.side, channels[i]), -ECONNRESET);
        say(local, "still", 5);
        cr_assert(side_expect(&rig.side, channels[0], "still", 5));
        (void)close(local);
        for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
            (void)close(channels[i]);
        rig_finish(&rig);
    }
}

Test(client, a_channel_is_dialled_for_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    struct addr addr = rig.server_addr;
    close_listener(&rig.listener);
    (void)setsockopt(control, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    ask_for(&rig, control, 1);
    for (int i = 0; i < 60; i++)
        side_advance(&rig.side, 100);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    rig.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)setsockopt(rig.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    cr_assert_eq(bind(rig.listener, &addr.any, addr.len), 0);
    cr_assert_eq(listen(rig.listener, 10), 0);
    side_advance(&rig.side, 200);
    int channel = accepted(&rig, rig.listener);
    cr_assert_geq(channel, 0);
    cr_assert(hear_channel(&rig, channel));
    close_listener(&rig.listener);
    ask_for(&rig, control, 1);
    for (int i = 0; i < 104; i++)
        side_advance(&rig.side, 100);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 1, "then no more");
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* A channel that waits for a descriptor counts as well. The server asks anew, and otherwise all
 * channels asked for since would dial as soon as descriptors are free. */
Test(client, a_channel_waits_for_a_descriptor_for_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    refuse_sockets(AF_INET, EMFILE);
    ask_for(&rig, control, 1);
    for (int i = 0; i < 98; i++)
        side_advance(&rig.side, 100);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    for (int i = 0; i < 6; i++)
        side_advance(&rig.side, 100);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 1);
    refuse_sockets(AF_UNSPEC, 0);
    side_advance(&rig.side, 1000);
    cr_expect_eq(accepted(&rig, rig.listener), -1, "it is given up");
    ask_for(&rig, control, 1);
    int channel = accepted(&rig, rig.listener);
    cr_expect_geq(channel, 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* A process that was stopped has not tried for that long. */
Test(client, a_channel_is_dialled_after_a_stop)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    close_listener(&rig.listener);
    (void)setsockopt(control, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    ask_for(&rig, control, 1);
    side_advance(&rig.side, 300);
    rig.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)setsockopt(rig.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    cr_assert_eq(bind(rig.listener, &rig.server_addr.any, rig.server_addr.len), 0);
    cr_assert_eq(listen(rig.listener, 10), 0);
    side_stop(&rig.side, 45000);
    int channel = accepted(&rig, rig.listener);
    cr_assert_geq(channel, 0);
    cr_assert(hear_channel(&rig, channel));
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, a_flood_of_requests_is_bounded)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, &(struct rig_options){.workers = workers, .seed = 1});
        int control = logged_in(&rig);
        /* Each attempt is refused, and the channel waits for its next one. */
        close_listener(&rig.listener);
        size_t before = open_fd_count();
        for (int i = 0; i < 60; i++)
            ask_for(&rig, control, 50);
        side_settle(&rig.side, 20);
        cr_assert_leq(open_fd_count(), before + LIMIT_CLIENT_CHANNELS_PENDING);
        size_t channels = 0;
        for (unsigned int i = 0; i < workers; i++) {
            struct client_worker *worker = rig.side.workers[i].role;
            list_for_each (node, &worker->channels)
                channels++;
        }
        cr_assert_eq(channels, LIMIT_CLIENT_CHANNELS_PENDING);
        cr_assert_eq(side_end_of(&rig.side, control), 0);
        (void)close(control);
        rig_finish(&rig);
    }
}
