/* Mailboxes on real loops: in one thread to test order, in several to test wake-ups. */
#include "io/mailbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/limits.h"
#include "ring.h"

struct owner {
    struct ring ring;
    struct mailbox *mailbox;
    unsigned int message_count, signal_count;
    uint64_t next; /* the number that has to come next */
    uint32_t bits;
    bool disordered;
};

struct note {
    uint64_t number;
    unsigned char filler[MAILBOX_PAYLOAD_SIZE - 8];
};
static_assert(sizeof(struct note) == MAILBOX_PAYLOAD_SIZE, "the largest payload");

static void take_note(void *arg, const void *payload)
{
    struct owner *owner = arg;
    const struct note *note = payload; /* aligned for any type */
    cr_assert_eq((uintptr_t)payload % 16, 0);
    if (note->number != owner->next || note->filler[sizeof(note->filler) - 1] != 0xee)
        owner->disordered = true;
    owner->next = note->number + 1;
    owner->message_count++;
}

static void take_signals(void *arg, uint32_t bits)
{
    struct owner *owner = arg;
    owner->bits |= bits;
    owner->signal_count++;
}

static int post(struct mailbox *to, struct mailbox *from, uint64_t number)
{
    struct note note = {.number = number};
    memset(note.filler, 0xee, sizeof(note.filler));
    return mailbox_post(to, from, take_note, &note, sizeof(note));
}

/* False: no io_uring. */
static bool owners_open(struct owner *owners, unsigned int count, struct mailbox_group **ret)
{
    cr_assert_eq(mailbox_group_create(count, ret), 0);
    cr_assert_eq(mailbox_count(*ret), count);
    for (unsigned int i = 0; i < count; i++) {
        owners[i] = (struct owner){.mailbox = mailbox_of(*ret, i)};
        if (!ring_open(&owners[i].ring, &ring_sizes[0])) {
            cr_assert_eq(i, 0);
            mailbox_group_destroy(*ret);
            return false;
        }
    }
    return true;
}

static void owner_attach(struct owner *owner)
{
    mailbox_attach(owner->mailbox, owner->ring.loop, owner, take_signals);
}

static void owners_close(struct owner *owners, unsigned int count, struct mailbox_group *group)
{
    for (unsigned int i = 0; i < count; i++)
        mailbox_detach(owners[i].mailbox);
    for (unsigned int i = 0; i < count; i++)
        ring_close(&owners[i].ring);
    mailbox_group_destroy(group);
}

/* Attaches both and runs their self-tests, so that they wake each other by MSG_RING. */
static void pair_up(struct owner *owners)
{
    for (unsigned int i = 0; i < 2; i++) {
        owner_attach(&owners[i]);
        ring_settle(&owners[i].ring);
    }
    mailbox_self_test(owners[0].mailbox);
    mailbox_self_test(owners[1].mailbox);
    for (unsigned int i = 0; i < 4; i++)
        ring_settle(&owners[i % 2].ring);
}

/* ---- the queue ---- */

Test(mailbox, a_full_queue_refuses_and_loses_nothing)
{
    struct mailbox_group *group;
    struct owner owners[2];
    if (!owners_open(owners, 2, &group))
        return;
    owner_attach(&owners[0]);
    owner_attach(&owners[1]);
    uint64_t number = 0;
    for (int round = 0; round < 3; round++) {
        for (unsigned int i = 0; i < LIMIT_MAILBOX; i++)
            cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, number++), 0);
        cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, number), -ENOBUFS);
        cr_assert_eq(post(owners[0].mailbox, NULL, number), -ENOBUFS);
        cr_assert_eq(metrics_get(&owners[1].ring.metrics, METRIC_MAILBOX_FULL),
                     (uint64_t)(round + 1));
        mailbox_signal(owners[0].mailbox, NULL, 1u << round); /* needs no room in the queue */
        ring_run(&owners[0].ring, &owners[0].message_count, (unsigned int)number);
    }
    ring_settle(&owners[0].ring);
    cr_assert_eq(owners[0].message_count, 3 * LIMIT_MAILBOX);
    cr_assert_not(owners[0].disordered);
    cr_assert_eq(owners[0].bits, 7);
    owners_close(owners, 2, group);
}

Test(mailbox, what_was_posted_before_waits)
{
    struct mailbox_group *group;
    struct owner owner;
    if (!owners_open(&owner, 1, &group))
        return;
    cr_assert_eq(post(owner.mailbox, NULL, 0), 0);
    cr_assert_eq(post(owner.mailbox, NULL, 1), 0);
    mailbox_signal(owner.mailbox, NULL, 4);
    owner_attach(&owner);
    mailbox_self_test(owner.mailbox); /* does nothing for a single mailbox */
    ring_run(&owner.ring, &owner.message_count, 2);
    cr_assert_not(owner.disordered);
    cr_assert_eq(owner.bits, 4);
    owners_close(&owner, 1, group);
}

