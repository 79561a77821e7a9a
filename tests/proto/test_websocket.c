/* WebSocket frames: the bytes that we send, and what any cut of a peer's bytes decodes to; each
 * thing that a peer must not send. */
#include "proto/websocket.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "testing.h"

enum { STREAM_MAX = 1 << 18, PONGS_MAX = 64 };

static const uint8_t key[WEBSOCKET_MASK_SIZE] = {0x37, 0xfa, 0x21, 0x3d};
static struct websocket_decoder decoder;
static uint8_t control[WEBSOCKET_CONTROL_MAX];
static uint8_t wire[STREAM_MAX], plain[STREAM_MAX], decoded[STREAM_MAX], pongs[PONGS_MAX][125];
static size_t wire_size, plain_size, decoded_size, pong_sizes[PONGS_MAX], pong_count;
static bool has_ended, from_client;

static void begin(bool peer_is_client)
{
    from_client = peer_is_client;
    websocket_decoder_init(&decoder, peer_is_client);
    wire_size = plain_size = decoded_size = pong_count = 0;
    has_ended = false;
}

/* ---- what a peer sends ---- */

/* Any first byte, any form of the size; unlike websocket_encode. */
static void add_header(uint8_t first, uint64_t size, unsigned int size_bytes, bool is_masked)
{
    wire[wire_size++] = first;
    wire[wire_size++] = (uint8_t)((is_masked ? 0x80 : 0) | (size_bytes == 0   ? size
                                                            : size_bytes == 2 ? 126
                                                                              : 127));
    for (unsigned int i = size_bytes; i > 0; i--)
        wire[wire_size++] = (uint8_t)(size >> 8 * (i - 1));
    if (is_masked) {
        memcpy(wire + wire_size, key, sizeof(key));
        wire_size += sizeof(key);
    }
}

static void add_frame(uint8_t first, const void *payload, size_t size)
{
    add_header(first, size, size < 126 ? 0 : size < 65536 ? 2 : 8, from_client);
    for (size_t i = 0; i < size; i++)
        wire[wire_size++] = ((const uint8_t *)payload)[i] ^ (from_client ? key[i % 4] : 0);
}

/* A frame whose payload counts. */
static void add_data(uint8_t first, size_t size)
{
    for (size_t i = 0; i < size; i++)
        plain[plain_size + i] = (uint8_t)(plain_size + i * 7 + (plain_size + i) / 251);
    add_frame(first, plain + plain_size, size);
    plain_size += size;
}

/* ---- decoding ---- */

/* Decodes in memory of exactly the size, in place or to other memory. */
static int feed(const uint8_t *bytes, size_t size, bool in_place)
{
    uint8_t *in = malloc(size), *out = in_place ? in : malloc(size);
    size_t at = 0, have = 0;
    int result = WEBSOCKET_NEEDS_ROOM;
    cr_assert(in != NULL && out != NULL);
    memcpy(in, bytes, size);
    while (result == WEBSOCKET_PINGED || result == WEBSOCKET_NEEDS_ROOM) {
        size_t used = SIZE_MAX, got = SIZE_MAX;
        result = websocket_decode(&decoder, in + at, size - at, &used, out + have, &got);
        cr_assert_leq(used, size - at);
        cr_assert_leq(got, used);
        at += used;
        have += got;
        if (result == WEBSOCKET_PINGED) {
            cr_assert_lt(pong_count, PONGS_MAX);
            if (decoder.control_size > 0)
                memcpy(pongs[pong_count], decoder.control, decoder.control_size);
            pong_sizes[pong_count++] = decoder.control_size;
        } else if (result == WEBSOCKET_NEEDS_ROOM) {
            cr_assert_null(decoder.control, "asked for once");
            decoder.control = control;
        }
    }
    if (!websocket_decoder_needs_control(&decoder))
        decoder.control = NULL;
    if (result == WEBSOCKET_NOTHING)
        cr_assert_eq(at, size);
    has_ended = result == WEBSOCKET_ENDED;
    cr_assert_leq(decoded_size + have, sizeof(decoded));
    memcpy(decoded + decoded_size, out, have);
    decoded_size += have;
    free(in);
    if (!in_place)
        free(out);
    return result;
}

static int feed_all(size_t chunk, bool in_place)
{
    int result = 0;
    for (size_t at = 0; at < wire_size && result == 0; at += chunk)
        result = feed(wire + at, MIN(chunk, wire_size - at), in_place);
    return result;
}

