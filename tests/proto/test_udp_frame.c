/* UDP frames: every header length, every truncation, round trips. The golden bytes are in
 * test_vectors.c. */
#include "proto/udp_frame.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"

static uint8_t wire[UDP_FRAME_MAX + 64];

/* Builds a frame with a header of h bytes in `wire` and returns its size. */
static size_t build(unsigned int h, uint32_t tag, uint16_t payload_len)
{
    size_t octets = tag == 1 ? 16 : 4;
    memset(wire, 0xee, sizeof(wire));
    wire[0] = (uint8_t)h;
    for (size_t i = 0; i < 4; i++)
        wire[1 + i] = (uint8_t)(tag >> 8 * i);
    for (size_t i = 0; i < octets; i++)
        wire[5 + i] = (uint8_t)(i + 1);
    wire[5 + octets] = 0x39;
    wire[6 + octets] = 0x30; /* 12345 */
    wire[7 + octets] = (uint8_t)payload_len;
    wire[8 + octets] = (uint8_t)(payload_len >> 8);
    return 1 + h + (size_t)payload_len;
}

Test(udp_frame, every_header_length)
{
    for (uint32_t tag = 0; tag <= 3; tag++) {
        for (unsigned int h = 0; h <= 255; h++) {
            struct udp_frame frame;
            size_t size = build(h, tag, 3);
            bool right = tag <= 1 && h >= (tag == 1 ? 24 : 12);
            int result = udp_frame_decode(wire, sizeof(wire), &frame);
            cr_assert_eq(result, right ? (int)size : ERR_PROTOCOL, "tag %u, h %u: %d", tag, h,
                         result);
            if (!right)
                continue;
            cr_assert_eq(frame.payload, wire + 1 + h);
            cr_assert_eq(frame.payload_len, 3);
            cr_assert_eq(frame.from.port, 12345);
            cr_assert_eq(frame.from.is_v6, tag);
        }
    }
}

Test(udp_frame, tags_beyond_two_bytes)
{
    struct udp_frame frame;
    static const uint32_t tags[] = {2, 256, 65536, 1u << 24, 0x01000001, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(tags); i++) {
        (void)build(24, tags[i], 0);
        cr_expect_eq(udp_frame_decode(wire, sizeof(wire), &frame), ERR_PROTOCOL);
        cr_expect_eq(udp_frame_decode(wire, 4, &frame), 0, "not known yet");
        cr_expect_eq(udp_frame_decode(wire, 5, &frame), ERR_PROTOCOL, "known at once");
    }
}

/* A frame that lacks any number of bytes is incomplete, and the result is untouched. */
Test(udp_frame, every_cut)
{
    static const struct {
        unsigned int h;
        uint32_t tag;
        uint16_t payload_len;
    } frames[] = {{12, 0, 0}, {12, 0, 5}, {24, 1, 5}, {20, 0, 2}, {255, 1, 1}, {24, 1, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        size_t size = build(frames[i].h, frames[i].tag, frames[i].payload_len);
        struct udp_frame frame, untouched;
        memset(&untouched, 0x77, sizeof(untouched));
        for (size_t len = 0; len < size; len++) {
            memcpy(&frame, &untouched, sizeof(frame));
            cr_assert_eq(udp_frame_decode(wire, len, &frame), 0, "%zu of %zu", len, size);
            cr_assert(memcmp(&frame, &untouched, sizeof(frame)) == 0);
        }
        cr_assert_eq(udp_frame_decode(wire, size, &frame), (int)size);
        cr_assert_eq(udp_frame_decode(wire, size + 1, &frame), (int)size,
                     "the next one is not its");
    }
}

Test(udp_frame, largest)
{
    struct udp_frame frame;
    size_t size = build(255, 1, 65535);
    cr_assert_eq(size, UDP_FRAME_MAX);
    cr_assert_eq(udp_frame_decode(wire, size - 1, &frame), 0);
    cr_assert_eq(udp_frame_decode(wire, size, &frame), UDP_FRAME_MAX);
    cr_assert_eq(frame.payload_len, 65535);
}

Test(udp_frame, addresses_compare_by_all_of_their_fields)
{
    struct udp_frame_addr a = {.octets = {1, 2, 3, 4}, .port = 5};
    struct udp_frame_addr b = a;
    cr_expect(udp_frame_addr_equal(&a, &b));
    b.octets[15] = 1;
    cr_expect_not(udp_frame_addr_equal(&a, &b));
    b = a;
    b.port = 6;
    cr_expect_not(udp_frame_addr_equal(&a, &b));
    b = a;
    b.is_v6 = 1;
    cr_expect_not(udp_frame_addr_equal(&a, &b), "1.2.3.4 is not 102:304::");
    b = a;
    b.octets[0] = 0;
    cr_expect_not(udp_frame_addr_equal(&a, &b));
}
