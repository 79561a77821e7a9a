/* The client behind a proxy that the test plays: logins, data channels, and a proxy that refuses or
 * says nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/client_worker.h"
#include "client/session.h"
#include "client_rig.h"
#include "data_channel_priv.h"
#include "net/recipe.h"

static const char opened[] = "HTTP/1.1 200 OK\r\n\r\n";
static const char refused[] = "HTTP/1.1 503 x\r\n\r\n";

/* The server has a name that means nothing here. */
static void proxied_rig_init(struct rig *rig)
{
    rig_init(rig, &(struct rig_options){
                      .seed = 1, .server_host = "server.example", .proxy = "http://me:secret@"});
}

/* Accepts the next connection to the proxy, and its request. -1: there is none. */
static int requested(struct rig *rig)
{
    char request[200];
    int size = snprintf(request, sizeof(request),
                        "CONNECT server.example:%u HTTP/1.1\r\nHost: server.example:%u\r\n"
                        "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n",
                        addr_port(&rig->server_addr), addr_port(&rig->server_addr));
    int fd = accepted(rig, rig->listener);
    if (fd >= 0)
        cr_assert(side_expect(&rig->side, fd, request, (size_t)size));
    return fd;
}

static int tunnelled(struct rig *rig)
{
    int fd = requested(rig);
    cr_assert_geq(fd, 0);
    say(fd, opened, sizeof(opened) - 1);
    return fd;
}

static int logged_in_through(struct rig *rig)
{
    int fd = tunnelled(rig);
    cr_assert(hear_login(rig, fd, 0));
    say_ack(rig, fd, MESSAGE_ACK_OK);
    cr_assert_eq(side_metric(&rig->side, METRIC_LOGINS), 1);
    return fd;
}

/* Lets up to `ms` pass until the next request to the proxy. */
static int requested_within(struct rig *rig, uint64_t ms)
{
    int fd = requested(rig);
    for (uint64_t passed = 0; fd < 0 && passed < ms; passed += 100) {
        side_advance(&rig->side, 100);
        fd = requested(rig);
    }
    return fd;
}

Test(client_proxy, all_goes_through_it)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int control = logged_in_through(&rig);
    for (unsigned int i = 1; i <= 3; i++) {
        ask_for(&rig, control, 1);
        int channel = tunnelled(&rig);
        cr_assert(hear_channel(&rig, channel));
        say_start(channel);
        int local = accepted(&rig, rig.local);
        cr_assert_geq(local, 0);
        say(channel, "question", 8);
        cr_assert(side_expect(&rig.side, local, "question", 8));
        say(local, "answer", 6);
        cr_assert(side_expect(&rig.side, channel, "answer", 6));
        cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS), i);
        (void)close(local);
        (void)close(channel);
    }
    cr_expect_eq(asked_count, 0, "the proxy looks the name up");
    (void)close(control);
    rig_finish(&rig);
}

Test(client_proxy, nothing_is_said_before_its_answer)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int fd = requested(&rig);
    char byte;
    int end;
    cr_assert_geq(fd, 0);
    for (size_t i = 0; i < sizeof(opened) - 1; i++) {
        cr_assert_eq(side_read(&rig.side, fd, &byte, 1, &end), 0);
        say(fd, &opened[i], 1);
    }
    cr_assert(hear_login(&rig, fd, 0));
    (void)close(fd);
    rig_finish(&rig);
}

Test(client_proxy, a_refused_login_is_tried_again)
{
    struct rig rig;
    proxied_rig_init(&rig);
    for (unsigned int i = 1; i <= 3; i++) {
        int fd = requested_within(&rig, 2000);
        cr_assert_geq(fd, 0);
        say(fd, refused, sizeof(refused) - 1);
        cr_expect_eq(side_end_of(&rig.side, fd), -ECONNRESET);
        cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), i);
        (void)close(fd);
    }
    cr_assert_eq(requested(&rig), -1, "not at once");
    int fd = requested_within(&rig, 2000);
    say(fd, opened, sizeof(opened) - 1);
    cr_assert(hear_login(&rig, fd, 0));
    (void)close(fd);
    rig_finish(&rig);
}

/* As if the server itself could not be connected to: the server need not ask again. */
Test(client_proxy, a_refused_channel_is_tried_again)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int control = logged_in_through(&rig);
    ask_for(&rig, control, 1);
    for (int i = 0; i < 3; i++) {
        int fd = requested_within(&rig, 1000);
        cr_assert_geq(fd, 0);
        if (i < 2)
            say(fd, refused, i == 0 ? sizeof(refused) - 1 : 4); /* whole, or the proxy goes away */
        (void)close(fd);
        side_settle(&rig.side, 6);
    }
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    int channel = requested_within(&rig, 1000);
    say(channel, opened, sizeof(opened) - 1);
    cr_assert(hear_channel(&rig, channel));
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS), 1);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

