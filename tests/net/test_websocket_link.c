/* WebSocket links without a socket, alone and over another link: one side opens what the other has
 * sealed, however the bytes are cut on their way; pings, ends, and what must be refused. */
#include "net/websocket_link.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "record_link.h"
#include "testing.h"

enum { CLIENT, SERVER, WIRE_MAX = 3 * LINK_BATCH_CODED };

static struct link_engine *engines[2];
static struct link *links[2];
static unsigned char plain[2 * LINK_BATCH_PLAIN], wire[WIRE_MAX], opened[WIRE_MAX];
static size_t wire_size, opened_size;

static struct websocket_link *websocket(size_t side)
{
    return container_of(links[side], struct websocket_link, link);
}

static struct record_link *record(size_t side)
{
    return container_of(websocket(side)->inner, struct record_link, link);
}

static void make_links(bool has_inner)
{
    for (size_t side = 0; side < 2; side++) {
        links[side] =
            websocket_link_create(has_inner ? record_link_create() : NULL, side == CLIENT, false);
        cr_assert_not_null(links[side]);
    }
    wire_size = opened_size = 0;
}

static void free_links(void)
{
    for (size_t side = 0; side < 2; side++)
        link_free(links[side]);
}

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    for (size_t i = 0; i < 2; i++)
        cr_assert_eq(link_engine_create(&engines[i]), 0);
    make_links(false);
    keys_random(plain, sizeof(plain));
}

static void tear_down(void)
{
    free_links();
    for (size_t i = 0; i < 2; i++)
        link_engine_destroy(engines[i]);
}

TestSuite(websocket_link, .init = set_up, .fini = tear_down);

/* ---- the bytes on their way ---- */

static void forget(void)
{
    wire_size = opened_size = 0;
}

static size_t seal(size_t from, const unsigned char *bytes, size_t size)
{
    cr_assert_leq(wire_size + LINK_BATCH_CODED, sizeof(wire));
    ssize_t sealed = link_seal(links[from], engines[from], bytes, size, wire + wire_size);
    cr_assert_gt(sealed, 0);
    wire_size += (size_t)sealed;
    return (size_t)sealed;
}

/* A frame that our encoder makes, or whose bytes the test has. */
static void add_frame(size_t from, enum websocket_opcode opcode, const void *payload, size_t size)
{
    static const uint8_t mask[WEBSOCKET_MASK_SIZE] = {9, 8, 7, 6};
    wire_size +=
        websocket_encode(opcode, from == CLIENT ? mask : NULL, payload, size, wire + wire_size);
    cr_assert_leq(wire_size, sizeof(wire));
}

/* Gives bytes to a side with one call, in memory of exactly their size. */
static int feed(size_t to, const unsigned char *bytes, size_t size)
{
    unsigned char *copy = malloc(size);
    cr_assert_not_null(copy);
    memcpy(copy, bytes, size);
    ssize_t result = link_open(links[to], engines[to], copy, size);
    free(copy);
    if (result < 0)
        return (int)result;
    cr_assert_leq(opened_size + (size_t)result, sizeof(opened));
    memcpy(opened + opened_size, engines[to]->plain, (size_t)result);
    opened_size += (size_t)result;
    return 0;
}

static int feed_all(size_t to, size_t chunk)
{
    int result = 0;
    for (size_t at = 0; at < wire_size && result == 0; at += chunk)
        result = feed(to, wire + at, MIN(chunk, wire_size - at));
    return result;
}

static void check_opened(size_t to, size_t size)
{
    cr_assert_eq(opened_size, size, "%zu bytes, not %zu", opened_size, size);
    cr_assert(memcmp(opened, plain, size) == 0);
    cr_assert_not(links[to]->ops->is_inside_frame(links[to]));
}

/* What a side says of its own, as the owner of its socket sends it. */
static void take_reply(size_t from)
{
    memcpy(wire + wire_size, links[from]->reply, links[from]->reply_size);
    wire_size += links[from]->reply_size;
    free(links[from]->reply);
    links[from]->reply = NULL;
    links[from]->reply_size = 0;
}

/* ---- payload ---- */

