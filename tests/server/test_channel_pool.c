/* The pool alone. Numbers stand for descriptors, and the test chooses the time. */
#include "server/channel_pool.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "testing.h"

#define MS(ms) ((uint64_t)(ms)*1000000u)

/* Not at a border of buckets or periods. */
static const uint64_t START = MS(LIMIT_POOL_HOLD_MS) * 10 + MS(50);

static struct channel_pool pool;
static struct pool_source source;
static struct pool_waiter waiters[LIMIT_VISITORS_WAITING + 1];

static void setup(void)
{
    cr_assert_eq(channel_pool_init(&pool), 0);
    pool_source_init(&source);
    for (size_t i = 0; i < ARRAY_SIZE(waiters); i++) {
        list_init(&waiters[i].node);
        waiters[i].visitor_id = i;
        waiters[i].waiting = waiters[i].matched = false;
    }
}

static void open_at(uint64_t now_ns)
{
    pool_notice notice;
    cr_assert_eq(channel_pool_open(&pool, &source, 0, now_ns, &notice), 0);
    cr_assert_eq(notice, 0, "it looks by itself");
}

/* Returns how many channels were parked. *ret: the oldest of them. */
static size_t close_source(int *ret)
{
    pool_notice notice;
    struct pool_channel channel;
    size_t count = 0;
    channel_pool_close(&pool, &source, START, &notice);
    while (pool_source_unpark(&source, &channel)) {
        if (count++ == 0)
            *ret = channel.transport.fd;
    }
    pool_source_finish(&source);
    return count;
}

static void teardown(void)
{
    int oldest;
    (void)close_source(&oldest);
    channel_pool_finish(&pool);
}

static enum pool_take take(size_t who, uint64_t now_ns, int *ret_fd)
{
    pool_notice notify;
    struct pool_channel channel = {.transport.fd = -1};
    enum pool_take result =
        channel_pool_take(&pool, &waiters[who], true, now_ns, &channel, &notify);
    if (result == POOL_TAKEN)
        *ret_fd = channel.transport.fd;
    return result;
}

/* Offers a channel. Returns the id of the visitor that gets it; -1: parked, -2: surplus. */
static int offer(int fd, uint64_t now_ns)
{
    struct pool_match match;
    struct pool_offer given = {.transport = {.fd = fd},
                               .source = source.handle,
                               .requested = true,
                               .may_park = true,
                               .now_ns = now_ns};
    switch (channel_pool_offer(&pool, &given, &match)) {
    case POOL_MATCHED:
        return (int)match.visitor_id;
    case POOL_SURPLUS:
        return -2;
    case POOL_PARKED:
        break;
    }
    return -1;
}

static uint32_t claim_all(void)
{
    return channel_pool_claim_requests(&pool, &source, LIMIT_POOL_MAX);
}

Test(channel_pool, closed_until_opened, .init = setup, .fini = teardown)
{
    int fd = -7;
    cr_assert_eq(take(0, START, &fd), POOL_CLOSED);
    cr_assert_eq(offer(1000, START), -2);
    open_at(START);
    cr_assert_eq(claim_all(), LIMIT_POOL_MIN);
    cr_assert_eq(claim_all(), 0);
    cr_assert_eq(offer(1000, START), -1);
    cr_assert_eq(offer(1001, START), -1);
    cr_assert_eq(take(0, START, &fd), POOL_TAKEN);
    cr_assert_eq(fd, 1000, "the oldest first");
    int oldest = -1;
    cr_assert_eq(close_source(&oldest), 1);
    cr_assert_eq(oldest, 1001);
    cr_assert_eq(take(0, START, &fd), POOL_CLOSED);
}

