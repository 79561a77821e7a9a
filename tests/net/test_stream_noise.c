/* Encrypted streams on the fake loop: the handshake, reads and writes of all sizes, and a
 * termination at every step. STREAM_SEED=N runs only the exchanges of one seed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "noise_rig.h"
#include "testing.h"

enum { DATA_SIZE = 300000, TURNS_MAX = 20000, PATTERN_COUNT = NOISE_KK + 1 };

static unsigned char data[2][DATA_SIZE], got[2][DATA_SIZE];

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    for (size_t i = 0; i < 2; i++)
        keys_random(data[i], sizeof(data[i]));
}

TestSuite(stream_noise, .init = set_up);

static struct fake_faults transient_faults(struct random *random)
{
    return (struct fake_faults){
        .delay = (unsigned int)random_below(random, 400),
        .reorder = 500,
        .short_count = (unsigned int)random_below(random, 500),
        .eintr = (unsigned int)random_below(random, 60),
        .eagain = (unsigned int)random_below(random, 60),
        .lost_cancel = 500,
    };
}

static void run_seeds(void (*run)(uint64_t seed), uint64_t first, uint64_t count)
{
    uint64_t only = env_number("STREAM_SEED", 0);
    for (uint64_t seed = first; seed < first + seeds_of(count); seed++)
        run(only != 0 ? only : seed);
}

/* ---- two streams ---- */

/* Random plans for both ends. The initiator always writes, because that begins the handshake. */
static void plan(struct noise_rig *rig)
{
    static const size_t sizes[] = {1, 100, 20000, 70000, DATA_SIZE};
    for (size_t i = 0; i < 2; i++) {
        struct end *end = &rig->ends[i], *other = &rig->ends[1 - i];
        end->out = data[i];
        end->out_size = 1 + random_below(&rig->random, sizes[random_below(&rig->random, 5)]);
        other->in = got[1 - i];
        other->in_size = end->out_size;
        end->piece_max = 1 + random_below(&rig->random, sizes[random_below(&rig->random, 4) + 1]);
        end->piece_max = MAX(end->piece_max, (size_t)30);
    }
}

static void begin_both(struct noise_rig *rig)
{
    unsigned int first = (unsigned int)random_below(&rig->random, 2);
    end_begin(&rig->ends[first], &rig->random);
    end_begin(&rig->ends[1 - first], &rig->random);
}

static void run_exchange(uint64_t seed)
{
    struct noise_rig rig;
    noise_rig_init(&rig, seed, (enum noise_pattern)(seed % PATTERN_COUNT),
                   seed % 5 == 0 ? 4096 : 0);
    struct fake_faults faults = transient_faults(&rig.random);
    fake_loop_set_faults(rig.loop, &faults);
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    cr_assert_eq(noise_rig_stream(&rig, 1), 0);
    plan(&rig);
    begin_both(&rig);
    for (int i = 0; i < TURNS_MAX; i++) {
        if (end_is_through(&rig.ends[0]) && end_is_through(&rig.ends[1]))
            break;
        noise_rig_turns(&rig, 1);
        if (i > 2000)
            (void)usleep(100); /* a small socket's window opens in real time, not in turns */
    }
    for (size_t i = 0; i < 2; i++) {
        struct end *end = &rig.ends[i];
        cr_assert(end_is_through(end), "seed %llu: end %zu has %zu of %zu: %d, %d",
                  (unsigned long long)seed, i, end->in_have, end->in_size, end->read_result,
                  end->write_result);
        cr_assert(memcmp(end->in, data[1 - i], end->in_size) == 0, "seed %llu",
                  (unsigned long long)seed);
        cr_assert_null(end->stream.coding.handshake, "kept after its use");
        cr_assert_null(end->stream.coding.unsent, "kept after its use");
    }
    cr_assert_eq(alloc_blocks(), 2, "seed %llu: an idle stream holds its link alone",
                 (unsigned long long)seed);
    noise_rig_finish(&rig);
}