static void round_trip(size_t from, size_t size)
{
    forget();
    size_t sealed = seal(from, plain, size);
    if (websocket(from)->inner == NULL) {
        size_t header = size < 126 ? 2 : size < 65536 ? 4 : 10;
        cr_assert_eq(sealed, header + (from == CLIENT ? 4 : 0) + size);
    }
    cr_assert_leq(sealed, LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX);
    cr_assert_eq(feed_all(1 - from, LINK_BATCH_CODED), 0);
    check_opened(1 - from, size);
}

static void round_trips(void)
{
    static const size_t sizes[] = {1,
                                   125,
                                   126,
                                   16370,
                                   16371,
                                   16380,
                                   16384,
                                   65535,
                                   65536,
                                   LINK_BATCH_PLAIN - 1,
                                   LINK_BATCH_PLAIN};
    struct random random = {1};
    for (size_t from = 0; from < 2; from++) {
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
            round_trip(from, sizes[i]);
        for (int i = 0; i < 30; i++)
            round_trip(from, 1 + random_below(&random, LINK_BATCH_PLAIN));
    }
}

Test(websocket_link, what_is_sealed_is_opened)
{
    round_trips();
}

Test(websocket_link, over_another_link)
{
    free_links();
    make_links(true);
    round_trips();
    /* A frame fills a record. */
    record(SERVER)->data = 0;
    round_trip(CLIENT, LINK_BATCH_PLAIN);
    cr_assert_eq(record(SERVER)->data, 9);
}

/* A batch is one frame, as rathole makes one of each write, and its bytes are these. */
Test(websocket_link, frames_on_the_wire)
{
    static const unsigned char header[] = {0x82, 127, 0, 0, 0, 0, 0, 2, 0, 0};
    seal(SERVER, plain, LINK_BATCH_PLAIN);
    cr_assert_arr_eq(wire, header, sizeof(header));
    cr_assert(memcmp(wire + sizeof(header), plain, LINK_BATCH_PLAIN) == 0);
    forget();
    seal(CLIENT, plain, 3);
    cr_assert_eq(wire[0], 0x82);
    cr_assert_eq(wire[1], 0x83);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(wire[6 + i], plain[i] ^ wire[2 + i]);
}

/* No byte beyond the batch is written, also at an unaligned address. */
Test(websocket_link, sealing_stays_inside)
{
    size_t size = LINK_BATCH_PLAIN + 14;
    unsigned char *out = malloc(size);
    cr_assert_not_null(out);
    cr_assert_eq(link_seal(links[CLIENT], engines[CLIENT], plain + 1, LINK_BATCH_PLAIN, out),
                 (ssize_t)size);
    free(out);
}

/* Each frame has a mask of its own, also of another link, and beyond one supply of them. */
Test(websocket_link, masks_are_not_used_twice)
{
    static unsigned char masks[200][4];
    struct link *other = websocket_link_create(NULL, true, false);
    cr_assert_not_null(other);
    for (size_t i = 0; i < ARRAY_SIZE(masks); i++) {
        unsigned char frame[16];
        struct link *link = i % 3 == 0 ? other : links[CLIENT];
        cr_assert_eq(link_seal(link, engines[0], plain, 1, frame), 7);
        memcpy(masks[i], frame + 2, 4);
        /* Two of 200 keys of 32 bits are the same once in 200,000 runs; a supply that is used twice
         * repeats many. */
        size_t same = 0;
        for (size_t j = 0; j < i; j++)
            same += memcmp(masks[i], masks[j], 4) == 0;
        cr_assert_leq(same, 1);
    }
    link_free(other);
}

static void cut_anywhere(void)
{
    for (size_t from = 0; from < 2; from++) {
        for (size_t first = 1; first < 200; first++) {
            forget();
            seal(from, plain, 1);
            seal(from, plain + 1, 130);
            seal(from, plain + 131, 20);
            size_t cut = MIN(first, wire_size - 1);
            cr_assert_eq(feed(1 - from, wire, cut), 0);
            cr_assert_eq(feed(1 - from, wire + cut, wire_size - cut), 0);
            check_opened(1 - from, 151);
            cr_assert_null(links[1 - from]->reply);
        }
        forget();
        seal(from, plain, 700);
        cr_assert_eq(feed_all(1 - from, 1), 0);
        check_opened(1 - from, 700);
    }
}

Test(websocket_link, cut_anywhere)
{
    cut_anywhere();
    free_links();
    make_links(true);
    cut_anywhere();
}

