/* A pool with several sources. Numbers stand for descriptors: a hundred of them for each source. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "server/channel_pool.h"

#define MS(ms) ((uint64_t)(ms)*1000000u)

/* Not at a border of periods. */
static const uint64_t START = MS(LIMIT_POOL_HOLD_MS) * 10 + MS(50);

static struct channel_pool pool;
static struct pool_source sources[LIMIT_SESSIONS + 1];
static struct pool_waiter waiters[64];

static void setup(void)
{
    cr_assert_eq(channel_pool_init(&pool), 0);
    for (size_t i = 0; i < ARRAY_SIZE(waiters); i++) {
        waiters[i] = (struct pool_waiter){.visitor_id = i};
        list_init(&waiters[i].node);
    }
    for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
        pool_source_init(&sources[i]);
}

static pool_notice open_source(size_t i)
{
    pool_notice notice;
    cr_assert_eq(channel_pool_open(&pool, &sources[i], (unsigned int)i, START, &notice), 0);
    return notice;
}

static pool_notice close_source(size_t i)
{
    struct pool_channel channel;
    pool_notice notice;
    channel_pool_close(&pool, &sources[i], START, &notice);
    while (pool_source_unpark(&sources[i], &channel))
        continue;
    pool_source_finish(&sources[i]);
    return notice;
}

static void teardown(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
        (void)close_source(i);
    channel_pool_finish(&pool);
}

static uint32_t claim(size_t i)
{
    return channel_pool_claim_requests(&pool, &sources[i], LIMIT_POOL_MAX);
}

/* A channel of the source comes. Returns the id of the visitor that gets it; -1: parked, -2:
 * surplus. */
static int offer(struct pool_handle source, int fd, bool requested)
{
    struct pool_match match;
    struct pool_offer given = {.transport = {.fd = fd},
                               .source = source,
                               .requested = requested,
                               .may_park = true,
                               .now_ns = START};
    switch (channel_pool_offer(&pool, &given, &match)) {
    case POOL_MATCHED:
        cr_assert_eq(match.source.index, source.index);
        return (int)match.visitor_id;
    case POOL_SURPLUS:
        return -2;
    case POOL_PARKED:
        break;
    }
    return -1;
}

static void park(size_t i, int count)
{
    for (int k = 0; k < count; k++)
        cr_assert_eq(offer(sources[i].handle, 100 * (int)i + k, true), -1);
}

/* A visitor takes a channel. Returns its source's number; -1: it waits. *ret: the source. */
static int take(size_t who, struct pool_handle *ret)
{
    struct pool_channel channel = {.transport.fd = -1};
    pool_notice notice;
    enum pool_take result =
        channel_pool_take(&pool, &waiters[who], false, START, &channel, &notice);
    if (result == POOL_WAITING)
        return -1;
    cr_assert_eq(result, POOL_TAKEN);
    if (ret != NULL)
        *ret = channel.source;
    return channel.transport.fd / 100;
}

Test(pool_sources, fewest_open_visitors_first, .init = setup, .fini = teardown)
{
    struct pool_handle handles[8];
    open_source(0);
    open_source(1);
    park(0, 10);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(take(i, &handles[i]), 0, "it alone has channels");
    park(1, 8);
    cr_assert_eq(sources[0].open, 5);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(take(i, NULL), 1, "until it has as many");
    for (size_t i = 0; i < 3; i++)
        channel_pool_left(&pool, handles[i]);
    cr_assert_eq(sources[0].open, 2);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(take(i, NULL), 0);
}

Test(pool_sources, equal_ones_take_turns, .init = setup, .fini = teardown)
{
    enum { COUNT = 4 };
    unsigned int got[COUNT] = {0};
    struct pool_handle source;
    for (size_t i = 0; i < COUNT; i++)
        open_source(i);
    for (size_t i = 0; i < COUNT; i++)
        park(i, 5);
    /* Visitors that are gone before the next one comes: all sources have none open. */
    for (size_t i = 0; i < 5 * COUNT; i++) {
        int which = take(0, &source);
        cr_assert(which >= 0 && which < COUNT);
        got[which]++;
        channel_pool_left(&pool, source);
        if (i % COUNT == COUNT - 1) {
            for (size_t k = 0; k < COUNT; k++)
                cr_assert_eq(got[k], (i + 1) / COUNT);
        }
    }
}