static void expect_decoded(void)
{
    cr_assert_eq(decoded_size, plain_size, "%zu bytes, not %zu", decoded_size, plain_size);
    cr_assert(memcmp(decoded, plain, plain_size) == 0);
    cr_assert_not(websocket_decoder_is_inside_frame(&decoder));
}

/* Begins the same stream again. */
static void restart(void)
{
    websocket_decoder_init(&decoder, from_client);
    decoded_size = pong_count = 0;
    has_ended = false;
}

/* In all chunk sizes up to 40 and whole; cut at each place; each prefix. `check` looks at the
 * result. */
static void in_every_way(int expected, void (*check)(void))
{
    for (int in_place = 0; in_place < 2; in_place++) {
        for (size_t chunk = 1; chunk <= 41; chunk++) {
            restart();
            cr_assert_eq(feed_all(chunk <= 40 ? chunk : wire_size, in_place), expected, "%zu",
                         chunk);
            check();
        }
        for (size_t at = 1; at < wire_size; at++) {
            restart();
            int result = feed(wire, at, in_place);
            cr_assert(result == 0 || result == expected, "%zu", at);
            if (result == 0)
                result = feed(wire + at, wire_size - at, in_place);
            cr_assert_eq(result, expected, "%zu", at);
            check();
        }
    }
}

/* ---- what we send ---- */

/* RFC 6455 section 5.7, as a binary message. */
Test(websocket, golden_bytes)
{
    static const uint8_t bare[] = {0x82, 0x05, 'H', 'e', 'l', 'l', 'o'};
    static const uint8_t masked[] = {0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d,
                                     0x7f, 0x9f, 0x4d, 0x51, 0x58};
    static const uint8_t end[] = {0x88, 0x00}, masked_end[] = {0x88, 0x80, 0x37, 0xfa, 0x21, 0x3d};
    static const uint8_t pong[] = {0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d,
                                   0x7f, 0x9f, 0x4d, 0x51, 0x58};
    uint8_t out[WEBSOCKET_FRAME_HEADER_MAX + 5];
    cr_assert_eq(websocket_encode(WEBSOCKET_BINARY, NULL, "Hello", 5, out), sizeof(bare));
    cr_assert_arr_eq(out, bare, sizeof(bare));
    cr_assert_eq(websocket_encode(WEBSOCKET_BINARY, key, "Hello", 5, out), sizeof(masked));
    cr_assert_arr_eq(out, masked, sizeof(masked));
    cr_assert_eq(websocket_encode(WEBSOCKET_PONG, key, "Hello", 5, out), sizeof(pong));
    cr_assert_arr_eq(out, pong, sizeof(pong));
    cr_assert_eq(websocket_encode(WEBSOCKET_CLOSE, NULL, NULL, 0, out), sizeof(end));
    cr_assert_arr_eq(out, end, sizeof(end));
    cr_assert_eq(websocket_encode(WEBSOCKET_CLOSE, key, NULL, 0, out), sizeof(masked_end));
    cr_assert_arr_eq(out, masked_end, sizeof(masked_end));
}