Test(channel_pool, waiters_are_served_in_order, .init = setup, .fini = teardown)
{
    int fd;
    open_at(START);
    for (size_t i = 0; i < 10; i++)
        cr_assert_eq(take(i, START, &fd), POOL_WAITING);
    cr_assert(channel_pool_leave(&pool, &waiters[3]));
    cr_assert_not(channel_pool_leave(&pool, &waiters[3]));
    for (int i = 0; i < 10; i++) {
        if (i != 3)
            cr_assert_eq(offer(2000 + i, START), i);
    }
    cr_assert_not(channel_pool_leave(&pool, &waiters[0]), "a channel is on its way to it");
    cr_assert_eq(offer(3000, START), -1);
}

Test(channel_pool, queue_and_parking_are_bounded, .init = setup, .fini = teardown)
{
    int fd;
    open_at(START);
    for (size_t i = 0; i < LIMIT_VISITORS_WAITING; i++)
        cr_assert_eq(take(i, START, &fd), POOL_WAITING);
    cr_assert_eq(take(LIMIT_VISITORS_WAITING, START, &fd), POOL_FULL);
    for (size_t i = 0; i < LIMIT_VISITORS_WAITING; i++)
        cr_assert_eq(offer(5000, START), (int)i);
    for (size_t i = 0; i < LIMIT_POOL_PARKED; i++)
        cr_assert_eq(offer(6000 + (int)i, START), -1);
    cr_assert_eq(offer(9999, START), -2);
}

Test(channel_pool, an_undone_match_is_first_again, .init = setup, .fini = teardown)
{
    int fd;
    struct pool_match match;
    open_at(START);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(take(i, START, &fd), POOL_WAITING);
    cr_assert_eq(channel_pool_offer(&pool,
                                    &(struct pool_offer){.transport = {.fd = 70},
                                                         .source = source.handle,
                                                         .requested = true,
                                                         .may_park = true,
                                                         .now_ns = START},
                                    &match),
                 POOL_MATCHED);
    cr_assert_eq(match.visitor_id, 0);
    cr_assert_not(channel_pool_has_parked(&pool), "visitors that wait keep their places");
    cr_assert(channel_pool_undo(&pool, &match, (struct transport){.fd = 70}, START));
    cr_assert(channel_pool_has_parked(&pool), "one that waits may take it");
    cr_assert_eq(offer(71, START), 0, "first in the queue again");
    cr_assert(channel_pool_leave(&pool, &waiters[1]));
    cr_assert_eq(take(1, START, &fd), POOL_TAKEN);
    cr_assert_eq(fd, 70);
    cr_assert_not(channel_pool_has_parked(&pool));
    cr_assert_eq(channel_pool_offer(&pool,
                                    &(struct pool_offer){.transport = {.fd = 72},
                                                         .source = source.handle,
                                                         .requested = true,
                                                         .may_park = true,
                                                         .now_ns = START},
                                    &match),
                 POOL_MATCHED);
    int oldest;
    (void)close_source(&oldest);
    cr_assert_not(channel_pool_undo(&pool, &match, (struct transport){.fd = 72}, START),
                  "closed: the caller's");
    cr_assert(channel_pool_leave(&pool, &waiters[2]));
}

static struct pool_match match_for(int fd)
{
    struct pool_match match;
    struct pool_offer given = {.transport = {.fd = fd},
                               .source = source.handle,
                               .requested = true,
                               .may_park = true,
                               .now_ns = START};
    cr_assert_eq(channel_pool_offer(&pool, &given, &match), POOL_MATCHED);
    return match;
}

