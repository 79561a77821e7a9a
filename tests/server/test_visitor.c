#include <criterion/criterion.h>
#include <signal.h>

#include "fake_loop.h"
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
