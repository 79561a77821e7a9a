/* The frames of a UDP data channel. A frame is a visitor's address and one datagram, the same in
 * both directions; frames follow each other on the stream.
 *
 *     u8 h | header: u32 family, 4 or 16 octets, u16 port, u16 n; h = 12 or 24 | n bytes of payload
 *
 * The address is always the visitor's. A decoder accepts a header that is longer than its fields
 * and ignores the rest; no encoder writes one. Integers are little endian, even the port.
 *
 * Pure functions on the caller's memory. Payloads are pointed at, not copied. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum udp_frame_sizes {
    UDP_FRAME_HEADER_V4 = 12,
    UDP_FRAME_HEADER_V6 = 24,
    UDP_FRAME_HEAD_MAX = 1 + UDP_FRAME_HEADER_V6, /* in front of a payload that we send */
    UDP_FRAME_MAX = 1 + 255 + 65535,              /* the longest that a peer may send */
    UDP_FRAME_PAYLOAD_MAX = 65507, /* the largest over IPv4; more ends a v0.5.0 server's session */
};

/* A visitor's address. Unused bytes are zero, so it can be compared and hashed as bytes. */
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

/* Writes the head of a frame with payload_len bytes of payload, and returns the head's size. */
size_t udp_frame_encode_head(const struct udp_frame_addr *from, uint16_t payload_len,
                             uint8_t out[static UDP_FRAME_HEAD_MAX]);
/* Decodes the frame at the start of bytes and returns its size. 0: it is incomplete, and *ret is
 * untouched. ERR_PROTOCOL: these bytes begin no valid frame. */
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