Test(client_proxy, a_channel_is_tried_for_ten_seconds)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int control = logged_in_through(&rig);
    unsigned int tries = 0;
    ask_for(&rig, control, 1);
    for (unsigned int ms = 0; ms < 12000; ms += 100) {
        int fd = requested_within(&rig, 0);
        if (fd >= 0) {
            tries++;
            say(fd, refused, sizeof(refused) - 1);
            cr_assert_eq(side_end_of(&rig.side, fd), -ECONNRESET);
            (void)close(fd);
        }
        side_advance(&rig.side, 100);
    }
    cr_expect_gt(tries, 20);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 1);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS), 0);
    cr_expect_eq(side_end_of(&rig.side, control), 0, "the session goes on");
    (void)close(control);
    rig_finish(&rig);
}

Test(client_proxy, a_silent_proxy_has_connect_timeout)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int fd = requested(&rig);
    side_advance(&rig.side, LIMIT_CONNECT_MS - 100);
    say(fd, opened, sizeof(opened) - 2);
    cr_expect_eq(side_end_of(&rig.side, fd), 0);
    side_advance(&rig.side, 300);
    cr_expect_eq(side_end_of(&rig.side, fd), -ECONNRESET);
    cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    (void)close(fd);

    fd = requested_within(&rig, 2000);
    say(fd, opened, sizeof(opened) - 1);
    cr_assert(hear_login(&rig, fd, 0));
    say_ack(&rig, fd, MESSAGE_ACK_OK);
    ask_for(&rig, fd, 1);
    int channel = requested(&rig);
    cr_assert_geq(channel, 0);
    side_advance(&rig.side, LIMIT_CONNECT_MS + 200);
    cr_expect_eq(side_end_of(&rig.side, channel), -ECONNRESET);
    (void)close(channel);
    (void)close(fd);
    rig_finish(&rig);
}

/* Behind a quick proxy the login has its own time. */
Test(client_proxy, a_slow_server_behind_it)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int fd = tunnelled(&rig);
    uint8_t hello[MESSAGE_HELLO_SIZE];
    int end;
    cr_assert_eq(side_read(&rig.side, fd, hello, sizeof(hello), &end), sizeof(hello));
    side_advance(&rig.side, LIMIT_CONNECT_MS + 200);
    cr_expect_eq(side_end_of(&rig.side, fd), 0);
    side_advance(&rig.side, LIMIT_LOGIN_MS - 400);
    cr_expect_eq(side_end_of(&rig.side, fd), 0);
    side_advance(&rig.side, 600);
    cr_expect_eq(side_end_of(&rig.side, fd), -ECONNRESET);
    (void)close(fd);
    rig_finish(&rig);
}

/* In a reload, a worker that has the new recipe dials nothing for a session that has the old one:
 * the password of one proxy must not reach the other. */
Test(client_proxy, a_session_of_another_proxy)
{
    struct rig rig;
    proxied_rig_init(&rig);
    int control = logged_in_through(&rig);
    rig.client->recipe->servers[0].id ^= 2;
    ask_for(&rig, control, 1);
    cr_assert_eq(requested_within(&rig, 3000), -1);
    rig.client->recipe->servers[0].id ^= 2;
    int channel = requested_within(&rig, 1000);
    say(channel, opened, sizeof(opened) - 1);
    cr_assert(hear_channel(&rig, channel));
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* In each step of the dialogue the process ends, or the session. */
Test(client_proxy, an_end_at_any_step)
{
    for (size_t size = 0; size < sizeof(opened); size += 3) {
        struct rig rig;
        proxied_rig_init(&rig);
        int control = logged_in_through(&rig);
        ask_for(&rig, control, 2);
        int channels[2] = {requested(&rig), requested(&rig)};
        for (size_t i = 0; i < 2; i++) {
            cr_assert_geq(channels[i], 0);
            say(channels[i], opened, size);
        }
        side_settle(&rig.side, 3);
        if (size % 2 == 0) {
            (void)close(control);
            for (size_t i = 0; i < 2; i++)
                cr_expect_eq(side_end_of(&rig.side, channels[i]), -ECONNRESET);
        }
        for (size_t i = 0; i < 2; i++)
            (void)close(channels[i]);
        if (size % 2 != 0)
            (void)close(control);
        rig_finish(&rig);
    }
}

/* The session ends while a part of the proxy's answer waits to be read: it is no command, and the
 * channel is not kept. */
Test(client_proxy, an_unread_answer_is_no_command)
{
    for (unsigned int seed = 1; seed <= 8; seed++) {
        struct rig rig;
        rig_init(&rig, &(struct rig_options){.seed = seed,
                                             .server_host = "server.example",
                                             .proxy = "http://me:secret@"});
        int control = logged_in_through(&rig);
        ask_for(&rig, control, 1);
        int channel = requested(&rig);
        cr_assert_geq(channel, 0);
        say(channel, opened, 10);
        struct client_worker *worker = rig.side.workers[0].role;
        struct data_channel *parked =
            container_of(worker->channels.next, struct data_channel, node);
        cr_assert_eq(parked->state, CHANNEL_PARKED);
        atomic_store(&parked->session->ended, true);
        data_channel_close_ended(worker);
        cr_expect_eq(side_end_of(&rig.side, channel), -ECONNRESET, "seed %u", seed);
        (void)close(channel);
        (void)close(control);
        rig_finish(&rig);
    }
}