Test(pool_sources, each_has_at_least_two_and_all_have_the_sum, .init = setup, .fini = teardown)
{
    open_source(0);
    cr_assert_eq(claim(0), LIMIT_POOL_MIN);
    park(0, LIMIT_POOL_MIN);
    cr_assert_eq(open_source(1), 0, "the first one is to do nothing");
    cr_assert_eq(claim(1), LIMIT_POOL_SOURCE_MIN);
    park(1, 2);
    /* Visitors come to 1, where nobody is, and its missing channels are requested of it. */
    cr_assert_eq(take(0, NULL), 0, "the first from the last turn on");
    cr_assert_eq(take(1, NULL), 1);
    cr_assert_eq(claim(1), 1);
    for (size_t i = 2; i < 10; i++) {
        open_source(i);
        cr_assert_eq(claim(i), LIMIT_POOL_SOURCE_MIN);
    }
    cr_assert_eq(channel_pool_target(&pool, START), 20, "two for each of ten");
}

Test(pool_sources, requests_of_one_that_ends_go_to_the_others, .init = setup, .fini = teardown)
{
    open_source(0);
    cr_assert_eq(claim(0), LIMIT_POOL_MIN);
    open_source(1);
    cr_assert_eq(claim(1), LIMIT_POOL_SOURCE_MIN);
    for (size_t i = 0; i < 10; i++)
        cr_assert_eq(take(i, NULL), -1);
    uint32_t asked = claim(0) + claim(1);
    cr_assert_eq(asked, 10 - LIMIT_POOL_SOURCE_MIN, "two more were asked for than the eight");
    cr_assert_eq(close_source(0), UINT64_C(1) << 1, "its worker is told");
    cr_assert_eq(channel_pool_waiting(&pool), 10, "they stay");
    (void)claim(1);
    cr_assert_eq(pool_source_coming(&sources[1]), LIMIT_POOL_MIN + 10, "all of them");
    for (int i = 0; i < 10; i++)
        cr_assert_eq(offer(sources[1].handle, 100 + i, true), i, "in their order");
}

/* A newer client takes over: it comes before the older one has gone, so it is not in the first
 * place. */
Test(pool_sources, a_successor_is_alone, .init = setup, .fini = teardown)
{
    open_source(0);
    (void)claim(0);
    park(0, LIMIT_POOL_MIN);
    open_source(1);
    (void)claim(1);
    cr_assert_eq(close_source(0), UINT64_C(1) << 1, "its worker is told");
    (void)claim(1);
    cr_assert_eq(pool_source_coming(&sources[1]), LIMIT_POOL_MIN);
    park(1, LIMIT_POOL_MIN);
    for (size_t i = 0; i < LIMIT_POOL_MIN; i++)
        cr_assert_eq(take(i, NULL), 1);
    cr_assert_eq(take(LIMIT_POOL_MIN, NULL), -1);
    cr_assert_eq(offer(sources[1].handle, 100, true), LIMIT_POOL_MIN);
}

Test(pool_sources, a_handle_of_one_that_has_gone, .init = setup, .fini = teardown)
{
    struct pool_handle old;
    open_source(0);
    open_source(1);
    park(0, 3);
    cr_assert_eq(take(0, &old), 0);
    close_source(0);
    cr_assert_eq(pool.parked_count, 0);
    cr_assert_eq(offer(old, 7, true), -2, "a late channel");
    cr_assert_eq(offer(old, 7, false), -2, "one that comes back");
    channel_pool_left(&pool, old);
    open_source(2); /* in the same place */
    cr_assert_eq(sources[2].handle.index, old.index);
    park(2, 2);
    cr_assert_eq(take(1, NULL), 2);
    channel_pool_left(&pool, old);
    cr_assert_eq(sources[2].open, 1, "not the old visitor's");
    cr_assert_eq(offer(old, 7, true), -2);
    channel_pool_left(&pool, (struct pool_handle){.index = 900, .generation = 5});
}

Test(pool_sources, a_generation_is_never_zero, .init = setup, .fini = teardown)
{
    open_source(0);
    for (int i = 0; i < 3; i++) {
        open_source(1);
        close_source(1);
        pool.slots[1].generation = i == 0 ? POOL_GENERATIONS - 1 : pool.slots[1].generation;
    }
    open_source(1);
    cr_assert_eq(sources[1].handle.generation, 2, "the last, 1, 2");
}