Test(websocket, sizes_around_the_forms)
{
    static const struct {
        size_t size, header_size;
        uint8_t header[10];
    } cases[] = {
        {0, 2, {0x82, 0}},
        {1, 2, {0x82, 1}},
        {125, 2, {0x82, 125}},
        {126, 4, {0x82, 126, 0, 126}},
        {65535, 4, {0x82, 126, 0xff, 0xff}},
        {65536, 10, {0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
        {131072, 10, {0x82, 127, 0, 0, 0, 0, 0, 2, 0, 0}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int masked = 0; masked < 2; masked++) {
            begin(masked);
            add_data(0x82, cases[i].size);
            size_t header = cases[i].header_size + (masked ? 4 : 0);
            uint8_t *out = malloc(header + cases[i].size);
            cr_assert_not_null(out);
            cr_assert_eq(websocket_encode(WEBSOCKET_BINARY, masked ? key : NULL, plain, plain_size,
                                          out),
                         header + cases[i].size);
            cr_assert_eq(out[1], cases[i].header[1] | (masked ? 0x80 : 0));
            out[1] &= 0x7f;
            cr_assert_arr_eq(out, cases[i].header, cases[i].header_size);
            out[1] = wire[1];
            cr_assert_eq(wire_size, header + cases[i].size);
            cr_assert(memcmp(out, wire, wire_size) == 0);
            free(out);
            cr_assert_eq(feed_all(wire_size, false), 0);
            expect_decoded();
        }
    }
}

/* Each size around the mask's blocks, at each alignment. */
Test(websocket, masks)
{
    static uint8_t out[WEBSOCKET_FRAME_HEADER_MAX + 300 + 8];
    for (size_t size = 0; size < 300; size++) {
        begin(true);
        add_data(0x82, size);
        for (size_t shift = 0; shift < 8; shift++) {
            size_t sent = websocket_encode(WEBSOCKET_BINARY, key, plain, size, out + shift);
            cr_assert_eq(sent, wire_size);
            cr_assert_arr_eq(out + shift, wire, wire_size);
            restart();
            /* The decoded bytes begin before the coded ones, or at them. */
            size_t used, got;
            cr_assert_eq(websocket_decode(&decoder, out + shift, sent, &used, out, &got), 0);
            cr_assert(used == sent && got == size);
            cr_assert_arr_eq(out, plain, size);
        }
    }
}

/* ---- what is decoded ---- */

static void check_stream(void)
{
    expect_decoded();
    cr_assert_eq(pong_count, 2);
    cr_assert_eq(pong_sizes[0], 3);
    cr_assert_arr_eq(pongs[0], "cdn", 3);
    cr_assert_eq(pong_sizes[1], 0);
    cr_assert(has_ended);
}

/* All that is allowed, in one stream. */
Test(websocket, cut_anywhere)
{
    for (int client = 0; client < 2; client++) {
        begin(client);
        add_data(0x82, 1);
        add_data(0x82, 0);
        add_data(0x02, 3); /* a message in three frames, and control frames between them */
        add_frame(0x89, "cdn", 3);
        add_data(0x00, 0);
        add_frame(0x8a, "unasked", 7);
        add_data(0x80, 130);
        add_data(0x02, 0);
        add_data(0x80, 0);
        add_frame(0x89, NULL, 0);
        add_frame(0x8a, NULL, 0);
        add_data(0x82, 150);
        add_frame(0x88, NULL, 0);
        in_every_way(WEBSOCKET_ENDED, check_stream);
    }
}

Test(websocket, large_frames)
{
    struct test_random random = {7};
    for (int round = 0; round < 20; round++) {
        begin(round % 2);
        add_data(0x02, 60000);
        add_data(0x00, 65536);
        add_data(0x80, test_random_below(&random, 100000));
        add_data(0x82, 5);
        for (size_t at = 0; at < wire_size;) {
            size_t chunk = 1 + test_random_below(&random, round < 10 ? 5000 : 140000);
            chunk = MIN(chunk, wire_size - at);
            cr_assert_eq(feed(wire + at, chunk, round % 3 == 0), 0);
            at += chunk;
        }
        expect_decoded();
    }
}

/* Payload comes through as it comes: the frame is not waited for. */
Test(websocket, a_part_of_a_frame)
{
    begin(true);
    add_data(0x82, 1000);
    cr_assert_eq(feed(wire, 8, false), 0);
    cr_assert_eq(decoded_size, 0);
    cr_assert(websocket_decoder_is_inside_frame(&decoder));
    for (size_t at = 8; at < wire_size; at++) {
        cr_assert(websocket_decoder_is_inside_frame(&decoder));
        cr_assert_eq(feed(wire + at, 1, false), 0);
        cr_assert_eq(decoded_size, at - 7);
    }
    expect_decoded();
    cr_assert_eq(feed(wire, 1, false), 0);
    cr_assert(websocket_decoder_is_inside_frame(&decoder));
}

static void check_pings(void)
{
    expect_decoded();
    cr_assert_eq(pong_count, 3);
    for (size_t i = 0; i < 3; i++) {
        static const size_t sizes[] = {125, 1, 124};
        cr_assert_eq(pong_sizes[i], sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++)
            cr_assert_eq(pongs[i][j], (uint8_t)(j + i));
    }
}

Test(websocket, pings)
{
    uint8_t payload[128];
    for (int client = 0; client < 2; client++) {
        begin(client);
        for (size_t i = 0; i < sizeof(payload); i++)
            payload[i] = (uint8_t)i;
        add_data(0x82, 2);
        add_frame(0x89, payload, 125);
        add_data(0x82, 2);
        add_frame(0x89, payload + 1, 1);
        add_frame(0x89, payload + 2, 124);
        add_frame(0x8a, payload, 125);
        in_every_way(WEBSOCKET_NOTHING, check_pings);
    }
}

static void check_ended(void)
{
    expect_decoded();
    cr_assert(has_ended);
    cr_assert_eq(pong_count, 0);
}

Test(websocket, ends)
{
    static const struct {
        const char *payload;
        size_t size;
    } cases[] = {{"", 0},
                 {"\x03\xe8", 2},
                 {"\x03\xe8"
                  "done",
                  6}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int client = 0; client < 2; client++) {
            begin(client);
            add_data(0x82, 20);
            add_frame(0x88, cases[i].payload, cases[i].size);
            in_every_way(WEBSOCKET_ENDED, check_ended);
        }
    }
}

/* Without the control frame's room nothing of it is taken, however often it is asked for. */
Test(websocket, a_control_frame_waits_for_its_room)
{
    size_t used, got;
    begin(true);
    add_frame(0x89, "ping", 4);
    for (size_t at = 0; at < 6; at++) /* its header */
        cr_assert_eq(websocket_decode(&decoder, wire + at, 1, &used, decoded, &got),
                     at < 5 ? WEBSOCKET_NOTHING : WEBSOCKET_NEEDS_ROOM);
    cr_assert(websocket_decoder_needs_control(&decoder));
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(websocket_decode(&decoder, wire + 6, 4, &used, decoded, &got),
                     WEBSOCKET_NEEDS_ROOM);
        cr_assert(used == 0 && got == 0);
    }
    decoder.control = control;
    cr_assert_eq(websocket_decode(&decoder, wire + 6, 4, &used, decoded, &got), WEBSOCKET_PINGED);
    cr_assert(used == 4 && got == 0 && decoder.control_size == 4);
    cr_assert(memcmp(control, "ping", 4) == 0);
    cr_assert_not(websocket_decoder_needs_control(&decoder));
}