Test(stream_noise, whatever_is_written_is_read)
{
    run_seeds(run_exchange, 1, 150);
}

/* Clean and aborting terminations at any moment, also under deadly faults: `closed` is called once,
 * not inside the call, and no other callback comes after it. */
static void run_termination(uint64_t seed)
{
    struct noise_rig rig;
    noise_rig_init(&rig, seed, (enum noise_pattern)(seed % PATTERN_COUNT),
                   seed % 5 == 0 ? 4096 : 0);
    struct fake_faults faults = transient_faults(&rig.random);
    if (seed % 4 == 0)
        faults.reset = faults.epipe = faults.enomem = 20;
    fake_loop_set_faults(rig.loop, &faults);
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    cr_assert_eq(noise_rig_stream(&rig, 1), 0);
    plan(&rig);
    begin_both(&rig);
    noise_rig_turns(&rig, (int)random_below(&rig.random, 25));
    unsigned int first = (unsigned int)random_below(&rig.random, 2);
    for (unsigned int i = 0; i < 2; i++) {
        struct end *end = &rig.ends[(first + i) % 2];
        unsigned int calls = end->reads + end->writes;
        stream_terminate(&end->stream,
                         random_permille(&rig.random, 500) ? STREAM_ABORT : STREAM_CLEAN);
        cr_assert_eq(end->closes, 0, "closed inside stream_terminate");
        for (int turn = 0; turn < 300 && end->closes == 0; turn++)
            noise_rig_turns(&rig, 1);
        cr_assert_eq(end->closes, 1, "seed %llu", (unsigned long long)seed);
        cr_assert_eq(end->reads + end->writes, calls, "seed %llu: called back after its end",
                     (unsigned long long)seed);
    }
    noise_rig_finish(&rig);
}

Test(stream_noise, termination_at_every_step)
{
    run_seeds(run_termination, 1, 2000);
}

/* After a deadly fault at least one end gets an error; there is no stall and there are no wrong
 * bytes. */
static void run_deadly(uint64_t seed)
{
    struct noise_rig rig;
    noise_rig_init(&rig, seed, (enum noise_pattern)(seed % PATTERN_COUNT), 0);
    struct fake_faults faults = transient_faults(&rig.random);
    faults.reset = faults.epipe = faults.enomem = (unsigned int)random_below(&rig.random, 40);
    fake_loop_set_faults(rig.loop, &faults);
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    cr_assert_eq(noise_rig_stream(&rig, 1), 0);
    plan(&rig);
    begin_both(&rig);
    bool over = false;
    for (int i = 0; i < TURNS_MAX && !over; i++) {
        noise_rig_turns(&rig, 1);
        over = true;
        for (size_t e = 0; e < 2; e++) {
            struct end *end = &rig.ends[e];
            if (end_has_failed(end) && !end->stream.terminating)
                stream_terminate(&end->stream, STREAM_ABORT);
            over = over && (end->closes > 0 || end_is_through(end));
        }
    }
    cr_assert(over, "seed %llu: a stall", (unsigned long long)seed);
    for (size_t i = 0; i < 2; i++)
        cr_assert(memcmp(rig.ends[i].in, data[1 - i], rig.ends[i].in_have) == 0, "seed %llu",
                  (unsigned long long)seed);
    noise_rig_finish(&rig);
}

Test(stream_noise, deadly_faults_show)
{
    run_seeds(run_deadly, 1, 400);
}