Test(pool_sources, no_more_than_the_limit, .init = setup, .fini = teardown)
{
    pool_notice notice;
    for (size_t i = 0; i < LIMIT_SESSIONS; i++)
        open_source(i);
    cr_assert_eq(channel_pool_open(&pool, &sources[LIMIT_SESSIONS], 0, START, &notice), ERR_LIMIT);
    close_source(500);
    cr_assert_eq(channel_pool_open(&pool, &sources[LIMIT_SESSIONS], 0, START, &notice), 0);
    cr_assert_eq(sources[LIMIT_SESSIONS].handle.index, 500);
    for (size_t i = 0; i <= LIMIT_SESSIONS; i++)
        (void)close_source(i);
    cr_assert_eq(pool.source_count, 0);
    cr_assert_eq(pool.slot_count, 0);
}

/* What all clients may park is bounded, and each may always park its two. */
Test(pool_sources, parked_channels_are_bounded, .init = setup, .fini = teardown)
{
    open_source(0);
    open_source(1);
    for (int i = 0; i < LIMIT_POOL_PARKED; i++)
        cr_assert_eq(offer(sources[0].handle, i, true), -1);
    cr_assert_eq(offer(sources[0].handle, 1, true), -2);
    for (int i = 0; i < LIMIT_POOL_SOURCE_MIN; i++)
        cr_assert_eq(offer(sources[1].handle, 100 + i, true), -1);
    cr_assert_eq(offer(sources[1].handle, 1, true), -2);
}

/* A match that was not delivered is no open visitor, and neither is a channel that came back. */
Test(pool_sources, visitors_are_counted_once, .init = setup, .fini = teardown)
{
    struct pool_match match;
    struct pool_offer given = {.transport = {.fd = 5}, .requested = true, .may_park = true};
    open_source(0);
    given.source = sources[0].handle;
    cr_assert_eq(take(0, NULL), -1);
    cr_assert_eq(channel_pool_offer(&pool, &given, &match), POOL_MATCHED);
    cr_assert_eq(sources[0].open, 1);
    cr_assert(channel_pool_undo(&pool, &match, given.transport, START));
    cr_assert_eq(sources[0].open, 0);
    cr_assert(channel_pool_leave(&pool, &waiters[0]));
    cr_assert_eq(take(0, NULL), 0);
    cr_assert_eq(sources[0].open, 1);
    cr_assert_eq(offer(sources[0].handle, 5, false), -1);
    cr_assert_eq(sources[0].open, 0);
    channel_pool_left(&pool, sources[0].handle);
    cr_assert_eq(sources[0].open, 0, "never below");
}

/* A visitor that has lost a channel wants another source, comes first, and takes what there is if
 * there is no other. */
Test(pool_sources, a_second_attempt_is_elsewhere, .init = setup, .fini = teardown)
{
    open_source(0);
    cr_assert_not(channel_pool_has_other(&pool, sources[0].handle));
    open_source(1);
    cr_assert(channel_pool_has_other(&pool, sources[0].handle));
    park(0, 3);
    park(1, 1);
    waiters[0].avoid = waiters[1].avoid = sources[0].handle;
    cr_assert_eq(take(0, NULL), 1, "although equal, and its turn");
    cr_assert_eq(take(1, NULL), -1, "it waits beside the other's channels");
    cr_assert_eq(offer(sources[0].handle, 9, true), -1, "they are not for it");
    cr_assert_geq(pool_source_coming(&sources[1]), LIMIT_POOL_SOURCE_MIN);
    for (size_t i = 2; i < 6; i++)
        cr_assert_eq(take(i, NULL), 0);
    cr_assert_eq(take(6, NULL), -1);
    cr_assert_eq(offer(sources[0].handle, 9, true), 6, "the next one");
    cr_assert_eq(take(7, NULL), -1);
    cr_assert_eq(offer(sources[1].handle, 109, true), 1, "it came before 7");
    waiters[1].avoid = sources[0].handle;
    cr_assert_eq(take(1, NULL), -1);
    close_source(1);
    cr_assert_eq(offer(sources[0].handle, 9, true), 1, "the only source that is left");
    struct pool_handle gone = sources[0].handle;
    close_source(0);
    open_source(2);
    cr_assert(channel_pool_has_other(&pool, gone));
}

