/* Frames of a Noise connection in arbitrary pieces. The input is a choice byte, a byte that decides
 * where the stream is cut, and then either the received bytes themselves, or plaintexts (with
 * little-endian u16 sizes) that a peer of ours seals, with at most one byte changed afterwards. All
 * ways of cutting the stream lead to the same plaintext or the same error. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "chance.h"
#include "crypto/keys.h"
#include "fuzz.h"
#include "net/noise_link.h"
#include "noise_ends.h"

enum {
    SEALED_BY_A_PEER = 1,
    WITH_A_CHANGE = 2, /* to a sealed byte; the first 3 bytes of the input say where and how */
    WIRE_MAX = 256 << 10,
};

struct received {
    unsigned char plain[WIRE_MAX];
    size_t size;
    int error;
};

static struct link_engine *engine;
static struct noise_link fresh; /* as it is after a handshake, which is not what this is about */
static unsigned char wire[WIRE_MAX], plain[WIRE_MAX];
static size_t wire_size, plain_size;
/* The plaintext before the changed frame. */
static size_t intact_size;

static void set_up(void)
{
    struct link *links[2];
    if (engine != NULL)
        return;
    chance_begin(0);
    FUZZ_CHECK(keys_init() == 0);
    FUZZ_CHECK(link_engine_create(&engine) == 0);
    noise_ends_connect(links, engine, NOISE_NK);
    fresh = *noise_of(links[0]);
    memset(fresh.send.key, 0x42, NOISE_KEY_SIZE);
    memset(fresh.receive.key, 0x42, NOISE_KEY_SIZE);
    link_free(links[0]);
    link_free(links[1]);
}

static struct link *make_link(void)
{
    struct noise_link *noise = malloc(sizeof(*noise));
    FUZZ_CHECK(noise != NULL);
    *noise = fresh;
    return &noise->link;
}

static void check_state(struct link *link)
{
    const struct noise_link *noise = noise_of(link);
    FUZZ_CHECK((link_fin(link) == ERR_TRUNCATED) == (noise->partial_have > 0));
    FUZZ_CHECK((noise->partial != NULL) == (noise->partial_have >= NOISE_FRAME_HEADER));
    if (noise->partial != NULL)
        FUZZ_CHECK(noise->partial_have < noise->partial_size &&
                   noise->partial_size <= NOISE_FRAME_HEADER + NOISE_MESSAGE_MAX);
}

/* Opens the stream in pieces of at most `most` bytes, in heap blocks of exactly that size. */
static void receive(struct received *received, size_t most, uint32_t random)
{
    struct link *link = make_link();
    received->size = 0;
    received->error = 0;
    for (size_t at = 0; at < wire_size && received->error == 0;) {
        random = random * 1664525 + 1013904223;
        size_t size = MIN(1 + (random >> 8) % most, wire_size - at);
        uint64_t nonce = noise_of(link)->receive.nonce;
        unsigned char *piece = malloc(size);
        FUZZ_CHECK(piece != NULL);
        memcpy(piece, wire + at, size);
        ssize_t opened = link_open(link, engine, piece, size);
        free(piece);
        at += size;
        if (opened < 0) {
            FUZZ_CHECK(opened == -EBADMSG);
            received->error = (int)opened;
        } else {
            FUZZ_CHECK((opened > 0) == (noise_of(link)->receive.nonce > nonce));
            FUZZ_CHECK(received->size + (size_t)opened <= sizeof(received->plain));
            memcpy(received->plain + received->size, engine->plain, (size_t)opened);
            received->size += (size_t)opened;
            check_state(link);
        }
    }
    link_free(link);
}

/* Seals frames of the sizes in the input. Text that the input lacks is filled up. */
static void seal(const uint8_t *data, size_t size)
{
    struct link *link = make_link();
    while (size >= 2) {
        size_t length = (size_t)(data[0] | data[1] << 8);
        length = length > NOISE_PAYLOAD_MAX ? NOISE_PAYLOAD_MAX : length;
        data += 2;
        size -= 2;
        if (length == 0 || plain_size + length > WIRE_MAX ||
            wire_size + length + NOISE_FRAME_OVERHEAD > WIRE_MAX)
            continue;
        unsigned char *frame = wire + wire_size, *text = plain + plain_size;
        size_t taken = MIN(size, length);
        memset(text, 0x77, length);
        memcpy(text, data, taken);
        data += taken;
        size -= taken;
        frame[0] = (unsigned char)(length + NOISE_TAG_SIZE);
        frame[1] = (unsigned char)((length + NOISE_TAG_SIZE) >> 8);
        FUZZ_CHECK(noise_encrypt(&noise_of(link)->send, engine->aead, text, length,
                                 frame + NOISE_FRAME_HEADER) == 0);
        plain_size += length;
        wire_size += length + NOISE_FRAME_OVERHEAD;
    }
    link_free(link);
}

static void change(size_t at, uint8_t how)
{
    size_t begin = 0;
    intact_size = 0;
    for (;;) {
        size_t frame = NOISE_FRAME_HEADER + (size_t)(wire[begin] | wire[begin + 1] << 8);
        if (at < begin + frame)
            break;
        intact_size += frame - NOISE_FRAME_OVERHEAD;
        begin += frame;
    }
    wire[at] ^= how;
}

/* Fills `wire` from the input. False: it stays empty. */
static bool prepare(const uint8_t *data, size_t size)
{
    wire_size = plain_size = 0;
    uint8_t choice = data[0];
    data += 2;
    size -= 2;
    if (!(choice & SEALED_BY_A_PEER)) {
        wire_size = MIN(size, (size_t)WIRE_MAX);
        memcpy(wire, data, wire_size);
        return wire_size > 0;
    }
    bool changed = choice & WITH_A_CHANGE;
    if (changed && size < 3)
        return false;
    seal(data + (changed ? 3 : 0), size - (changed ? 3 : 0));
    intact_size = plain_size;
    if (wire_size > 0 && changed && data[2] != 0)
        change((size_t)(data[0] | data[1] << 8) % wire_size, data[2]);
    return wire_size > 0;
}

static void check_peer(const struct received *received)
{
    FUZZ_CHECK(received->size <= intact_size);
    FUZZ_CHECK(memcmp(received->plain, plain, received->size) == 0);
    if (intact_size == plain_size)
        FUZZ_CHECK(received->error == 0 && received->size == plain_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {NOISE_BATCH_CODED, 1, 40, 3000};
    static struct received first, other;
    if (size < 2)
        return 0;
    set_up();
    if (!prepare(data, size))
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        struct received *received = i == 0 ? &first : &other;
        /* Tiny pieces of a large stream take too long. */
        if (i > 0 && wire_size / pieces[i] > 4096)
            continue;
        receive(received, pieces[i], data[1]);
        if (data[0] & SEALED_BY_A_PEER)
            check_peer(received);
        if (i == 0)
            continue;
        FUZZ_CHECK(other.error == first.error);
        if (first.error == 0)
            FUZZ_CHECK(other.size == first.size &&
                       memcmp(other.plain, first.plain, other.size) == 0);
    }
    return 0;
}