/* Payload of a large frame comes at once, and nothing is kept for it. */
Test(websocket_link, a_large_frame_passes_through)
{
    alloc_count_begin();
    seal(SERVER, plain, LINK_BATCH_PLAIN);
    for (size_t at = 0; at < wire_size; at += 1000) {
        size_t chunk = MIN((size_t)1000, wire_size - at);
        cr_assert_eq(feed(CLIENT, wire + at, chunk), 0);
        cr_assert_eq(opened_size, at + chunk - 10);
        cr_assert_eq(links[CLIENT]->ops->is_inside_frame(links[CLIENT]), at + chunk < wire_size);
    }
    check_opened(CLIENT, LINK_BATCH_PLAIN);
    cr_assert_eq(alloc_blocks(), 0);
}

/* ---- the end ---- */

Test(websocket_link, what_links_say_of_themselves)
{
    struct link *holding = websocket_link_create(NULL, false, true);
    cr_assert_not_null(holding);
    cr_assert(holding->holds_end && holding->ends_in_band);
    cr_assert(links[SERVER]->ends_in_band && !links[SERVER]->holds_end);
    cr_assert_leq(link_read_size(holding), LINK_BATCH_CODED);
    link_free(holding);
    link_free(NULL);
}

static void ends(void)
{
    for (size_t from = 0; from < 2; from++) {
        size_t to = 1 - from;
        forget();
        seal(from, plain, 9);
        cr_assert_eq(link_fin(links[to]), ERR_TRUNCATED);
        ssize_t size = link_end(links[from], wire + wire_size);
        cr_assert(size > 0 && size <= LINK_END_MAX);
        wire_size += (size_t)size;
        cr_assert_eq(link_end(links[from], wire + wire_size), 0);
        for (size_t at = 0; at < wire_size; at++) {
            cr_assert_not(links[to]->has_ended);
            cr_assert_eq(feed(to, wire + at, 1), 0);
        }
        cr_assert(links[to]->has_ended);
        cr_assert_eq(link_fin(links[to]), ERR_EOF);
        check_opened(to, 9);
        /* The other direction goes on, before its own end. */
        if (from == CLIENT)
            round_trip(SERVER, 5000);
    }
}

Test(websocket_link, both_ends)
{
    ends();
}

Test(websocket_link, both_ends_over_another_link)
{
    free_links();
    make_links(true);
    ends();
}

Test(websocket_link, the_bytes_of_an_end)
{
    cr_assert_eq(link_end(links[SERVER], wire), 2);
    cr_assert_eq(wire[0], 0x88);
    cr_assert_eq(wire[1], 0);
    cr_assert_eq(link_end(links[CLIENT], wire), 6);
    cr_assert_eq(wire[0], 0x88);
    cr_assert_eq(wire[1], 0x80);
}

/* Bytes behind the end are ignored, in the same call and in the next. */
Test(websocket_link, behind_the_end)
{
    add_frame(SERVER, WEBSOCKET_BINARY, plain, 4);
    add_frame(SERVER, WEBSOCKET_CLOSE, NULL, 0);
    add_frame(SERVER, WEBSOCKET_BINARY, plain, 9);
    add_frame(SERVER, WEBSOCKET_PING, plain, 9);
    memset(wire + wire_size, 0xff, 20);
    wire_size += 20;
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(feed_all(CLIENT, LINK_BATCH_CODED), 0);
        cr_assert(links[CLIENT]->has_ended);
        cr_assert_eq(link_fin(links[CLIENT]), ERR_EOF);
        cr_assert_null(links[CLIENT]->reply);
    }
    check_opened(CLIENT, 4);
}

/* The inner link ends, and no Close has come: the stream was cut. */
Test(websocket_link, an_end_of_the_inner_link_alone)
{
    free_links();
    make_links(true);
    seal(CLIENT, plain, 10);
    wire_size += record_link_put(websocket(CLIENT)->inner, RECORD_END, NULL, 0, wire + wire_size);
    cr_assert_eq(feed_all(SERVER, 5000), ERR_TRUNCATED);
    cr_assert_not(links[SERVER]->has_ended);
    /* With a Close before it, it is nothing new. */
    free_links();
    make_links(true);
    seal(CLIENT, plain, 10);
    wire_size += (size_t)link_end(links[CLIENT], wire + wire_size);
    wire_size += record_link_put(websocket(CLIENT)->inner, RECORD_END, NULL, 0, wire + wire_size);
    cr_assert_eq(feed_all(SERVER, 5000), 0);
    cr_assert(links[SERVER]->has_ended);
    check_opened(SERVER, 10);
}

