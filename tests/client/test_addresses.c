/* A name with several addresses, of the server and of the local service: which one is dialled, and
 * when the next. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "client_rig.h"
#include "net/recipe.h"

/* ---- the server's ---- */

Test(client, the_next_address_when_one_refuses)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    cr_assert_eq(asked_count, 1);
    answer_two(&rig, nobody(), rig.server_addr);
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    /* Data channels use the address of the control channel. The end of one is no reason to try
     * another address. */
    (void)close(channel);
    (void)close(control);
    side_settle(&rig.side, 6);
    cr_assert_eq(asked_count, 1);
    side_advance(&rig.side, 700);
    cr_assert_eq(asked_count, 2, "asks again");
    answer_two(&rig, nobody(), nobody());
    cr_assert_eq(asked_count, 2);
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 3, "none of them: it backs off");
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 4);
    /* The name server does not answer. */
    side_advance(&rig.side, LIMIT_LOGIN_MS + 10);
    cr_assert_null(asked_answered, "abandoned");
    rig_finish(&rig);
}

Test(client, a_refused_login_is_not_tried_elsewhere)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, rig.server_addr, rig.server_addr);
    int fd = accepted(&rig, rig.listener);
    cr_assert(hear_login(&rig, fd, 0));
    say_ack(&rig, fd, MESSAGE_ACK_AUTH_FAILED);
    cr_assert_eq(accepted(&rig, rig.listener), -1);
    (void)close(fd);
    rig_finish(&rig);
}

static struct addr v6_loopback(const struct addr *like)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    addr.v6.sin6_family = AF_INET6;
    addr.v6.sin6_addr = in6addr_loopback;
    addr.v6.sin6_port = htons(addr_port(like));
    return addr;
}

Test(client, a_server_address_without_an_answer_costs_a_moment)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, hole.addr, rig.server_addr);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS - 10);
    cr_assert_eq(accepted(&rig, rig.listener), -1, "too early");
    side_advance(&rig.side, 20);
    int control = logged_in(&rig);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0, "it was one login");
    int channel = parked(&rig, control);
    (void)close(channel);
    (void)close(control);
    side_settle(&rig.side, 6);
    side_advance(&rig.side, 700);
    cr_assert_eq(asked_count, 2);
    answer_two(&rig, hole.addr, rig.server_addr);
    control = accepted(&rig, rig.listener);
    cr_assert_geq(control, 0, "what worked comes first");
    cr_assert_eq(accepted(&rig, rig.listener), -1, "and once");
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, all_addresses_together_have_the_limit)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, hole.addr, hole.addr);
    for (unsigned int ms = 0; ms < LIMIT_CONNECT_MS - 100; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    for (unsigned int ms = 0; ms < 700; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    /* The client is stopped while an address is left to try. */
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 2);
    answer_two(&rig, hole.addr, hole.addr);
    fake_loop_advance_ms(rig.side.workers[0].loop, LIMIT_DIAL_FIRST_MS + 1);
    side_settle(&rig.side, 1);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, without_ipv6_the_other_addresses_are_tried)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){
                       .server_host = "server.test", .local_host = "local.test", .seed = 1});
    refuse_sockets(AF_INET6, EAFNOSUPPORT);
    answer_two(&rig, v6_loopback(&rig.server_addr), rig.server_addr);
    int control = logged_in(&rig);
    cr_assert_eq(refused_count, 1);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    for (unsigned int i = 0; i < 2; i++) {
        int channel = parked(&rig, control);
        say_start(channel);
        side_settle(&rig.side, 4);
        if (i == 0)
            answer_two(&rig, v6_loopback(&rig.local_addr), rig.local_addr);
        int local = accepted(&rig, rig.local);
        cr_assert_geq(local, 0);
        cr_assert_eq(refused_count, 2, "tried once, then what worked comes first");
        (void)close(local);
        (void)close(channel);
    }
    /* If all addresses are like that: one failure, then the back-off. */
    (void)close(control);
    side_settle(&rig.side, 6);
    side_advance(&rig.side, 700);
    answer_two(&rig, v6_loopback(&rig.server_addr), v6_loopback(&rig.local_addr));
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    cr_assert_eq(refused_count, 4);
    rig_finish(&rig);
}

/* No address can help against this error, so the next ones are not tried. */
Test(client, without_descriptors_the_other_addresses_are_not_tried)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    refuse_sockets(AF_INET, EMFILE);
    answer_two(&rig, rig.local_addr, rig.local_addr);
    cr_assert_eq(refused_count, 2); /* the second socket is for a reserved descriptor */
    cr_assert_eq(side_end_of(&rig.side, channel), -ECONNRESET);
    refuse_sockets(AF_UNSPEC, 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* ---- the local service's ---- */

Test(client, names_of_local_services)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 1);
    answer_two(&rig, nobody(), rig.local_addr);
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0);
    int second = parked(&rig, control);
    say_start(second);
    int local_too = accepted(&rig, rig.local);
    cr_assert_geq(local_too, 0);
    cr_assert_eq(asked_count, 1, "remembered");
    int third = parked(&rig, control);
    side_advance(&rig.side, 11000);
    say_start(third);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 2, "but not for ever");
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    cr_assert_eq(side_end_of(&rig.side, third), -ECONNRESET);
    int fds[] = {control, channel, local, second, local_too, third};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        (void)close(fds[i]);
    rig_finish(&rig);
}

static int visitor_of(struct rig *rig, int control)
{
    int channel = parked(rig, control);
    say_start(channel);
    side_settle(&rig->side, 4);
    return channel;
}

static void expect_local(struct rig *rig, int channel)
{
    int local = accepted(rig, rig->local);
    cr_assert_geq(local, 0);
    cr_assert_eq(accepted(rig, rig->local), -1, "once");
    (void)close(local);
    (void)close(channel);
}

