#include "proto/udp_frame.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"

static_assert(sizeof(struct udp_frame_addr) == 20,
              "no padding: it is hashed and compared as bytes");

enum { TAG_V4 = 0, TAG_V6 = 1, TAG_SIZE = 4 };

static void put_u16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static uint16_t get_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t get_u32(const uint8_t *bytes)
{
    return get_u16(bytes) | (uint32_t)get_u16(bytes + 2) << 16;
}

size_t udp_frame_encode_head(const struct udp_frame_addr *from, uint16_t payload_len,
                             uint8_t out[static UDP_FRAME_HEAD_MAX])
{
    size_t octets = from->is_v6 ? 16 : 4;
    uint8_t *at = out;
    *at++ = (uint8_t)(from->is_v6 ? UDP_FRAME_HEADER_V6 : UDP_FRAME_HEADER_V4);
    memset(at, 0, TAG_SIZE);
    *at = from->is_v6 ? TAG_V6 : TAG_V4;
    at += TAG_SIZE;
    memcpy(at, from->octets, octets);
    at += octets;
    put_u16(at, from->port);
    put_u16(at + 2, payload_len);
    return (size_t)(at + 4 - out);
}

int udp_frame_decode(const uint8_t *bytes, size_t len, struct udp_frame *ret)
{
    if (len == 0)
        return 0;
    size_t header = bytes[0];
    if (header < UDP_FRAME_HEADER_V4)
        return ERR_PROTOCOL;
    if (len < 1 + TAG_SIZE)
        return 0;
    uint32_t tag = get_u32(bytes + 1);
    if (tag > TAG_V6 || (tag == TAG_V6 && header < UDP_FRAME_HEADER_V6))
        return ERR_PROTOCOL;
    size_t octets = tag == TAG_V6 ? 16 : 4;
    const uint8_t *after = bytes + 1 + TAG_SIZE + octets;
    if (len < 1 + header)
        return 0;
    size_t payload_len = get_u16(after + 2);
    if (len < 1 + header + payload_len)
        return 0;
    *ret = (struct udp_frame){
        .from = {.port = get_u16(after), .is_v6 = tag == TAG_V6},
        .payload = bytes + 1 + header,
        .payload_len = (uint32_t)payload_len,
    };
    memcpy(ret->from.octets, bytes + 1 + TAG_SIZE, octets);
    return (int)(1 + header + payload_len);
}