/* A reload ends a lane and frees its waiter while a channel is on its way to the lane. */
Test(channel_pool, a_match_of_a_forgotten_lane, .init = setup, .fini = teardown)
{
    enum { IN_OLD = 2, IN_NEW = 3 };
    pool.for_lanes = true;
    open_at(START);
    for (size_t i = 0; i <= IN_NEW; i++)
        channel_pool_queue(&pool, &waiters[i]);
    struct pool_match matches[] = {match_for(70), match_for(71)};
    for (size_t i = 0; i < IN_OLD; i++) {
        channel_pool_forget(&pool, &waiters[i]);
        memset(&waiters[i], 0xdd, sizeof(waiters[i])); /* as if it were freed */
    }
    for (int i = 0; i < IN_OLD; i++) {
        cr_assert(channel_pool_undo(&pool, &matches[i], (struct transport){.fd = 70 + i}, START));
        for (size_t k = 0; k < sizeof(waiters[i]); k++)
            cr_assert_eq(((unsigned char *)&waiters[i])[k], 0xdd, "a freed waiter was written to");
    }
    cr_assert_eq(channel_pool_waiting(&pool), 2);
    struct pool_match later = match_for(72);
    cr_assert_eq(later.visitor_id, IN_OLD, "the lanes of the new binding");
    cr_assert(channel_pool_undo(&pool, &later, (struct transport){.fd = 72}, START));
    cr_assert_eq(offer(73, START), IN_OLD);
    channel_pool_forget(&pool, &waiters[IN_NEW]);
    cr_assert_eq(channel_pool_waiting(&pool), 0);
}

/* A new session queues all lanes, even a lane whose match is about to be undone. */
Test(channel_pool, an_undone_match_of_a_lane_that_waits_again, .init = setup, .fini = teardown)
{
    int fd;
    pool.for_lanes = true;
    open_at(START);
    channel_pool_queue(&pool, &waiters[0]);
    struct pool_match match = match_for(70);
    channel_pool_queue(&pool, &waiters[0]);
    channel_pool_queue(&pool, &waiters[1]);
    cr_assert(channel_pool_undo(&pool, &match, (struct transport){.fd = 70}, START));
    cr_assert_eq(channel_pool_waiting(&pool), 2, "once");
    cr_assert(channel_pool_leave(&pool, &waiters[0]));
    cr_assert_eq(take(0, START, &fd), POOL_TAKEN);
    cr_assert_eq(fd, 70);
    cr_assert_eq(offer(71, START), 1);
    cr_assert_eq(channel_pool_waiting(&pool), 0);
}

/* A login may come before a worker has started its lanes: the session has queued the lane, and its
 * channel is on its way when the lane starts and looks for one. */
Test(channel_pool, a_lane_whose_channel_is_coming_asks_for_no_other, .init = setup,
     .fini = teardown)
{
    int fd;
    pool.for_lanes = true;
    channel_pool_queue(&pool, &waiters[0]);
    open_at(START);
    cr_assert_eq(channel_pool_claim_requests(&pool, &source, 8), 1);
    cr_assert_eq(offer(70, START), 0);
    cr_assert_eq(take(0, START, &fd), POOL_WAITING);
    cr_assert_eq(channel_pool_waiting(&pool), 0);
    cr_assert_eq(channel_pool_claim_requests(&pool, &source, 8), 0);
    channel_pool_arrived(&pool, &waiters[0]);
    cr_assert_eq(take(0, START, &fd), POOL_WAITING, "the channel has ended");
    cr_assert_eq(channel_pool_claim_requests(&pool, &source, 8), 1);
    struct pool_match match = match_for(71);
    cr_assert(channel_pool_undo(&pool, &match, (struct transport){.fd = 71}, START));
    cr_assert(channel_pool_leave(&pool, &waiters[0]));
    cr_assert_eq(take(0, START, &fd), POOL_TAKEN, "a match that was undone is none");
    cr_assert_eq(fd, 71);
}

/* A burst makes the pool grow to the channels that it took, at most LIMIT_POOL_MAX. After
 * LIMIT_POOL_HOLD_MS the pool shrinks, by an eighth of the surplus at a time. */
