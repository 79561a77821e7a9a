/* Noise frames without a socket: one side decrypts what the other has encrypted, however the bytes
 * are cut on their way, and decrypts nothing else. */
#include "net/noise_link.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "net/recipe.h"
#include "noise_ends.h"
#include "testing.h"

enum {
    FRAME_MAX = NOISE_FRAME_HEADER + NOISE_MESSAGE_MAX,
    WIRE_MAX = 2 * FRAME_MAX + NOISE_BATCH_CODED,
};

static struct link_engine *engines[2]; /* one per side */
static struct link *links[2];
static unsigned char plain[2 * NOISE_MESSAGE_MAX + LINK_BATCH_PLAIN], wire[WIRE_MAX],
    opened[WIRE_MAX];
static size_t wire_size, opened_size;

static void set_up(void)
{
    for (size_t i = 0; i < 2; i++)
        cr_assert_eq(link_engine_create(&engines[i]), 0);
    noise_ends_connect(links, engines[0], NOISE_NK);
    keys_random(plain, sizeof(plain));
}

static void tear_down(void)
{
    for (size_t i = 0; i < 2; i++) {
        link_free(links[i]);
        link_engine_destroy(engines[i]);
    }
}

TestSuite(noise_link, .init = set_up, .fini = tear_down);

/* ---- the bytes on their way ---- */

static void add_frame(const unsigned char *bytes, size_t size)
{
    wire_size += noise_ends_frame(links[0], engines[0], bytes, size, wire + wire_size);
    cr_assert_leq(wire_size, sizeof(wire));
}

/* Gives bytes to the other side with one call, in memory of exactly their size. */
static int feed(const unsigned char *bytes, size_t size)
{
    unsigned char *copy = malloc(size);
    cr_assert_not_null(copy);
    memcpy(copy, bytes, size);
    ssize_t result = link_open(links[1], engines[1], copy, size);
    free(copy);
    if (result < 0)
        return (int)result;
    cr_assert_leq(opened_size + (size_t)result, sizeof(opened));
    memcpy(opened + opened_size, engines[1]->plain, (size_t)result);
    opened_size += (size_t)result;
    return 0;
}

static int feed_all(size_t chunk)
{
    int result = 0;
    for (size_t at = 0; at < wire_size && result == 0; at += chunk)
        result = feed(wire + at, MIN(chunk, wire_size - at));
    return result;
}

static void forget(void)
{
    wire_size = opened_size = 0;
}

static void check_opened(const unsigned char *expected, size_t size)
{
    cr_assert_eq(opened_size, size, "%zu bytes, not %zu", opened_size, size);
    cr_assert(memcmp(opened, expected, size) == 0);
    cr_assert_not((link_fin(links[1]) == ERR_TRUNCATED));
    cr_assert_null(noise_of(links[1])->partial);
}

/* ---- valid frames ---- */

static void round_trip(size_t size)
{
    forget();
    ssize_t sealed = link_seal(links[0], engines[0], plain, size, wire);
    size_t frames = (size + NOISE_FRAME_PAYLOAD - 1) / NOISE_FRAME_PAYLOAD;
    cr_assert_eq(sealed, (ssize_t)(size + frames * NOISE_FRAME_OVERHEAD), "%zu bytes", size);
    cr_assert_leq(sealed, NOISE_BATCH_CODED);
    wire_size = (size_t)sealed;
    cr_assert_eq(feed_all(wire_size), 0);
    check_opened(plain, size);
}

Test(noise_link, what_is_sealed_is_opened)
{
    static const size_t sizes[] = {1, NOISE_FRAME_PAYLOAD - 1, NOISE_FRAME_PAYLOAD,
                                   NOISE_FRAME_PAYLOAD + 1, LINK_BATCH_PLAIN};
    struct random random = {1};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        round_trip(sizes[i]);
    for (int i = 0; i < 60; i++)
        round_trip(1 + random_below(&random, LINK_BATCH_PLAIN));
}

/* Encrypting a batch writes no byte beyond it, also at an unaligned address. */
Test(noise_link, sealing_stays_inside)
{
    unsigned char *out = malloc(NOISE_BATCH_CODED);
    cr_assert_not_null(out);
    cr_assert_eq(link_seal(links[0], engines[0], plain + 1, LINK_BATCH_PLAIN, out),
                 NOISE_BATCH_CODED);
    free(out);
}

Test(noise_link, both_directions_are_their_own)
{
    for (int i = 0; i < 3; i++) {
        for (size_t from = 0; from < 2; from++) {
            ssize_t sealed = link_seal(links[from], engines[from], plain, 100, wire);
            ssize_t size = link_open(links[1 - from], engines[1 - from], wire, (size_t)sealed);
            cr_assert_eq(size, 100);
            cr_assert_arr_eq(engines[1 - from]->plain, plain, 100);
        }
    }
}