/* ---- pings ---- */

/* The answer stands in front of what is sealed next; the peer ignores it. */
static void pings(void)
{
    for (size_t from = 0; from < 2; from++) {
        size_t to = 1 - from;
        unsigned char frame[WEBSOCKET_CONTROL_FRAME_MAX];
        static const uint8_t mask[WEBSOCKET_MASK_SIZE] = {1, 2, 3, 4};
        forget();
        seal(from, plain, 3);
        size_t size = websocket_encode(WEBSOCKET_PING, from == CLIENT ? mask : NULL,
                                       "are you there", 13, frame);
        if (websocket(from)->inner != NULL)
            wire_size +=
                record_link_put(websocket(from)->inner, RECORD_DATA, frame, size, wire + wire_size);
        else
            memcpy(wire + (wire_size += size) - size, frame, size);
        seal(from, plain + 3, 4);
        cr_assert_eq(feed_all(to, 5), 0);
        check_opened(to, 7);
        size_t pong = 2 + (to == CLIENT ? 4 : 0) + 13;
        size_t overhead = websocket(to)->inner != NULL ? RECORD_HEADER : 0;
        cr_assert_eq(links[to]->reply_size, pong + overhead);
        forget();
        seal(to, plain, 10);
        cr_assert_eq(wire_size, pong + 12 + (to == CLIENT ? 4 : 0) + 2 * overhead);
        cr_assert_eq(links[to]->reply_size, 0);
        if (overhead == 0)
            cr_assert_eq(wire[0], 0x8a);
        cr_assert_eq(feed_all(from, 3), 0);
        check_opened(from, 10);
        cr_assert_null(links[from]->reply);
    }
}

Test(websocket_link, pings_are_answered)
{
    pings();
    free_links();
    make_links(true);
    pings();
}

/* A peer that sends many pings and reads no answer makes us keep a few, and nothing fails. */
static void ping_flood(void)
{
    unsigned char frame[WEBSOCKET_CONTROL_FRAME_MAX];
    size_t size = websocket_encode(WEBSOCKET_PING, NULL, plain, WEBSOCKET_CONTROL_MAX, frame),
           kept = 0;
    for (int i = 0; i < 1000; i++) {
        forget();
        if (websocket(SERVER)->inner != NULL)
            wire_size = record_link_put(websocket(SERVER)->inner, RECORD_DATA, frame, size, wire);
        else
            memcpy(wire, frame, wire_size = size);
        cr_assert_eq(feed_all(CLIENT, 1000), 0);
        cr_assert_leq(links[CLIENT]->reply_size, LINK_REPLY_MAX * 3 / 4);
        kept = links[CLIENT]->reply_size;
    }
    cr_assert_gt(kept, LINK_REPLY_MAX / 2);
    /* What is kept is right, and then pings are answered again. */
    forget();
    take_reply(CLIENT);
    cr_assert_eq(feed_all(SERVER, 100), 0);
    check_opened(SERVER, 0);
    pings();
}

Test(websocket_link, a_ping_flood)
{
    ping_flood();
    free_links();
    make_links(true);
    ping_flood();
}

Test(websocket_link, no_answer_behind_our_end)
{
    cr_assert_eq(link_end(links[CLIENT], wire), 6);
    add_frame(SERVER, WEBSOCKET_PING, "x", 1);
    add_frame(SERVER, WEBSOCKET_BINARY, plain, 10);
    cr_assert_eq(feed_all(CLIENT, 100), 0);
    cr_assert_null(links[CLIENT]->reply);
    check_opened(CLIENT, 10);
}