Test(mailbox, signals_coalesce)
{
    struct mailbox_group *group;
    struct owner owner;
    if (!owners_open(&owner, 1, &group))
        return;
    owner_attach(&owner);
    mailbox_signal(owner.mailbox, NULL, 1);
    mailbox_signal(owner.mailbox, NULL, 2);
    mailbox_signal(owner.mailbox, NULL, 1);
    mailbox_signal(owner.mailbox, owner.mailbox, 1u << 31);
    ring_run(&owner.ring, &owner.signal_count, 1);
    cr_assert_eq(owner.bits, 3 | 1u << 31);
    ring_settle(&owner.ring);
    cr_assert_eq(owner.signal_count, 1);
    mailbox_signal(owner.mailbox, NULL, 8);
    ring_run(&owner.ring, &owner.signal_count, 2);
    owners_close(&owner, 1, group);
}

static void take_and_post(void *arg, const void *payload)
{
    struct owner *owner = arg;
    uint64_t left;
    memcpy(&left, payload, sizeof(left));
    owner->message_count++;
    left--;
    if (left > 0)
        cr_assert_eq(
            mailbox_post(owner->mailbox, owner->mailbox, take_and_post, &left, sizeof(left)), 0);
    if (left == 1)
        mailbox_signal(owner->mailbox, owner->mailbox, 1);
}

Test(mailbox, who_posts_to_itself_does_not_hold_the_loop)
{
    struct mailbox_group *group;
    struct owner owner;
    uint64_t left = 10 * LIMIT_MAILBOX;
    if (!owners_open(&owner, 1, &group))
        return;
    owner_attach(&owner);
    cr_assert_eq(mailbox_post(owner.mailbox, NULL, take_and_post, &left, sizeof(left)), 0);
    ring_turn(&owner.ring, 20);
    cr_assert_leq(owner.message_count, LIMIT_MAILBOX, "at most one full queue in a turn");
    ring_run(&owner.ring, &owner.message_count, 10 * LIMIT_MAILBOX);
    ring_run(&owner.ring, &owner.signal_count, 1);
    owners_close(&owner, 1, group);
}

Test(mailbox, nothing_comes_after_detach)
{
    struct mailbox_group *group;
    struct owner owners[2];
    if (!owners_open(owners, 2, &group))
        return;
    pair_up(owners);
    cr_assert_eq(post(owners[0].mailbox, NULL, 0), 0);
    mailbox_detach(owners[0].mailbox);
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 1), -EPIPE);
    mailbox_signal(owners[0].mailbox, owners[1].mailbox, 1);
    ring_settle(&owners[1].ring);
    ring_settle(&owners[0].ring);
    cr_assert_eq(owners[0].message_count + owners[0].signal_count, 0);
    owners_close(owners, 2, group);
}

/* A mailbox with a message can't be closed, and the message is not lost. */
Test(mailbox, closes_when_it_is_empty)
{
    struct mailbox_group *group;
    struct owner owners[2];
    if (!owners_open(owners, 2, &group))
        return;
    pair_up(owners);
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 0), 0);
    cr_assert_not(mailbox_close(owners[0].mailbox));
    ring_settle(&owners[1].ring);
    ring_run(&owners[0].ring, &owners[0].message_count, 1);
    cr_assert(mailbox_close(owners[0].mailbox));
    cr_assert(mailbox_close(owners[0].mailbox), "and again");
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 1), -EPIPE);
    cr_assert_eq(post(owners[1].mailbox, owners[0].mailbox, 1), 0, "the other one is open");
    owners_close(owners, 2, group);
}

/* ---- waking ---- */

Test(mailbox, workers_wake_by_the_ring_and_others_by_the_event)
{
    struct mailbox_group *group;
    struct owner owners[2];
    if (!owners_open(owners, 2, &group))
        return;
    pair_up(owners);
    struct metrics *metrics = &owners[1].ring.metrics;
    cr_assert_eq(metrics_get(metrics, METRIC_WAKEUPS_SENT), 1, "the self-test");
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 0), 0);
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 1), 0);
    cr_assert_eq(metrics_get(metrics, METRIC_WAKEUPS_SENT), 2, "one for both");
    ring_turn(&owners[1].ring, 0);
    ring_run(&owners[0].ring, &owners[0].message_count, 2);
    cr_assert_eq(post(owners[0].mailbox, NULL, 2), 0);
    ring_run(&owners[0].ring, &owners[0].message_count, 3);
    cr_assert_eq(metrics_get(metrics, METRIC_WAKEUPS_SENT), 2);
    mailbox_signal(owners[0].mailbox, owners[1].mailbox, 1);
    ring_turn(&owners[1].ring, 0);
    ring_run(&owners[0].ring, &owners[0].signal_count, 1);
    cr_assert_eq(metrics_get(metrics, METRIC_WAKEUPS_SENT), 3);
    cr_assert_not(owners[0].disordered);
    owners_close(owners, 2, group);
}

