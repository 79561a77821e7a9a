#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/limits.h"
#include "proto/message.h"
#include "server/server.h"
#include "server/service.h"
#include "side.h"
#include "visitor_priv.h"

static struct server server;
static struct tunnel_worker tunnel;
static struct server_worker worker;
static const struct config_service named = {.name = (char *)"s"};
static struct service service = {.entry.config = &named};

static void nothing(struct timer *timer)
{
}

static struct visitor *make(void)
{
    const struct loop_options options = {.metrics = &tunnel.metrics};
    cr_assert_eq(loop_create(&options, &tunnel.loop), 0);
    worker = (struct server_worker){.server = &server, .tunnel = &tunnel};
    atomic_store(&server.waiting_visitors, 0);
    list_init(&worker.waiting_visitors);
    list_init(&worker.relaying_visitors);
    visitor_init_slab(&worker.visitor_slab);
    struct visitor *visitor = visitor_new(&worker, &service);
    cr_assert_not_null(visitor);
    timer_init(&visitor->wait_timer, nothing);
    return visitor;
}

static void finish(struct visitor *visitor)
{
    visitor_forget(visitor);
    cr_assert(list_is_empty(&worker.waiting_visitors));
    cr_assert(list_is_empty(&worker.relaying_visitors));
    slab_finish(&worker.visitor_slab);
    loop_destroy(tunnel.loop);
}

static unsigned int waiting(void)
{
    return atomic_load(&server.waiting_visitors);
}

Test(visitor, its_list_changes_with_its_state)
{
    struct visitor *visitor = make();
    cr_assert(list_is_empty(&visitor->node), "a new one is in no list");
    visitor_set_state(visitor, VISITOR_WAITING);
    cr_assert_eq(worker.waiting_visitors.next, &visitor->node);
    visitor_set_state(visitor, VISITOR_SEEKING);
    cr_assert(list_is_empty(&visitor->node) && list_is_empty(&worker.waiting_visitors));
    visitor_set_state(visitor, VISITOR_RELAYING);
    cr_assert_eq(worker.relaying_visitors.next, &visitor->node);
    visitor_set_state(visitor, VISITOR_RELAYING); /* as after a move that found a full mailbox */
    cr_assert_eq(worker.relaying_visitors.next, &visitor->node);
    cr_assert(list_is_empty(&worker.waiting_visitors));
    finish(visitor);
}

Test(visitor, one_that_has_gone_stays_where_the_end_of_the_worker_looks)
{
    struct visitor *visitor = make();
    visitor_set_state(visitor, VISITOR_WAITING);
    visitor_set_state(visitor, VISITOR_GONE);
    cr_assert_eq(worker.waiting_visitors.next, &visitor->node);
    finish(visitor);
}

Test(visitor, who_ceases_to_wait_has_no_timer_and_is_not_counted)
{
    static const enum visitor_state next[] = {VISITOR_SEEKING, VISITOR_GONE};
    for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
        struct visitor *visitor = make();
        visitor_set_state(visitor, VISITOR_WAITING);
        loop_deadline_start(tunnel.loop, &visitor->wait_timer, 1000);
        cr_assert_eq(waiting(), 1);
        visitor_set_state(visitor, next[i]);
        cr_assert_eq(waiting(), 0);
        cr_assert_not(visitor->wait_timer.armed);
        finish(visitor);
    }
}

Test(visitor, one_that_has_gone_gets_no_relay, .signal = SIGABRT)
{
    struct visitor *visitor = make();
    visitor_set_state(visitor, VISITOR_WAITING);
    visitor_set_state(visitor, VISITOR_GONE);
    visitor_set_state(visitor, VISITOR_RELAYING);
}

Test(visitor, one_that_relays_does_not_wait_again, .signal = SIGABRT)
{
    struct visitor *visitor = make();
    visitor_set_state(visitor, VISITOR_RELAYING);
    visitor_set_state(visitor, VISITOR_WAITING);
}

/* ---- those who have sent nothing but their end of stream, on a whole server ---- */

enum { MANY = LIMIT_VISITORS_CROWD + 6, FEW = 5 };

static struct {
    struct config *config;
    struct server *server;
    struct side side;
    struct addr control_addr, tcp_addr;
    char unix_path[40];
    uint8_t key[KEYS_DIGEST_SIZE];
    int control;
    int visitors[MANY], channels[MANY];
} crowd;