/* Lanes that wait for a channel of one source. */
Test(pool_sources, a_queue_of_its_own, .init = setup, .fini = teardown)
{
    struct pool_channel channel;
    pool_notice notice;
    pool.for_lanes = true;
    open_source(0);
    open_source(1);
    cr_assert_eq(claim(0) + claim(1), 0);
    for (size_t i = 0; i < 4; i++) {
        waiters[i].only = sources[i % 2].handle;
        channel_pool_queue(&pool, &waiters[i]);
    }
    cr_assert_eq(channel_pool_take(&pool, &waiters[4], false, START, &channel, &notice),
                 POOL_WAITING);
    cr_assert_eq(notice, 3);
    cr_assert_eq(claim(0) + claim(1), 5);
    cr_assert_eq(offer(sources[1].handle, 100, true), 1);
    cr_assert_eq(offer(sources[1].handle, 101, true), 3);
    cr_assert_eq(offer(sources[1].handle, 102, true), 4, "then those that take any");
    cr_assert_eq(sources[1].open, 0, "lanes are no visitors");
    close_source(0);
    cr_assert_not(waiters[0].waiting || waiters[2].waiting, "nobody can serve them");
    cr_assert_eq(channel_pool_take(&pool, &waiters[0], false, START, &channel, &notice),
                 POOL_CLOSED);
    cr_expect_eq(channel_pool_enter(&pool, &sources[1].handle, 1), 0);
    cr_assert_eq(sources[1].open, 1);
    channel_pool_left(&pool, sources[1].handle);
    cr_assert_eq(sources[1].open, 0);
}

/* For lanes with a channel of each session. */
Test(pool_sources, a_new_visitor_enters_the_source_with_the_fewest, .init = setup, .fini = teardown)
{
    struct pool_handle found[4];
    pool.for_lanes = true;
    open_source(0);
    open_source(1);
    open_source(2);
    cr_assert_eq(channel_pool_list(&pool, 0, found, 4), 3);
    cr_assert_eq(channel_pool_list(&pool, 5, found, 2), 2, "no more than there is room for");
    cr_assert_eq(channel_pool_list(&pool, 0, found, 4), 3);
    for (size_t i = 0; i < 6; i++)
        (void)channel_pool_enter(&pool, found, 3);
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(sources[i].open, 2);
    channel_pool_left(&pool, found[1]);
    cr_expect_eq(channel_pool_enter(&pool, found, 3), 1);
    channel_pool_left(&pool, found[1]);
    sources[1].is_doubted = true;
    cr_expect_neq(channel_pool_enter(&pool, found, 3), 1, "one whose client does not answer");
    cr_expect_eq(channel_pool_enter(&pool, &found[1], 1), 0, "better than none");
    close_source(0);
    cr_expect_eq(channel_pool_enter(&pool, found, 1), 0, "nothing is counted");
}

/* The pool shrinks by each source's part of the surplus, never below two for each. */
Test(pool_sources, all_shrink_together, .init = setup, .fini = teardown)
{
    struct transport closed[LIMIT_POOL_PARKED];
    pool_notice notice;
    uint32_t lost;
    open_source(0);
    open_source(1);
    park(0, 98);
    park(1, 10);
    cr_assert_eq(channel_pool_tend(&pool, &sources[0], START, closed, LIMIT_POOL_MAX, &lost,
                                   &notice),
                 (91 + 7) / 8, "an eighth of 98/108 of 100");
    for (int i = 0; i < 200; i++) {
        for (size_t k = 0; k < 2; k++)
            (void)channel_pool_tend(&pool, &sources[k], START, closed, LIMIT_POOL_MAX, &lost,
                                    &notice);
    }
    cr_assert_eq(pool.parked_count, LIMIT_POOL_MIN);
    cr_assert_geq(sources[0].parked_count, LIMIT_POOL_SOURCE_MIN);
    cr_assert_geq(sources[1].parked_count, LIMIT_POOL_SOURCE_MIN);
    park(0, 11);
    size_t shed = channel_pool_shed(&pool, closed, ARRAY_SIZE(closed));
    cr_assert_geq(shed, 9);
    cr_assert_geq(sources[1].parked_count, 1, "half of each");
}