/* The n-th allocation fails, and a read, a write or stream_secure returns -ENOMEM. */
static bool run_without_memory(unsigned int n, enum noise_pattern pattern)
{
    struct noise_rig rig;
    noise_rig_init(&rig, n, pattern, 4096);
    int secured[2] = {0, 0};
    alloc_fail_nth(n);
    for (unsigned int i = 0; i < 2; i++)
        secured[i] = noise_rig_stream(&rig, i);
    bool secure = secured[0] == 0 && secured[1] == 0;
    if (!secure)
        cr_assert(secured[0] + secured[1] == -ENOMEM);
    for (unsigned int i = 0; i < 2; i++) {
        rig.ends[i].out = data[i];
        rig.ends[i].in = got[i];
        rig.ends[i].out_size = rig.ends[i].in_size = 100000;
        rig.ends[i].piece_max = 9000;
        if (secure)
            end_begin(&rig.ends[i], &rig.random);
    }
    bool told = !secure, over = !secure;
    for (int turn = 0; turn < TURNS_MAX && !over; turn++) {
        noise_rig_turns(&rig, 1);
        over = true;
        for (size_t i = 0; i < 2; i++) {
            struct end *end = &rig.ends[i];
            told = told || end->read_result == -ENOMEM || end->write_result == -ENOMEM;
            if (end_has_failed(end) && !end->stream.terminating)
                stream_terminate(&end->stream, STREAM_ABORT);
            over = over && (end->closes > 0 || end_is_through(end));
        }
        if (turn > 1000)
            (void)usleep(100);
    }
    bool has_failed = alloc_has_failed();
    alloc_fail_nth(0);
    cr_assert(over, "allocation %u: a stall", n);
    cr_assert_eq(told, has_failed, "allocation %u", n);
    noise_rig_finish(&rig);
    return has_failed;
}

Test(stream_noise, each_allocation_fails_once)
{
    for (int pattern = 0; pattern < PATTERN_COUNT; pattern++) {
        unsigned int n = 1;
        while (n < 200 && run_without_memory(n, (enum noise_pattern)pattern))
            n++;
        cr_assert_gt(n, 6, "only %u allocations: the test does not reach what it tests", n);
    }
}

/* ---- the handshake ---- */

/* Keys that do not match: the end that can notice fails with ERR_HANDSHAKE, and the other sees the
 * connection end. */
static void run_wrong_key(enum noise_pattern pattern, unsigned int wrong)
{
    struct noise_rig rig;
    noise_rig_init(&rig, 1, pattern, 0);
    rig.keys[wrong].remote_public[5] ^= 1;
    if (pattern == NOISE_XX) { /* pinned to another key than the peer has */
        rig.keys[wrong].has_remote_public = true;
        memset(rig.keys[wrong].remote_public, 9, NOISE_KEY_SIZE);
    }
    for (unsigned int i = 0; i < 2; i++) {
        struct end *end = &rig.ends[i];
        cr_assert_eq(noise_rig_stream(&rig, i), 0);
        end->in = got[i];
        stream_read(&end->stream, got[i], 5);
        if (i == 0)
            stream_write(&end->stream, data[0], 5);
    }
    for (int turn = 0; turn < 40; turn++) {
        noise_rig_turns(&rig, 1);
        for (size_t i = 0; i < 2; i++) {
            if (end_has_failed(&rig.ends[i]))
                stream_terminate(&rig.ends[i].stream, STREAM_CLEAN);
        }
    }
    /* In XX the responder gets the peer's key last, when the initiator has finished. */
    bool late = pattern == NOISE_XX && wrong == 1;
    cr_assert_eq(rig.ends[1].read_result, ERR_HANDSHAKE);
    cr_assert(rig.ends[0].read_result == ERR_HANDSHAKE || (late && rig.ends[0].read_result < 0));
    cr_assert_eq(rig.ends[0].in_have + rig.ends[1].in_have, 0);
    noise_rig_finish(&rig);
}

Test(stream_noise, a_wrong_key)
{
    run_wrong_key(NOISE_NK, 0);
    run_wrong_key(NOISE_KK, 0);
    run_wrong_key(NOISE_KK, 1);
    run_wrong_key(NOISE_XX, 0);
    run_wrong_key(NOISE_XX, 1);
}

/* If there is no read, the write fails. */
Test(stream_noise, a_failed_handshake_is_the_writers_when_nobody_reads)
{
    struct noise_rig rig;
    noise_rig_init(&rig, 1, NOISE_NK, 0);
    struct end *end = &rig.ends[0];
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    stream_write(&end->stream, data[0], 100);
    cr_assert(stream_is_writing(&end->stream));
    (void)shutdown(rig.fds[1], SHUT_WR);
    noise_rig_turns(&rig, 5);
    cr_assert(end->writes == 1 && end->write_result == ERR_HANDSHAKE);
    cr_assert_eq(end->reads, 0);
    noise_rig_finish(&rig);
}