/* Makes several frames, which the tests cut into pieces. */
static void send_frames(const size_t *sizes, size_t count)
{
    size_t at = 0;
    forget();
    for (size_t i = 0; i < count; i++) {
        add_frame(plain + at, sizes[i]);
        at += sizes[i];
    }
}

Test(noise_link, one_byte_at_a_time)
{
    static const size_t sizes[] = {1, 2, 700, 1};
    send_frames(sizes, ARRAY_SIZE(sizes));
    cr_assert_eq(feed_all(1), 0);
    check_opened(plain, 704);
}

/* Cuts at every pair of offsets, so that a frame comes in three reads; also between the two bytes
 * of a header. */
Test(noise_link, cut_anywhere)
{
    static const size_t sizes[] = {1, 7, 3};
    send_frames(sizes, ARRAY_SIZE(sizes));
    struct noise_cipher receive = noise_of(links[1])->receive;
    for (size_t first = 1; first < wire_size; first++) {
        for (size_t second = first + 1; second <= wire_size; second++) {
            opened_size = 0;
            noise_of(links[1])->receive = receive;
            cr_assert_eq(feed(wire, first), 0);
            cr_assert_eq(feed(wire + first, second - first), 0);
            if (second < wire_size)
                cr_assert_eq(feed(wire + second, wire_size - second), 0);
            check_opened(plain, 11);
        }
    }
}

Test(noise_link, a_frame_has_begun)
{
    static const size_t sizes[] = {5, 6};
    send_frames(sizes, ARRAY_SIZE(sizes));
    cr_assert_not((link_fin(links[1]) == ERR_TRUNCATED));
    for (size_t at = 0; at < wire_size; at++) {
        bool ends = at + 1 == 5 + NOISE_FRAME_OVERHEAD || at + 1 == wire_size;
        cr_assert_eq(feed(wire + at, 1), 0);
        cr_assert_eq((link_fin(links[1]) == ERR_TRUNCATED), !ends, "after %zu bytes", at + 1);
    }
}

/* Frames of sizes that other implementations use, up to the largest. */
Test(noise_link, frames_of_peers)
{
    static const size_t sizes[] = {1,    2,     15,    16,    17,    8192,
                                   8193, 16384, 16385, 65518, 65519, NOISE_PAYLOAD_MAX};
    struct random random = {2};
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            size_t more = 1 + random_below(&random, 3000), at = 0;
            forget();
            add_frame(plain, sizes[i]);
            add_frame(plain + sizes[i], more);
            while (at < wire_size) {
                size_t chunk = 1 + random_below(&random, NOISE_BATCH_CODED);
                chunk = MIN(chunk, wire_size - at);
                cr_assert_eq(feed(wire + at, chunk), 0);
                at += chunk;
            }
            check_opened(plain, sizes[i] + more);
        }
    }
}

/* The most plaintext that one call can return: the last byte of the largest frame, then a full
 * batch. */
Test(noise_link, the_largest_call)
{
    forget();
    add_frame(plain, NOISE_PAYLOAD_MAX);
    size_t first = wire_size - 1;
    size_t left = NOISE_BATCH_CODED - 1 - NOISE_FRAME_OVERHEAD;
    size_t next = MIN(left, (size_t)NOISE_PAYLOAD_MAX);
    add_frame(plain, next);
    if (left - next > NOISE_FRAME_OVERHEAD)
        add_frame(plain, MIN(left - next - NOISE_FRAME_OVERHEAD, (size_t)NOISE_PAYLOAD_MAX));
    cr_assert_eq(feed(wire, first), 0);
    cr_assert_eq(opened_size, 0);
    cr_assert_eq(feed(wire + first, MIN(wire_size - first, (size_t)NOISE_BATCH_CODED)), 0);
    cr_assert(memcmp(opened, plain, NOISE_PAYLOAD_MAX) == 0);
    cr_assert(memcmp(opened + NOISE_PAYLOAD_MAX, plain, next) == 0);
    cr_assert_geq(opened_size, NOISE_PAYLOAD_MAX + next);
}

/* ---- invalid frames ---- */

/* A frame that is too short is refused as soon as its header is complete, whatever the reads. */
Test(noise_link, too_short_is_refused)
{
    for (unsigned char length = 0; length <= NOISE_TAG_SIZE; length++) {
        static unsigned char frame[NOISE_FRAME_HEADER + NOISE_TAG_SIZE];
        frame[0] = length;
        cr_assert_eq(feed(frame, NOISE_FRAME_HEADER), -EBADMSG, "length %u", length);
        cr_assert_eq(feed(frame, sizeof(frame)), -EBADMSG, "length %u", length);
        cr_assert_eq(feed(frame, 1), 0);
        cr_assert_eq(feed(frame + 1, 1), -EBADMSG, "length %u", length);
        cr_assert_null(noise_of(links[1])->partial);
        noise_of(links[1])->partial_have = 0;
    }
    cr_assert_eq(opened_size, 0);
}