/* A server with one service, at a TCP port or at a unix socket, and its client's session. */
static void serve(bool is_local)
{
    char text[300], address[60];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    crowd.control_addr = tcp_loopback(free_port());
    crowd.tcp_addr = tcp_loopback(free_port());
    (void)snprintf(crowd.unix_path, sizeof(crowd.unix_path), "/tmp/visitor-%d", (int)getpid());
    if (is_local)
        (void)snprintf(address, sizeof(address), "unix:%s", crowd.unix_path);
    else
        (void)snprintf(address, sizeof(address), "127.0.0.1:%u", addr_port(&crowd.tcp_addr));
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = t\n"
                   "[server.services.s]\nbind_addr = \"%s\"\n",
                   addr_port(&crowd.control_addr), address);
    crowd.config = side_config(text);
    cr_assert_eq(side_init(&crowd.side, 1), 0);
    cr_assert_eq(server_create(&crowd.config->server, 1, NULL, &crowd.server), 0);
    cr_assert_eq(side_start(&crowd.side, &server_role, crowd.server), 0);
    crowd.control = tcp_dial(&crowd.control_addr);
    cr_assert_eq(side_log_in(&crowd.side, crowd.control, "s", "t", crowd.key), MESSAGE_ACK_OK);
    side_settle(&crowd.side, 4);
}

static int visit(bool is_local)
{
    if (!is_local)
        return tcp_dial(&crowd.tcp_addr);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", crowd.unix_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static uint64_t refused(void)
{
    struct service *of = side_first_service(crowd.server);
    uint64_t counted = side_metric(&crowd.side, METRIC_VISITORS_REFUSED_QUEUE);
    cr_assert_eq(atomic_load(&service_worker_stats(of, 0)->reasons[VISITOR_REFUSED_QUEUE]),
                 counted);
    return counted;
}

static void stop_serving(void)
{
    (void)close(crowd.control);
    side_settle(&crowd.side, 10);
    side_finish(&crowd.side);
    server_destroy(crowd.server);
    config_destroy(crowd.config);
    (void)unlink(crowd.unix_path);
}

/* So many visitors end their half at once, and as many channels come after a while. Returns how many
 * got one; the others were reset. */
static unsigned int serve_after(bool is_local, unsigned int count, uint64_t waited_ms)
{
    unsigned int served = 0;
    serve(is_local);
    for (unsigned int i = 0; i < count; i++) {
        crowd.visitors[i] = visit(is_local);
        (void)shutdown(crowd.visitors[i], SHUT_WR);
    }
    side_settle(&crowd.side, (int)count + 10);
    side_advance(&crowd.side, waited_ms);
    cr_assert_eq(atomic_load(&crowd.server->waiting_visitors), count);
    for (unsigned int i = 0; i < count; i++) {
        uint8_t hello[MESSAGE_HELLO_SIZE];
        crowd.channels[i] = tcp_dial(&crowd.control_addr);
        message_hello_encode(MESSAGE_HELLO_DATA, crowd.key, hello);
        say(crowd.channels[i], hello, sizeof(hello));
        side_settle(&crowd.side, 8);
    }
    for (unsigned int i = 0; i < count; i++) {
        int end = side_end_of(&crowd.side, crowd.visitors[i]);
        cr_assert(end == 0 || end == -ECONNRESET, "visitor %u: %d is no reset", i, end);
        served += end == 0 ? 1 : 0;
    }
    cr_assert_eq(served + refused(), count);
    cr_assert_eq(side_metric(&crowd.side, METRIC_VISITORS_ACCEPTED), count);
    for (unsigned int i = 0; i < count; i++) {
        (void)close(crowd.visitors[i]);
        (void)close(crowd.channels[i]);
    }
    stop_serving();
    return served;
}

Test(visitor, who_ends_its_half_is_reset_in_a_crowd_that_has_waited)
{
    /* Down to LIMIT_VISITORS_CROWD: those are served. A refused one leaves its channel to the next. */
    cr_assert_eq(serve_after(false, MANY, LIMIT_VISITORS_CROWD_MS + 100), LIMIT_VISITORS_CROWD + 1);
}

Test(visitor, who_ends_its_half_is_served_in_a_burst)
{
    cr_assert_eq(serve_after(false, MANY, LIMIT_VISITORS_CROWD_MS / 2), MANY);
}

Test(visitor, who_ends_its_half_is_served_among_few)
{
    cr_assert_eq(serve_after(false, FEW, LIMIT_VISITORS_CROWD_MS + 100), FEW);
}

Test(visitor, who_ends_its_half_is_served_at_a_unix_socket)
{
    cr_assert_eq(serve_after(true, MANY, LIMIT_VISITORS_CROWD_MS + 100), MANY);
}

/* One that has sent nothing yet: a plain close would be an end of stream, which looks like an empty
 * answer. (With bytes that nobody has read the kernel resets in any case.) */
Test(visitor, who_waits_when_the_session_ends_is_reset)
{
    serve(false);
    int silent = visit(false), asking = visit(false);
    say(asking, "?", 1);
    side_settle(&crowd.side, 10);
    cr_assert_eq(atomic_load(&crowd.server->waiting_visitors), 2);
    (void)shutdown(crowd.control, SHUT_WR);
    side_settle(&crowd.side, 20);
    cr_expect_eq(atomic_load(&crowd.server->waiting_visitors), 0);
    cr_expect_eq(side_end_of(&crowd.side, silent), -ECONNRESET);
    cr_expect_eq(side_end_of(&crowd.side, asking), -ECONNRESET);
    (void)close(silent);
    (void)close(asking);
    stop_serving();
}