/* ---- payload that goes past the decoder ---- */

Test(websocket, a_payload_can_be_skipped)
{
    enum { LARGE = 70000, PART = 60000 };
    size_t used, got;
    begin(false);
    add_data(0x82, LARGE);
    cr_assert_eq(websocket_decoder_header_left(&decoder), 2);
    cr_assert_eq(websocket_decode(&decoder, wire, 2, &used, decoded, &got), 0);
    cr_assert_eq(websocket_decoder_header_left(&decoder), 8);
    cr_assert_eq(websocket_decoder_payload_left(&decoder), 0);
    cr_assert_eq(websocket_decode(&decoder, wire + 2, 8, &used, decoded, &got), 0);
    cr_assert_eq(websocket_decoder_header_left(&decoder), 0);
    cr_assert_eq(websocket_decoder_payload_left(&decoder), LARGE);
    websocket_decoder_skip(&decoder, PART);
    cr_assert(websocket_decoder_is_inside_frame(&decoder));
    cr_assert_eq(websocket_decode(&decoder, wire + 10 + PART, LARGE - PART, &used, decoded, &got),
                 0);
    cr_assert_eq(got, LARGE - PART);
    cr_assert(memcmp(decoded, plain + PART, got) == 0);
    cr_assert_not(websocket_decoder_is_inside_frame(&decoder));
}

Test(websocket, what_can_not_be_skipped)
{
    size_t used, got;
    begin(true); /* masked */
    add_data(0x82, 300);
    cr_assert_eq(websocket_decode(&decoder, wire, 9, &used, decoded, &got), 0);
    cr_assert_eq(websocket_decoder_header_left(&decoder), 0);
    cr_assert_eq(websocket_decoder_payload_left(&decoder), 0);
    begin(false);
    add_frame(0x89, "ping", 4);
    cr_assert_eq(websocket_decode(&decoder, wire, 2, &used, decoded, &got), WEBSOCKET_NEEDS_ROOM);
    cr_assert_eq(websocket_decoder_payload_left(&decoder), 0);
}

/* What follows a Close is not looked at. */
Test(websocket, behind_the_end)
{
    size_t used, got, end;
    begin(false);
    add_data(0x82, 9);
    add_frame(0x88, NULL, 0);
    end = wire_size;
    add_frame(0x82, "more", 4);
    add_frame(0xff, "wrong", 5);
    cr_assert_eq(websocket_decode(&decoder, wire, wire_size, &used, decoded, &got),
                 WEBSOCKET_ENDED);
    cr_assert_eq(used, end);
    cr_assert_eq(got, 9);
}