/* A client does not answer: while another one does, it gets no visitors and no requests. */
Test(pool_sources, a_doubted_one_is_left_alone, .init = setup, .fini = teardown)
{
    pool_notice notice;
    open_source(0);
    open_source(1);
    (void)claim(0);
    (void)claim(1);
    park(0, 8);
    park(1, 2);
    cr_assert(channel_pool_doubt(&pool, &sources[0], true, START, &notice));
    cr_assert_eq(notice, 2, "the other one is to have all");
    cr_assert_eq(claim(1), LIMIT_POOL_MIN - 2);
    cr_assert_not(channel_pool_doubt(&pool, &sources[0], true, START, &notice), "no change");
    cr_assert_eq(take(0, NULL), 1);
    cr_assert_eq(take(1, NULL), 1);
    cr_assert_eq(take(2, NULL), -1, "it waits");
    cr_assert_not(channel_pool_has_other(&pool, sources[1].handle));
    cr_assert(channel_pool_has_other(&pool, sources[0].handle));
    cr_assert(channel_pool_doubt(&pool, &sources[1], true, START, &notice));
    cr_assert_eq(take(3, NULL), 0, "both are doubted");
    cr_assert(channel_pool_doubt(&pool, &sources[1], false, START, &notice));
    cr_assert_eq(take(4, NULL), -1);
    cr_assert_eq(offer(sources[0].handle, 9, true), 2, "a channel is an answer");
    cr_assert_eq(take(5, NULL), 0);
    cr_assert(channel_pool_doubt(&pool, &sources[0], true, START, &notice));
    close_source(0);
    cr_assert_eq(pool.doubted_count, 0);
}

/* A client that dies closes its connections one by one, so it would always be the emptiest. */
Test(pool_sources, a_dying_one_is_left_alone, .init = setup, .fini = teardown)
{
    struct pool_handle lost, other;
    pool_notice notice;
    open_source(0);
    park(0, 8);
    cr_assert_eq(take(0, &lost), 0);
    cr_assert_not(channel_pool_lost(&pool, lost, START, &notice));
    cr_assert_eq(pool.doubted_count, 0, "there is no other");
    open_source(1);
    park(1, 8);
    cr_assert_eq(take(1, &other), 1);
    cr_assert(channel_pool_lost(&pool, lost, START, &notice));
    channel_pool_left(&pool, lost);
    for (size_t i = 2; i < 6; i++)
        cr_assert_eq(take(i, &other), 1, "although it has more visitors");
    cr_assert_not(channel_pool_lost(&pool, lost, START, &notice));
    cr_assert_eq(pool.doubted_count, 1, "once");
    (void)close_source(0);
    cr_assert_not(channel_pool_lost(&pool, lost, START, &notice));
    cr_assert_eq(pool.doubted_count, 0, "it has gone");
}

/* The channels that it had parked are there for those who wait. */
Test(pool_sources, the_end_of_a_doubt_wakes_those_who_wait, .init = setup, .fini = teardown)
{
    pool_notice notice;
    struct pool_match match;
    open_source(0);
    open_source(1);
    park(0, 2);
    cr_assert(channel_pool_doubt(&pool, &sources[0], true, START, &notice));
    cr_assert_eq(take(0, NULL), -1);
    cr_assert_eq(take(1, NULL), -1);
    const struct pool_offer given = {.transport = {.fd = 9},
                                     .source = sources[0].handle,
                                     .requested = true,
                                     .may_park = true,
                                     .now_ns = START};
    cr_assert_eq(channel_pool_offer(&pool, &given, &match), POOL_MATCHED);
    cr_expect_eq(match.visitor_id, 0);
    cr_expect(match.wakes, "there are two parked ones for the other visitor");
    cr_expect(channel_pool_leave(&pool, &waiters[1]));
    cr_expect_eq(take(1, NULL), 0);
    cr_assert_eq(channel_pool_offer(&pool, &given, &match), POOL_PARKED);
    cr_expect_not(match.wakes, "no doubt has ended");
    cr_assert(channel_pool_doubt(&pool, &sources[0], true, START, &notice));
    cr_assert_eq(channel_pool_offer(&pool, &given, &match), POOL_PARKED);
    cr_expect_not(match.wakes, "nobody waits");
}