/* rathole takes an empty frame for an end of stream, and never sends one. */
Test(noise_link, an_empty_frame_is_refused_though_it_is_genuine)
{
    forget();
    add_frame(plain, 0);
    cr_assert_eq(feed_all(wire_size), -EBADMSG);
}

Test(noise_link, a_bad_frame_behind_a_good_one)
{
    static const size_t sizes[] = {10, 20};
    send_frames(sizes, ARRAY_SIZE(sizes));
    wire[wire_size - 1] ^= 1;
    cr_assert_eq(feed_all(wire_size), -EBADMSG);
    cr_assert_eq(opened_size, 0);
}

Test(noise_link, each_flipped_bit_is_refused)
{
    enum { SIZE = 20, FRAME = SIZE + NOISE_FRAME_OVERHEAD };
    forget();
    add_frame(plain, SIZE);
    struct noise_cipher receive = noise_of(links[1])->receive;
    for (size_t bit = 0; bit < (size_t)FRAME * 8; bit++) {
        for (size_t chunk = 1; chunk <= FRAME; chunk += FRAME - 1) {
            wire[bit / 8] ^= (unsigned char)(1u << bit % 8);
            int result = feed_all(chunk);
            wire[bit / 8] ^= (unsigned char)(1u << bit % 8);
            /* A larger length is not wrong yet: more bytes are awaited. */
            cr_assert(result == -EBADMSG || (bit < 16 && (link_fin(links[1]) == ERR_TRUNCATED)),
                      "bit %zu", bit);
            cr_assert_eq(opened_size, 0, "bit %zu", bit);
            cr_assert_eq(noise_of(links[1])->receive.nonce, receive.nonce);
            struct link *fresh[2];
            noise_ends_connect(fresh, engines[0], NOISE_NK);
            link_free(fresh[0]);
            link_free(links[1]);
            links[1] = fresh[1];
            noise_of(links[1])->receive = receive;
        }
    }
    cr_assert_eq(feed_all(wire_size), 0);
    check_opened(plain, SIZE);
}

Test(noise_link, replay_is_refused)
{
    forget();
    add_frame(plain, 50);
    cr_assert_eq(feed_all(wire_size), 0);
    cr_assert_eq(feed_all(wire_size), -EBADMSG);
    check_opened(plain, 50);
}

Test(noise_link, reorder_is_refused)
{
    forget();
    add_frame(plain, 50);
    size_t second = wire_size;
    add_frame(plain + 50, 60);
    cr_assert_eq(feed(wire + second, wire_size - second), -EBADMSG);
    cr_assert_eq(opened_size, 0);
}

Test(noise_link, our_own_frames_are_refused)
{
    ssize_t sealed = link_seal(links[1], engines[1], plain, 100, wire);
    cr_assert_gt(sealed, 0);
    cr_assert_eq(feed(wire, (size_t)sealed), -EBADMSG);
}

Test(noise_link, counters_end)
{
    noise_of(links[0])->send.nonce = noise_of(links[1])->receive.nonce = UINT64_MAX - 1;
    round_trip(10);
    cr_assert_eq(link_seal(links[0], engines[0], plain, 1, wire), -EOVERFLOW);
    /* Also in the middle of a batch. */
    noise_of(links[0])->send.nonce = UINT64_MAX - 1;
    cr_assert_eq(link_seal(links[0], engines[0], plain, NOISE_FRAME_PAYLOAD + 1, wire), -EOVERFLOW);
    /* The same for the receiver's nonces. */
    forget();
    noise_of(links[0])->send.nonce = 0;
    add_frame(plain, 10);
    cr_assert_eq(feed_all(wire_size), -EBADMSG);
}

/* ---- early bytes ---- */

Test(noise_link, early_bytes_are_taken_in_pieces)
{
    unsigned char out[100];
    struct link *link = links[1];
    cr_assert_eq(link_take_early(link, out, sizeof(out)), 0);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(link_keep_early(link, plain, 100), 0);
        cr_assert_eq(link_take_early(link, out, 1), 1);
        cr_assert_eq(link_take_early(link, out + 1, 60), 60);
        cr_assert_not_null(link->early);
        cr_assert_eq(link_take_early(link, out + 61, 1000), 39);
        cr_assert_null(link->early);
        cr_assert_eq(link_take_early(link, out, 1), 0);
        cr_assert_arr_eq(out, plain, 100);
        memset(out, 0, sizeof(out));
    }
}

