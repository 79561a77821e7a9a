#include "proto/websocket.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"

enum {
    FIN = 0x80,
    RESERVED = 0x70,
    OPCODE = 0x0f,
    IS_CONTROL = 0x08,
    MASKED = 0x80,
    SIZE_IN_16_BITS = 126,
    SIZE_IN_64_BITS = 127,
    STATUS_SIZE = 2,
    STATUS_NORMAL = 1000,
};

/* ---- masking ---- */

/* One vector register, at any address. */
typedef uint8_t lane __attribute__((vector_size(16), aligned(1), may_alias));

/* XORs with the key, from its beginning. out may be in, or begin before it: each lane is loaded
 * before it is stored. */
static void mask_bytes(uint8_t *out, const uint8_t *in, size_t size,
                       const uint8_t key[static WEBSOCKET_MASK_SIZE])
{
    enum { LANE = sizeof(lane), BLOCK = 4 * LANE };
    uint8_t repeated[LANE];
    lane word;
    size_t at = 0;
    for (size_t i = 0; i < LANE; i++)
        repeated[i] = key[i % WEBSOCKET_MASK_SIZE];
    memcpy(&word, repeated, LANE);
    for (; size - at >= BLOCK; at += BLOCK) {
        for (size_t i = at; i < at + BLOCK; i += LANE)
            *(lane *)(out + i) = *(const lane *)(in + i) ^ word;
    }
    for (; at < size; at++)
        out[at] = in[at] ^ repeated[at % LANE];
}

static void turn_mask(uint8_t mask[static WEBSOCKET_MASK_SIZE], size_t by)
{
    uint8_t turned[WEBSOCKET_MASK_SIZE];
    for (size_t i = 0; i < sizeof(turned); i++)
        turned[i] = mask[(i + by) % sizeof(turned)];
    memcpy(mask, turned, sizeof(turned));
}

/* ---- encoding ---- */

size_t websocket_encode_header(enum websocket_opcode opcode, const uint8_t *mask, size_t size,
                               uint8_t out[static WEBSOCKET_FRAME_HEADER_MAX])
{
    uint8_t *at = out + 2;
    unsigned int extended = size < SIZE_IN_16_BITS ? 0 : size <= UINT16_MAX ? 2 : 8;
    out[0] = (uint8_t)(FIN | opcode);
    out[1] = (uint8_t)(extended == 0 ? size : extended == 2 ? SIZE_IN_16_BITS : SIZE_IN_64_BITS);
    for (unsigned int i = extended; i > 0; i--)
        *at++ = (uint8_t)((uint64_t)size >> 8 * (i - 1));
    if (mask != NULL) {
        out[1] |= MASKED;
        memcpy(at, mask, WEBSOCKET_MASK_SIZE);
        at += WEBSOCKET_MASK_SIZE;
    }
    return (size_t)(at - out);
}

size_t websocket_encode(enum websocket_opcode opcode, const uint8_t *mask, const void *payload,
                        size_t size, uint8_t *out)
{
    size_t header = websocket_encode_header(opcode, mask, size, out);
    if (mask != NULL)
        mask_bytes(out + header, payload, size, mask);
    else if (size > 0)
        memmove(out + header, payload, size);
    return header + size;
}

/* ---- decoding ---- */

void websocket_decoder_init(struct websocket_decoder *decoder, bool peer_is_client)
{
    *decoder = (struct websocket_decoder){.is_masked = peer_is_client};
}

bool websocket_decoder_is_inside_frame(const struct websocket_decoder *decoder)
{
    return decoder->header_have > 0 || decoder->payload_left > 0;
}

bool websocket_decoder_needs_control(const struct websocket_decoder *decoder)
{
    return decoder->payload_left > 0 && (decoder->opcode & IS_CONTROL) != 0;
}

/* Checks the first two bytes of a header, as soon as they are there. */
static bool is_allowed(const struct websocket_decoder *decoder)
{
    const uint8_t *header = decoder->header;
    unsigned int opcode = header[0] & OPCODE;
    bool is_final = header[0] & FIN;
    if (header[0] & RESERVED || (bool)(header[1] & MASKED) != decoder->is_masked)
        return false;
    switch (opcode) {
    case WEBSOCKET_CONTINUATION:
        return decoder->in_message;
    case WEBSOCKET_BINARY:
        return !decoder->in_message;
    case WEBSOCKET_CLOSE:
        return is_final && !decoder->in_message && (header[1] & ~MASKED) <= WEBSOCKET_CONTROL_MAX &&
               (header[1] & ~MASKED) != 1;
    case WEBSOCKET_PING:
    case WEBSOCKET_PONG:
        return is_final && (header[1] & ~MASKED) <= WEBSOCKET_CONTROL_MAX;
    default: /* text, and those of extensions */
        return false;
    }
}

static size_t extended_size(const uint8_t *header)
{
    unsigned int size = header[1] & ~MASKED;
    return size < SIZE_IN_16_BITS ? 0 : size == SIZE_IN_16_BITS ? 2 : 8;
}

/* Of the frame whose first two bytes are there. */
static size_t header_size(const struct websocket_decoder *decoder)
{
    return 2 + extended_size(decoder->header) +
           (decoder->is_masked ? (size_t)WEBSOCKET_MASK_SIZE : 0);
}