/* The kernel refuses a MSG_RING: eventfds wake everybody, and MSG_RING is not used again. */
Test(mailbox, a_refused_wake_up_is_made_up_for)
{
    struct mailbox_group *group;
    struct owner owners[2];
    if (!owners_open(owners, 2, &group))
        return;
    pair_up(owners);
    int ring_fd = loop_fd(owners[0].ring.loop);
    int kept = dup(ring_fd), event = eventfd(0, EFD_CLOEXEC);
    cr_assert(kept >= 0 && event >= 0);
    cr_assert_eq(dup2(event, ring_fd), ring_fd); /* not a ring, so the kernel refuses */
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 0), 0);
    ring_turn(&owners[1].ring, 20);
    ring_settle(&owners[1].ring);
    cr_assert_eq(dup2(kept, ring_fd), ring_fd);
    ring_run(&owners[0].ring, &owners[0].message_count, 1);
    uint64_t sent = metrics_get(&owners[1].ring.metrics, METRIC_WAKEUPS_SENT);
    cr_assert_eq(post(owners[0].mailbox, owners[1].mailbox, 1), 0);
    ring_run(&owners[0].ring, &owners[0].message_count, 2);
    cr_assert_eq(metrics_get(&owners[1].ring.metrics, METRIC_WAKEUPS_SENT), sent);
    (void)close(kept);
    (void)close(event);
    owners_close(owners, 2, group);
}

/* ---- between threads ---- */

enum { ROUNDS = 6000, OTHERS_BIT = 1, OUTSIDE_BIT = 2 };

struct player {
    struct owner owner;
    struct player *other;
    pthread_t thread;
    bool is_over; /* this player has made the last move */
};
static pthread_barrier_t barrier;
static _Atomic bool no_ring;

/* The players pass a message to and fro. Each sleeps until the other's move arrives. */
static void ball(void *arg, const void *payload)
{
    struct player *player = container_of((struct owner *)arg, struct player, owner);
    uint64_t number;
    memcpy(&number, payload, sizeof(number));
    player->owner.message_count++;
    if (++number == ROUNDS) {
        player->is_over = true;
        mailbox_signal(player->other->owner.mailbox, player->owner.mailbox, OTHERS_BIT);
    } else if (mailbox_post(player->other->owner.mailbox, player->owner.mailbox, ball, &number,
                            sizeof(number)) < 0) {
        player->owner.disordered = true;
    }
}

static bool player_is_done(const struct player *player)
{
    uint32_t bits = player->owner.bits | (player->is_over ? OTHERS_BIT : 0);
    return bits == (OTHERS_BIT | OUTSIDE_BIT);
}

static void *player_thread(void *arg)
{
    struct player *player = arg;
    struct ring *ring = &player->owner.ring;
    struct loop_options options = {.metrics = &ring->metrics};
    if (loop_create(&options, &ring->loop) < 0)
        atomic_store(&no_ring, true);
    else
        owner_attach(&player->owner);
    (void)pthread_barrier_wait(&barrier);
    if (atomic_load(&no_ring))
        return NULL;
    mailbox_self_test(player->owner.mailbox);
    while (!player_is_done(player) && !player->owner.disordered)
        player->owner.disordered = loop_run_once(ring->loop) < 0;
    ring_turn(ring, 0); /* submits a wake-up that may be queued */
    mailbox_detach(player->owner.mailbox);
    return NULL;
}

Test(mailbox, no_wake_up_is_lost_between_threads, .timeout = 30)
{
    static struct player players[2];
    struct mailbox_group *group;
    cr_assert_eq(mailbox_group_create(2, &group), 0);
    (void)pthread_barrier_init(&barrier, NULL, 3);
    for (unsigned int i = 0; i < 2; i++) {
        players[i].owner.mailbox = mailbox_of(group, i);
        players[i].other = &players[1 - i];
        cr_assert_eq(pthread_create(&players[i].thread, NULL, player_thread, &players[i]), 0);
    }
    (void)pthread_barrier_wait(&barrier);
    bool skip = atomic_load(&no_ring);
    if (!skip) {
        uint64_t number = 0;
        cr_assert_eq(mailbox_post(players[0].owner.mailbox, NULL, ball, &number, sizeof(number)),
                     0);
        (void)usleep(1000);
        mailbox_signal(players[0].owner.mailbox, NULL, OUTSIDE_BIT);
        mailbox_signal(players[1].owner.mailbox, NULL, OUTSIDE_BIT);
    }
    for (unsigned int i = 0; i < 2; i++)
        (void)pthread_join(players[i].thread, NULL);
    for (unsigned int i = 0; i < 2 && !skip; i++) {
        cr_assert_not(players[i].owner.disordered);
        cr_assert_eq(players[i].owner.message_count, ROUNDS / 2);
        cr_assert_gt(metrics_get(&players[i].owner.ring.metrics, METRIC_WAKEUPS_SENT), ROUNDS / 4,
                     "MSG_RING is not used");
        loop_destroy(players[i].owner.ring.loop);
    }
    mailbox_group_destroy(group);
    mailbox_group_destroy(NULL);
    if (skip)
        cr_skip_test("no io_uring");
}
