/* WebSocket frames in arbitrary pieces. The input is a choice byte, a byte that decides where the
 * stream is cut, and either the received bytes themselves, or payloads (with little-endian u16
 * sizes) that our encoder frames. All ways of cutting the stream lead to the same payload, pings
 * and end, or to an error; in place or not. */
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "fuzz.h"
#include "proto/websocket.h"

enum {
    PEER_IS_CLIENT = 1,
    ENCODED = 2, /* by us */
    IN_PLACE = 4,
    WIRE_MAX = 256 << 10,
};

struct received {
    uint8_t plain[WIRE_MAX], pings[WIRE_MAX];
    size_t size, pings_size, used;
    int result;
    bool is_inside_frame;
};

static uint8_t wire[WIRE_MAX], plain[WIRE_MAX];
static size_t wire_size, plain_size;

static void check_state(const struct websocket_decoder *decoder)
{
    FUZZ_CHECK(decoder->payload_left <= WEBSOCKET_FRAME_PAYLOAD_MAX);
    FUZZ_CHECK(decoder->message_size <= WEBSOCKET_MESSAGE_MAX);
    FUZZ_CHECK(decoder->header_have <= WEBSOCKET_FRAME_HEADER_MAX);
    FUZZ_CHECK(decoder->control_size <= WEBSOCKET_CONTROL_MAX);
}

/* Decodes one piece, in heap blocks of exactly its size. */
static void receive_piece(struct received *received, struct websocket_decoder *decoder,
                          const uint8_t *bytes, size_t size, bool in_place)
{
    uint8_t *piece = malloc(size), *out = in_place ? piece : malloc(size);
    size_t at = 0, have = 0;
    FUZZ_CHECK(piece != NULL && out != NULL);
    memcpy(piece, bytes, size);
    do {
        size_t used = SIZE_MAX, got = SIZE_MAX;
        received->result =
            websocket_decode(decoder, piece + at, size - at, &used, out + have, &got);
        FUZZ_CHECK(used <= size - at && got <= used);
        at += used;
        have += got;
        check_state(decoder);
        if (received->result == WEBSOCKET_PINGED) {
            received->pings[received->pings_size++] = decoder->control_size;
            memcpy(received->pings + received->pings_size, decoder->control, decoder->control_size);
            received->pings_size += decoder->control_size;
        }
    } while (received->result == WEBSOCKET_PINGED);
    FUZZ_CHECK(received->result != WEBSOCKET_NOTHING || at == size);
    FUZZ_CHECK(received->size + have <= sizeof(received->plain));
    memcpy(received->plain + received->size, out, have);
    received->size += have;
    received->used += at;
    free(piece);
    if (!in_place)
        free(out);
}

static void receive(struct received *received, uint8_t choice, size_t most, uint32_t random)
{
    struct websocket_decoder decoder;
    static uint8_t control[WEBSOCKET_CONTROL_MAX];
    websocket_decoder_init(&decoder, choice & PEER_IS_CLIENT);
    decoder.control = control;
    received->size = received->pings_size = received->used = 0;
    received->result = WEBSOCKET_NOTHING;
    for (size_t at = 0; at < wire_size && received->result == WEBSOCKET_NOTHING;) {
        random = random * 1664525 + 1013904223;
        size_t size = MIN(1 + (random >> 8) % most, wire_size - at);
        receive_piece(received, &decoder, wire + at, size, choice & IN_PLACE);
        at += size;
    }
    received->is_inside_frame = websocket_decoder_is_inside_frame(&decoder);
}

/* Frames of the sizes in the input. Bytes that the input lacks are filled up. */
static void encode(const uint8_t *data, size_t size, const uint8_t *mask)
{
    while (size >= 2) {
        size_t length = (size_t)(data[0] | data[1] << 8) * (data[1] & 1 ? 2 : 1);
        data += 2;
        size -= 2;
        if (wire_size + length + WEBSOCKET_FRAME_HEADER_MAX > WIRE_MAX)
            continue;
        uint8_t *text = plain + plain_size;
        size_t taken = MIN(size, length);
        memset(text, 0x77, length);
        memcpy(text, data, taken);
        data += taken;
        size -= taken;
        wire_size += websocket_encode(WEBSOCKET_BINARY, mask, text, length, wire + wire_size);
        plain_size += length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {WIRE_MAX, 1, 40, 3000};
    static const uint8_t mask[WEBSOCKET_MASK_SIZE] = {1, 0x80, 0xff, 0x5a};
    static struct received first, other;
    if (size < 2)
        return 0;
    wire_size = plain_size = 0;
    if (data[0] & ENCODED) {
        encode(data + 2, size - 2, data[0] & PEER_IS_CLIENT ? mask : NULL);
    } else {
        wire_size = MIN(size - 2, (size_t)WIRE_MAX);
        memcpy(wire, data + 2, wire_size);
    }
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        struct received *received = i == 0 ? &first : &other;
        /* Tiny pieces of a large stream take too long. */
        if (i > 0 && wire_size / pieces[i] > 4096)
            continue;
        receive(received, data[0], pieces[i], data[1]);
        FUZZ_CHECK(received->result == WEBSOCKET_NOTHING || received->result == WEBSOCKET_ENDED ||
                   received->result == ERR_PROTOCOL);
        if (data[0] & ENCODED)
            FUZZ_CHECK(received->result == WEBSOCKET_NOTHING && !received->is_inside_frame &&
                       received->size == plain_size &&
                       memcmp(received->plain, plain, plain_size) == 0);
        if (i == 0)
            continue;
        FUZZ_CHECK(other.result == first.result);
        FUZZ_CHECK(other.used == first.used && other.pings_size == first.pings_size);
        FUZZ_CHECK(memcmp(other.pings, first.pings, first.pings_size) == 0);
        FUZZ_CHECK(other.size == first.size && memcmp(other.plain, first.plain, first.size) == 0);
        FUZZ_CHECK(other.is_inside_frame == first.is_inside_frame);
    }
    return 0;
}
