/* The frames of a UDP data channel: a visitor's address and one datagram, one after the other on
 * the stream, the same in both directions.
 *
 *     u8 h | header: u32 family, 4 or 16 octets, u16 port, u16 n; h = 12 or 24 | n bytes of payload
 *
 * The address is always the visitor's. A receiver takes a header that is longer than its fields and
 * ignores the rest; nobody sends one. Integers are little endian, the port too.
 *
 * Pure functions on the caller's memory: payloads are pointed at, never copied. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum udp_frame_sizes {
    UDP_FRAME_HEADER_V4 = 12,
    UDP_FRAME_HEADER_V6 = 24,
    UDP_FRAME_HEAD_MAX = 1 + UDP_FRAME_HEADER_V6, /* in front of a payload, as we send it */
    UDP_FRAME_MAX = 1 + 255 + 65535,              /* as anybody may send it */
    UDP_FRAME_PAYLOAD_MAX = 65507, /* more can't be a datagram over IPv4, and kills a v0.5.0 peer */
};

/* A visitor's address as it stands on the wire. Comparable and hashable as bytes: what a family has
 * no use for is zero. */
struct udp_frame_addr {
    uint8_t octets[16]; /* IPv4: the first four */
    uint16_t port;      /* host order */
    uint8_t is_v6;
    uint8_t zero;
};

struct udp_frame {
    struct udp_frame_addr from;
    const uint8_t *payload;
    uint32_t payload_len;
};

/* Writes what goes in front of payload_len bytes; returns its size. */
size_t udp_frame_encode_head(const struct udp_frame_addr *from, uint16_t payload_len,
                             uint8_t out[static UDP_FRAME_HEAD_MAX]);
/* The frame at the start of bytes: its size; 0 when it is not all there yet (*ret is untouched
 * then); ERR_PROTOCOL for what can't become a frame, whatever follows. */
MUST_CHECK int udp_frame_decode(const uint8_t *bytes, size_t len, struct udp_frame *ret);

static inline bool udp_frame_addr_equal(const struct udp_frame_addr *a,
                                        const struct udp_frame_addr *b)
{
    uint64_t left[2], right[2];
    uint32_t left_rest, right_rest;
    __builtin_memcpy(left, a, sizeof(left));
    __builtin_memcpy(right, b, sizeof(right));
    __builtin_memcpy(&left_rest, &a->port, sizeof(left_rest));
    __builtin_memcpy(&right_rest, &b->port, sizeof(right_rest));
    return left[0] == right[0] && left[1] == right[1] && left_rest == right_rest;
}