/* ---- memory ---- */

Test(noise_link, all_memory_comes_back)
{
    struct link_engine *engine;
    struct link *ends[2];
    alloc_count_begin();
    cr_assert_eq(link_engine_create(&engine), 0);
    noise_ends_connect(ends, engine, NOISE_XX);
    cr_assert_eq(link_keep_early(ends[1], plain, 100), 0);
    size_t size = noise_ends_frame(ends[0], engine, plain, 1000, wire);
    cr_assert_eq(link_open(ends[1], engine, wire, size - 1), 0);
    link_free(ends[0]);
    link_free(ends[1]);
    link_free(NULL);
    link_engine_destroy(engine);
    link_engine_destroy(NULL);
    cr_assert_eq(alloc_blocks(), 0);
}

/* An idle connection: two keys, two counters and a few words. */
Test(noise_link, an_idle_link_is_small)
{
    alloc_count_begin();
    link_free(links[0]);
    link_free(links[1]);
    noise_ends_connect(links, engines[0], NOISE_NK);
    forget();
    round_trip(40000);
    forget();
    add_frame(plain, NOISE_PAYLOAD_MAX);
    cr_assert_eq(feed_all(1000), 0);
    cr_assert_eq(alloc_blocks(), 2);
    cr_assert_leq(alloc_bytes(), (size_t)2 * 160);
}

Test(noise_link, an_engine_without_memory)
{
    for (unsigned int n = 1;; n++) {
        struct link_engine *engine = NULL;
        alloc_count_begin();
        alloc_fail_nth(n);
        int result = link_engine_create(&engine);
        if (!alloc_has_failed()) {
            alloc_fail_nth(0);
            cr_assert_eq(result, 0);
            cr_assert_gt(n, 3, "only %u allocations: the test does not reach what it tests", n);
            link_engine_destroy(engine);
            return;
        }
        cr_assert_eq(result, -ENOMEM);
        cr_assert_null(engine);
        cr_assert_eq(alloc_blocks(), 0, "allocation %u", n);
    }
}

Test(noise_link, a_link_without_memory)
{
    static const struct noise_handshake wiped;
    struct noise_keys keys[2];
    struct noise_handshake handshake;
    noise_ends_keys(keys, NOISE_NK);
    memset(&handshake, 0, sizeof(handshake));
    noise_handshake_init(&handshake, &keys[0], true, NULL, 0);
    alloc_fail_nth(1);
    cr_assert_null(noise_link_create(&handshake));
    cr_assert(memcmp(&handshake, &wiped, sizeof(wiped)) == 0);

    alloc_fail_nth(1);
    cr_assert_eq(link_keep_early(links[1], plain, 10), -ENOMEM);
    cr_assert_null(links[1]->early);
    forget();
    add_frame(plain, 100);
    for (size_t first = 1; first <= 2; first++) {
        alloc_fail_nth(1);
        ssize_t result = link_open(links[1], engines[1], wire, first);
        if (first == 1) { /* one byte is kept in the link, without an allocation */
            cr_assert_eq(result, 0);
            result = link_open(links[1], engines[1], wire + 1, 10);
        }
        cr_assert_eq(result, -ENOMEM);
        cr_assert_null(noise_of(links[1])->partial);
    }
}

/* A reload frees the recipe while a handshake waits for its peer, or for a proxy. */
Test(noise_link, the_recipe_may_go_before_the_handshake)
{
    static unsigned char messages[2][4096];
    struct noise_keys keys[2];
    struct handshake *sides[2];
    size_t sizes[2] = {0}, used;
    noise_ends_keys(keys, NOISE_KK);
    for (size_t i = 0; i < 2; i++) {
        struct recipe *recipe = calloc(1, sizeof(*recipe));
        cr_assert_not_null(recipe);
        recipe->holders = 1;
        recipe->is_initiator = i == 0;
        recipe->has_noise = true;
        recipe->noise = keys[i];
        cr_assert_eq(recipe_begin(recipe, NULL, NULL, &sides[i]), 0);
        recipe_destroy(recipe);
    }
    for (size_t i = 0; i < 3; i++) { /* the initiator's message, its answer, the end */
        struct handshake_out out = {.data = messages[i % 2], .room = sizeof(messages[0])};
        int result = handshake_step(sides[i % 2], engines[0], messages[1 - i % 2], sizes[1 - i % 2],
                                    &used, &out);
        cr_assert_eq(result, i == 0 ? HANDSHAKE_MORE : HANDSHAKE_DONE);
        sizes[i % 2] = out.size;
    }
    for (size_t i = 0; i < 2; i++)
        handshake_free(sides[i]);
}