Test(client, a_local_address_without_an_answer_costs_a_moment)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int first = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, rig.local_addr);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS - 10);
    cr_assert_eq(accepted(&rig, rig.local), -1, "too early");
    side_advance(&rig.side, 20);
    expect_local(&rig, first);
    expect_local(&rig, visitor_of(&rig, control)); /* the address that worked is first */
    side_advance(&rig.side, 11000);
    first = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, rig.local_addr); /* also after the next look-up */
    expect_local(&rig, first);
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, all_workers_know_which_local_address_works)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .workers = 2, .seed = 1});
    int control = logged_in(&rig);
    struct client_service *service = client_service_of(
        container_of(rig.client->services.entries.next, struct service_base, node));
    const struct resolver_answer both = {.count = 2, .addrs = {hole.addr, rig.local_addr}};
    for (unsigned int i = 0; i < 2; i++)
        client_local_take(&service->locals[i], &both, loop_now_ns(rig.side.workers[i].loop));
    int first = visitor_of(&rig, control);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS + 10);
    expect_local(&rig, first);
    for (unsigned int i = 0; i < 6; i++)
        expect_local(&rig, visitor_of(&rig, control));
    cr_assert(addr_equal(&service->locals[0].answer.addrs[0], &rig.local_addr));
    cr_assert(addr_equal(&service->locals[1].answer.addrs[0], &rig.local_addr));
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, the_end_between_two_local_addresses)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, hole.addr);
    for (unsigned int ms = 0; ms < LIMIT_CONNECT_MS - 100; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_end_of(&rig.side, channel), 0, "within the limit");
    for (unsigned int ms = 0; ms < 700; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_end_of(&rig.side, channel), -ECONNRESET, "of all together");
    (void)close(channel);
    channel = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, hole.addr);
    fake_loop_advance_ms(rig.side.workers[0].loop, LIMIT_DIAL_FIRST_MS + 1);
    side_settle(&rig.side, 1);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

/* The process was stopped during a look-up. */
Test(client, a_name_may_be_answered_after_a_stop)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 1);
    side_stop(&rig.side, 45000);
    answer(&(struct resolver_answer){.count = 1, .addrs = {rig.local_addr}});
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0);
    say(channel, "ping", 4);
    cr_assert(side_expect(&rig.side, local, "ping", 4));
    (void)close(control);
    (void)close(channel);
    (void)close(local);
    rig_finish(&rig);
}

/* ---- several servers, the first that answers ---- */

/* The client has two names, and the rig's listener is behind both. */
static void two_names(struct rig *rig)
{
    rig_init(rig, &(struct rig_options){.server_host = "one.test:1, two.test", .seed = 1});
    cr_assert_eq(asked_count, 1);
}

Test(client, the_next_name_when_a_look_up_or_a_connection_fails)
{
    struct rig rig;
    two_names(&rig);
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    cr_assert_eq(asked_count, 2, "at once");
    answer_two(&rig, nobody(), rig.server_addr);
    int control = logged_in(&rig);
    cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0, "it was one attempt");
    const struct recipe *recipe = rig.client->recipe;
    cr_expect_eq(client_servers_preferred(&rig.client->servers, 1), recipe->servers[1].id);
    int channel = parked(&rig, control);
    (void)close(channel);
    (void)close(control);
    side_settle(&rig.side, 6);
    side_advance(&rig.side, 700);
    cr_assert_eq(asked_count, 3);
    answer_two(&rig, nobody(), nobody()); /* the second name comes first now */
    side_settle(&rig.side, 6);
    cr_assert_eq(asked_count, 4, "then the other one");
    answer_two(&rig, nobody(), nobody());
    side_settle(&rig.side, 6);
    cr_assert_eq(asked_count, 4, "no second round: nothing has timed out");
    cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    rig_finish(&rig);
}

Test(client, names_are_tried_in_rounds)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    two_names(&rig);
    for (unsigned int round = 0; round < 3; round++) {
        for (unsigned int name = 0; name < 2; name++) {
            cr_assert_eq(asked_count, 2 * round + name + 1);
            answer_two(&rig, nobody(), hole.addr);
            side_advance(&rig.side, ((uint64_t)LIMIT_DIAL_FIRST_MS << round) - 10);
            cr_assert_eq(asked_count, 2 * round + name + 1, "its part of the time");
            side_advance(&rig.side, 20);
            side_settle(&rig.side, 4);
        }
    }
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    /* A name server that does not answer costs a second. */
    side_advance(&rig.side, LIMIT_SERVER_NAME_MS + 10);
    cr_assert_eq(asked_count, 8);
    answer_two(&rig, rig.server_addr, hole.addr);
    int control = logged_in(&rig);
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, a_login_that_fails_goes_on_with_the_next_name)
{
    struct rig rig;
    two_names(&rig);
    answer_two(&rig, rig.server_addr, nobody());
    int silent = accepted(&rig, rig.listener);
    cr_assert_geq(silent, 0);
    side_advance(&rig.side, LIMIT_LOGIN_MS + 10);
    side_settle(&rig.side, 4);
    (void)close(silent);
    cr_assert_eq(asked_count, 2, "at once, and no other address of the first");
    answer_two(&rig, rig.server_addr, nobody());
    int fd = accepted(&rig, rig.listener);
    cr_assert(hear_login(&rig, fd, 0));
    say_ack(&rig, fd, MESSAGE_ACK_AUTH_FAILED);
    (void)close(fd);
    side_settle(&rig.side, 4);
    cr_expect_eq(asked_count, 2, "a refusal is not of one server");
    cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 2);
    rig_finish(&rig);
}