size_t websocket_decoder_header_left(const struct websocket_decoder *decoder)
{
    if (decoder->payload_left > 0)
        return 0;
    return (decoder->header_have < 2 ? 2 : header_size(decoder)) - decoder->header_have;
}

size_t websocket_decoder_payload_left(const struct websocket_decoder *decoder)
{
    bool is_as_it_is = !decoder->is_masked && (decoder->opcode & IS_CONTROL) == 0;
    return is_as_it_is ? decoder->payload_left : 0;
}

void websocket_decoder_skip(struct websocket_decoder *decoder, size_t size)
{
    assert(size <= websocket_decoder_payload_left(decoder));
    decoder->payload_left -= (uint32_t)size;
}

/* Begins the payload of a frame whose header is whole. */
static int begin_frame(struct websocket_decoder *decoder)
{
    const uint8_t *header = decoder->header;
    size_t extended = extended_size(header);
    uint64_t size = header[1] & ~MASKED;
    if (extended > 0) {
        size = 0;
        for (size_t i = 0; i < extended; i++)
            size = size << 8 | header[2 + i];
        /* The shortest form is the only one. */
        if (size < (extended == 2 ? SIZE_IN_16_BITS : UINT16_MAX + 1))
            return ERR_PROTOCOL;
    }
    memcpy(decoder->mask, header + 2 + extended, WEBSOCKET_MASK_SIZE);
    decoder->opcode = header[0] & OPCODE;
    decoder->header_have = 0;
    decoder->control_size = 0;
    if ((decoder->opcode & IS_CONTROL) == 0) {
        if (!decoder->in_message)
            decoder->message_size = 0;
        if (size > WEBSOCKET_FRAME_PAYLOAD_MAX ||
            size > WEBSOCKET_MESSAGE_MAX - decoder->message_size)
            return ERR_PROTOCOL;
        decoder->message_size += (uint32_t)size;
        decoder->in_message = (header[0] & FIN) == 0;
    }
    decoder->payload_left = (uint32_t)size;
    return 0;
}

/* Returns 1 if the header is whole. */
static int take_header(struct websocket_decoder *decoder, const uint8_t **at, const uint8_t *end)
{
    size_t needed = decoder->header_have < 2 ? 2 : header_size(decoder);
    for (;;) {
        size_t count = MIN(needed - decoder->header_have, (size_t)(end - *at));
        memcpy(decoder->header + decoder->header_have, *at, count);
        *at += count;
        decoder->header_have += (uint8_t)count;
        if (decoder->header_have < needed)
            return 0;
        if (needed == 2 && !is_allowed(decoder))
            return ERR_PROTOCOL;
        if (needed == header_size(decoder))
            break;
        needed = header_size(decoder);
    }
    int result = begin_frame(decoder);
    return result < 0 ? result : 1;
}

static size_t take_payload(struct websocket_decoder *decoder, const uint8_t **at,
                           const uint8_t *end, uint8_t *out)
{
    size_t size = MIN((size_t)decoder->payload_left, (size_t)(end - *at));
    if (decoder->is_masked) {
        mask_bytes(out, *at, size, decoder->mask);
        turn_mask(decoder->mask, size);
    } else if (size > 0) {
        memmove(out, *at, size);
    }
    *at += size;
    decoder->payload_left -= (uint32_t)size;
    return size;
}

/* A control frame is whole. */
static int take_control_frame(const struct websocket_decoder *decoder)
{
    if (decoder->opcode == WEBSOCKET_PING)
        return WEBSOCKET_PINGED;
    if (decoder->opcode == WEBSOCKET_PONG)
        return WEBSOCKET_NOTHING;
    if (decoder->control_size < STATUS_SIZE)
        return WEBSOCKET_ENDED;
    unsigned int status = (unsigned int)decoder->control[0] << 8 | decoder->control[1];
    return status == STATUS_NORMAL ? WEBSOCKET_ENDED : ERR_PROTOCOL;
}

static int take_control_payload(struct websocket_decoder *decoder, const uint8_t **at,
                                const uint8_t *end)
{
    if (decoder->payload_left > 0 && decoder->control == NULL)
        return WEBSOCKET_NEEDS_ROOM;
    if (decoder->payload_left > 0)
        decoder->control_size +=
            (uint8_t)take_payload(decoder, at, end, decoder->control + decoder->control_size);
    return decoder->payload_left > 0 ? WEBSOCKET_NOTHING : take_control_frame(decoder);
}

int websocket_decode(struct websocket_decoder *decoder, const uint8_t *bytes, size_t size,
                     size_t *used, uint8_t *out, size_t *ret_size)
{
    const uint8_t *at = bytes, *end = bytes + size;
    int result = WEBSOCKET_NOTHING;
    *ret_size = 0;
    while (at < end && result == WEBSOCKET_NOTHING) {
        if (decoder->payload_left == 0) {
            result = take_header(decoder, &at, end);
            if (result <= 0)
                break;
            result = WEBSOCKET_NOTHING;
        }
        if (decoder->opcode & IS_CONTROL)
            result = take_control_payload(decoder, &at, end);
        else
            *ret_size += take_payload(decoder, &at, end, out + *ret_size);
    }
    *used = (size_t)(at - bytes);
    return result;
}