/* A stranger that does not speak this protocol is refused at its first wrong byte. */
Test(stream_noise, a_wrong_length_is_refused_at_once)
{
    static const struct {
        unsigned char bytes[2];
        size_t size;
        bool refused;
    } rows[] = {
        {{48, 0}, 1, false}, {{48, 0}, 2, false}, {{49, 0}, 1, true},
        {{0, 0}, 1, true},   {{48, 1}, 2, true},  {{48, 255}, 2, true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct noise_rig rig;
        noise_rig_init(&rig, 1, NOISE_NK, 0);
        struct end *end = &rig.ends[1];
        cr_assert_eq(noise_rig_stream(&rig, 1), 0);
        stream_read_now(&end->stream, got[1], 5);
        for (size_t at = 0; at < rows[i].size; at++) {
            cr_assert_eq(send(rig.fds[0], rows[i].bytes + at, 1, MSG_NOSIGNAL), 1);
            noise_rig_turns(&rig, 5);
        }
        cr_assert_eq(end->reads, rows[i].refused ? 1 : 0, "row %zu", i);
        if (rows[i].refused)
            cr_assert_eq(end->read_result, ERR_HANDSHAKE);
        char byte;
        cr_assert_lt(recv(rig.fds[0], &byte, 1, MSG_DONTWAIT), 0, "strangers get no answer");
        noise_rig_finish(&rig);
    }
}

/* The first message is cut after `size` bytes, by an end of stream or a reset. */
static void run_cut_handshake(enum noise_pattern pattern, size_t size, bool reset)
{
    struct noise_rig rig;
    struct raw raw;
    noise_rig_init(&rig, 1, pattern, 0);
    struct end *end = &rig.ends[1];
    cr_assert_eq(noise_rig_stream(&rig, 1), 0);
    raw_init(&raw, &rig, 0);
    stream_read(&end->stream, got[1], 5);
    raw_write_message(&raw);
    cr_assert_lt(size, raw.last_size);
    if (size > 0)
        raw_send(&raw, raw.last, size);
    noise_rig_turns(&rig, 3);
    cr_assert_eq(end->reads, 0);
    if (reset) {
        tcp_abort_on_close(rig.fds[0]);
        (void)close(rig.fds[0]);
        rig.fds[0] = -1;
    } else {
        (void)shutdown(rig.fds[0], SHUT_WR);
    }
    noise_rig_turns(&rig, 5);
    cr_assert(end->reads == 1 && end->read_result == ERR_HANDSHAKE);
    raw_finish(&raw);
    noise_rig_finish(&rig);
}

Test(stream_noise, the_end_within_the_handshake)
{
    for (size_t size = 0; size < 34; size++) {
        run_cut_handshake(NOISE_XX, size, size % 2 == 0);
        run_cut_handshake(NOISE_NK, size, size % 2 != 0);
    }
}

Test(stream_noise, a_changed_handshake)
{
    for (size_t at = NOISE_FRAME_HEADER; at < NOISE_FRAME_HEADER + 48; at++) {
        struct noise_rig rig;
        struct raw raw;
        noise_rig_init(&rig, 1, NOISE_NK, 0);
        struct end *end = &rig.ends[1];
        cr_assert_eq(noise_rig_stream(&rig, 1), 0);
        raw_init(&raw, &rig, 0);
        stream_read(&end->stream, got[1], 5);
        raw_write_message(&raw);
        raw.last[at] ^= 1;
        raw_send(&raw, raw.last, raw.last_size);
        noise_rig_turns(&rig, 5);
        cr_assert(end->reads == 1 && end->read_result == ERR_HANDSHAKE);
        raw_finish(&raw);
        noise_rig_finish(&rig);
    }
}