/* Answers of the inner link and pongs leave in the order in which they were sealed. */
Test(websocket_link, answers_of_the_inner_link)
{
    free_links();
    make_links(true);
    unsigned char frame[64];
    struct link *inner = websocket(SERVER)->inner;
    size_t size = websocket_encode(WEBSOCKET_PING, NULL, "x", 1, frame);
    wire_size += record_link_put(inner, RECORD_ASK, NULL, 0, wire + wire_size);
    wire_size += record_link_put(inner, RECORD_DATA, frame, size, wire + wire_size);
    seal(SERVER, plain, 2);
    wire_size += record_link_put(inner, RECORD_ASK, NULL, 0, wire + wire_size);
    wire_size += record_link_put(inner, RECORD_DATA, frame, size, wire + wire_size);
    cr_assert_eq(feed_all(CLIENT, 7), 0);
    cr_assert_eq(websocket(CLIENT)->inner->reply_size, 0);
    check_opened(CLIENT, 2);
    forget();
    seal(CLIENT, plain, 20);
    cr_assert_eq(feed_all(SERVER, 100), 0); /* the numbers of the records are checked */
    cr_assert_eq(record(SERVER)->answers, 2);
    check_opened(SERVER, 20);
    /* One that is there before the link is made. */
    free_links();
    make_links(true);
    forget();
    wire_size = record_link_put(websocket(SERVER)->inner, RECORD_ASK, NULL, 0, wire);
    struct link *first = take_ptr(websocket(CLIENT)->inner);
    cr_assert_eq(link_open(first, engines[CLIENT], wire, wire_size), 0);
    link_free(links[CLIENT]);
    links[CLIENT] = websocket_link_create(first, true, false);
    cr_assert_not_null(links[CLIENT]);
    forget();
    seal(CLIENT, plain, 30);
    cr_assert_eq(feed_all(SERVER, 100), 0);
    cr_assert_eq(record(SERVER)->answers, 1);
    check_opened(SERVER, 30);
}

/* ---- what is refused ---- */

Test(websocket_link, wrong_frames)
{
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        {"\xc2\x01x", 3},                                 /* a reserved bit */
        {"\x82\x81\x01\x02\x03\x04x", 7},                 /* masked by a server */
        {"\x81\x01x", 3},                                 /* text */
        {"\x80\x01x", 3},                                 /* the rest of no message */
        {"\x83\x01x", 3},                                 /* an unknown opcode */
        {"\x82\x7e\x00\x01x", 5},                         /* a size in too many bytes */
        {"\x89\x7e\x00\x80", 4},                          /* a long ping */
        {"\x09\x01x", 3},                                 /* a fragmented ping */
        {"\x88\x02\x03\xe9", 4},                          /* going away: no end */
        {"\x02\x01x\x88\x00", 5},                         /* an end inside a message */
        {"\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x01", 10}, /* 16 MiB and a byte */
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (size_t chunk = 1; chunk <= cases[i].size; chunk++) {
            free_links();
            make_links(false);
            add_frame(SERVER, WEBSOCKET_BINARY, plain, 3);
            memcpy(wire + wire_size, cases[i].bytes, cases[i].size);
            wire_size += cases[i].size;
            cr_assert_eq(feed_all(CLIENT, chunk), -EBADMSG, "case %zu", i);
            cr_assert_not(links[CLIENT]->has_ended);
        }
    }
    /* not masked by a client */
    memcpy(wire, "\x82\x01x", wire_size = 3);
    cr_assert_eq(feed_all(SERVER, 3), -EBADMSG);
}

Test(websocket_link, errors_of_the_inner_link)
{
    free_links();
    make_links(true);
    seal(CLIENT, plain, 10);
    forget();
    seal(CLIENT, plain, 10); /* the record before is missing */
    cr_assert_eq(feed_all(SERVER, 100), -EBADMSG);
}

/* ---- memory ---- */

Test(websocket_link, an_idle_link_is_small)
{
    alloc_count_begin();
    free_links();
    make_links(false);
    round_trip(CLIENT, 40000);
    round_trip(SERVER, 40000);
    cr_assert_eq(alloc_blocks(), 2);
    cr_assert_leq(alloc_bytes(), (size_t)2 * 320);
}

Test(websocket_link, all_memory_comes_back)
{
    alloc_count_begin();
    free_links();
    make_links(true);
    pings();
    cr_assert_eq(link_keep_early(links[0], plain, 10), 0);
    free_links();
    cr_assert_eq(alloc_blocks(), 0);
    /* The inner link is freed on failure, too. */
    struct link *inner = record_link_create();
    alloc_fail_nth(1);
    cr_assert_null(websocket_link_create(inner, true, false));
    cr_assert_eq(alloc_blocks(), 0);
    alloc_fail_nth(0);
    make_links(false);
}