/* The frame itself and the message may have these sizes. No memory is used for it. */
Test(websocket, the_largest_frames)
{
    static uint8_t chunk[1 << 16];
    begin(false);
    for (int frame = 0; frame < 5; frame++) {
        wire_size = 0;
        add_header(frame == 0 ? 0x02 : 0x00, frame == 4 ? 0 : WEBSOCKET_FRAME_PAYLOAD_MAX,
                   frame == 4 ? 0 : 8, false);
        cr_assert_eq(feed(wire, wire_size, true), 0, "frame %d", frame);
        for (int i = 0; frame < 4 && i < 256; i++) {
            size_t used, got;
            cr_assert_eq(websocket_decode(&decoder, chunk, sizeof(chunk), &used, chunk, &got), 0);
            cr_assert_eq(got, sizeof(chunk));
        }
    }
    /* A byte more is too much, but not for a new message. */
    struct websocket_decoder full = decoder;
    wire_size = 0;
    add_header(0x80, 1, 0, false);
    cr_assert_eq(feed(wire, wire_size, true), ERR_PROTOCOL);
    decoder = full;
    wire_size = 0;
    add_header(0x80, 0, 0, false);
    add_header(0x82, WEBSOCKET_FRAME_PAYLOAD_MAX, 8, false);
    cr_assert_eq(feed(wire, wire_size, true), 0);
}

/* ---- what is refused ---- */

/* The bytes are refused, with the last one of them and no sooner, in any pieces. */
static void expect_refused(const char *what)
{
    for (size_t chunk = 1; chunk <= wire_size; chunk++) {
        restart();
        cr_expect_eq(feed_all(chunk, false), ERR_PROTOCOL, "%s: chunks of %zu", what, chunk);
        cr_expect_eq(decoded_size, plain_size);
    }
    restart();
    if (wire_size > 1)
        cr_expect_eq(feed(wire, wire_size - 1, false), 0, "%s: too soon", what);
}

Test(websocket, first_bytes)
{
    for (int client = 0; client < 2; client++) {
        for (int in_message = 0; in_message < 2; in_message++) {
            for (unsigned int first = 0; first < 256; first++) {
                unsigned int opcode = first & 15;
                bool right = (first & 0x70) == 0 &&
                             (in_message ? opcode == 0 : opcode == 2 || first == 0x88);
                right |= first == 0x89 || first == 0x8a;
                begin(client);
                if (in_message)
                    add_data(0x02, 3);
                if (!right) {
                    wire[wire_size++] = (uint8_t)first;
                    wire[wire_size++] = client ? 0x85 : 0x05;
                    expect_refused("a first byte");
                    continue;
                }
                add_header((uint8_t)first, 5, 0, client);
                cr_expect_eq(feed_all(wire_size, false), 0, "%02x", first);
            }
        }
    }
}

Test(websocket, masks_of_the_wrong_side)
{
    for (int client = 0; client < 2; client++) {
        for (uint8_t first = 0x82; first <= 0x8a; first += 8) {
            begin(client);
            wire[wire_size++] = first;
            wire[wire_size++] = client ? 5 : 0x85;
            expect_refused("a mask");
        }
    }
}

Test(websocket, sizes_in_a_form_that_is_too_long)
{
    static const struct {
        uint64_t size;
        unsigned int bytes;
        bool right;
    } cases[] = {
        {0, 2, false},
        {125, 2, false},
        {126, 2, true},
        {65535, 2, true},
        {0, 8, false},
        {125, 8, false},
        {65535, 8, false},
        {65536, 8, true},
        {WEBSOCKET_FRAME_PAYLOAD_MAX, 8, true},
        {WEBSOCKET_FRAME_PAYLOAD_MAX + 1, 8, false},
        {UINT64_C(1) << 32, 8, false},
        {(UINT64_C(1) << 32) + 65536, 8, false},
        {UINT64_C(1) << 63, 8, false},
        {UINT64_MAX, 8, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int client = 0; client < 2; client++) {
            begin(client);
            add_header(0x82, cases[i].size, cases[i].bytes, client);
            if (cases[i].right)
                cr_expect_eq(feed_all(wire_size, false), 0, "case %zu", i);
            else
                expect_refused("a size");
        }
    }
}

Test(websocket, control_frames_are_short)
{
    for (uint8_t first = 0x88; first <= 0x8a; first++) {
        for (uint8_t size = 126; size <= 127; size++) {
            begin(false);
            wire[wire_size++] = first;
            wire[wire_size++] = size;
            expect_refused("a long control frame");
        }
    }
}

/* No end of the stream, whose receiver would take it for whole. */
Test(websocket, ends_that_are_none)
{
    static const struct {
        const char *payload;
        size_t size;
    } cases[] = {{"\x03\xe9", 2},
                 {"\x03\xea"
                  "protocol error",
                  16},
                 {"\x03\xf3", 2},
                 {"\x00\x00", 2}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        begin(true);
        add_data(0x82, 3);
        add_frame(0x88, cases[i].payload, cases[i].size);
        expect_refused("a status");
    }
    begin(false);
    wire[wire_size++] = 0x88;
    wire[wire_size++] = 1;
    expect_refused("half a status");
}