Test(channel_pool, follows_the_demand, .init = setup, .fini = teardown)
{
    int fd;
    open_at(START);
    cr_assert_eq(channel_pool_target(&pool, START), LIMIT_POOL_MIN);
    for (size_t i = 0; i < 100; i++)
        cr_assert_eq(take(i, START + MS(i), &fd), POOL_WAITING);
    cr_assert_eq(channel_pool_target(&pool, START + MS(100)), 100);
    cr_assert_eq(claim_all(), 200, "one for each visitor, and as many for the next burst");
    for (size_t i = 100; i < 1000; i++)
        cr_assert_eq(take(i, START + MS(100), &fd), POOL_WAITING);
    cr_assert_eq(channel_pool_target(&pool, START + MS(100)), LIMIT_POOL_MAX);
    for (size_t i = 0; i < 1000; i++)
        cr_assert_eq(offer(5000, START + MS(200)), (int)i);
    for (int i = 0; i < LIMIT_POOL_MAX; i++)
        cr_assert_eq(offer(6000 + i, START + MS(200)), -1);
    struct transport fds[LIMIT_POOL_MAX];
    uint32_t lost;
    pool_notice notify;
    uint64_t now = START + MS(LIMIT_POOL_HOLD_MS) - MS(100);
    cr_assert_eq(channel_pool_tend(&pool, &source, now, fds, LIMIT_POOL_MAX, &lost, &notify), 0,
                 "remembered");
    now = START + MS(LIMIT_POOL_HOLD_MS) * 2;
    size_t closed = channel_pool_tend(&pool, &source, now, fds, LIMIT_POOL_MAX, &lost, &notify);
    cr_assert_eq(closed, (LIMIT_POOL_MAX - LIMIT_POOL_MIN + 7) / 8);
    cr_assert_eq(fds[0].fd, 6000, "the oldest go");
    for (int i = 0; i < 100; i++)
        closed += channel_pool_tend(&pool, &source, now, fds, LIMIT_POOL_MAX, &lost, &notify);
    cr_assert_eq(closed, LIMIT_POOL_MAX - LIMIT_POOL_MIN);
}

/* A worker looks at the clock once per turn, so its time may be a little behind another's. */
Test(channel_pool, a_worker_behind_does_not_erase_the_demand, .init = setup, .fini = teardown)
{
    int fd;
    open_at(START);
    uint64_t border = START + MS(LIMIT_POOL_HOLD_MS) - MS(50); /* of a bucket and of a period */
    for (size_t i = 0; i < 100; i++)
        cr_assert_eq(take(i, border - MS(1), &fd), POOL_WAITING);
    cr_assert_eq(take(100, border + MS(1), &fd), POOL_WAITING);
    cr_assert_eq(channel_pool_target(&pool, border + MS(1)), 101);
    cr_assert_eq(take(101, border - MS(1), &fd), POOL_WAITING);
    cr_expect_geq(channel_pool_target(&pool, border + MS(2)), 101, "the burst is forgotten");
}

Test(channel_pool, requests_age, .init = setup, .fini = teardown)
{
    struct transport fds[LIMIT_POOL_MAX];
    uint32_t lost;
    pool_notice notify;
    uint64_t period = MS(LIMIT_CHANNEL_REQUEST_MS);
    uint64_t start = START / period * period;
    open_at(start);
    cr_assert_eq(claim_all(), LIMIT_POOL_MIN);
    (void)channel_pool_tend(&pool, &source, start + period - 1, fds, LIMIT_POOL_MAX, &lost,
                            &notify);
    cr_assert(lost == 0 && !notify);
    (void)channel_pool_tend(&pool, &source, start + period, fds, LIMIT_POOL_MAX, &lost, &notify);
    cr_assert(lost == 0 && !notify);
    cr_assert_eq(offer(50, start + period), -1);
    (void)channel_pool_tend(&pool, &source, start + 2 * period, fds, LIMIT_POOL_MAX, &lost,
                            &notify);
    cr_assert_eq(lost, LIMIT_POOL_MIN - 1);
    cr_assert(notify);
    cr_assert_eq(claim_all(), LIMIT_POOL_MIN - 1, "lost requests are made again");
    (void)channel_pool_tend(&pool, &source, start + 9 * period, fds, LIMIT_POOL_MAX, &lost,
                            &notify);
    cr_assert_eq(lost, LIMIT_POOL_MIN - 1, "after a long sleep too");
}

/* The worker of the control channel is told once, and again only after it has claimed requests. */
Test(channel_pool, the_owner_is_told_once, .init = setup, .fini = teardown)
{
    struct pool_channel channel;
    pool_notice notify;
    open_at(START);
    cr_assert_eq(claim_all(), LIMIT_POOL_MIN);
    (void)channel_pool_take(&pool, &waiters[0], true, START, &channel, &notify);
    cr_assert(notify);
    (void)channel_pool_take(&pool, &waiters[1], true, START, &channel, &notify);
    cr_assert_not(notify);
    cr_assert_eq(channel_pool_claim_requests(&pool, &source, 1), 1);
    (void)channel_pool_take(&pool, &waiters[2], true, START, &channel, &notify);
    cr_assert(notify);
    cr_assert_eq(claim_all(), 2);
}

Test(channel_pool, finish_closes_what_is_parked)
{
    setup();
    size_t before = open_fd_count();
    open_at(START);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(offer(open("/dev/null", O_RDONLY | O_CLOEXEC), START), -1);
    cr_assert_eq(open_fd_count(), before + 20);
    channel_pool_finish(&pool);
    channel_pool_finish(&pool);
    cr_assert_eq(open_fd_count(), before);
}

/* While descriptors are scarce, a channel goes to a waiting visitor or is surplus, and the pool
 * wants no more channels than it has. */
Test(channel_pool, nothing_is_parked_without_descriptors, .init = setup, .fini = teardown)
{
    int fd;
    open_at(START);
    (void)claim_all();
    for (size_t i = 0; i < 20; i++)
        (void)take(i, START, &fd);
    cr_assert_geq(channel_pool_target(&pool, START), 20);
    struct pool_match match;
    struct pool_offer scarce = {.transport = {.fd = 90},
                                .source = source.handle,
                                .requested = true,
                                .may_park = false,
                                .now_ns = START};
    for (size_t i = 0; i < 20; i++)
        cr_assert_eq(channel_pool_offer(&pool, &scarce, &match), POOL_MATCHED);
    cr_assert_eq(channel_pool_offer(&pool, &scarce, &match), POOL_SURPLUS);
    cr_assert_eq(channel_pool_target(&pool, START), LIMIT_POOL_MIN);
}

static bool keeps_even(void *arg, const struct transport *channel)
{
    (*(unsigned int *)arg)++;
    return channel->fd % 2 == 0;
}

Test(channel_pool, a_review_keeps_order_and_times, .init = setup, .fini = teardown)
{
    struct transport dropped[LIMIT_POOL_PARKED];
    struct pool_channel channel;
    unsigned int looks = 0;
    pool_notice notify;
    open_at(START);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(offer(1000 + i, START + MS(i)), -1);
    cr_assert_eq(channel_pool_review(&pool, &source, keeps_even, &looks, dropped, 1), 1,
                 "the room counts");
    cr_assert_eq(channel_pool_review(&pool, &source, keeps_even, &looks, dropped + 1, 9), 1);
    cr_assert_eq(looks, 2 + 4);
    cr_assert(dropped[0].fd == 1001 && dropped[1].fd == 1003);
    for (int i = 0; i < 5; i += 2) {
        cr_assert_eq(channel_pool_take(&pool, &waiters[0], false, START, &channel, &notify),
                     POOL_TAKEN);
        cr_assert_eq(channel.transport.fd, i == 0 ? 1002 : i == 2 ? 1004 : 1000);
        cr_assert_eq(channel.parked_at_ns, START + MS(channel.transport.fd - 1000));
    }
}
