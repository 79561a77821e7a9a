/* A handshake in either role, and the transport messages after it. The input is a choice byte and
 * frames as on the wire: a little-endian u16, then the message. All keys are fixed, even the
 * ephemeral ones, so that messages in the corpus stay valid. A fuzzer cannot guess a tag, so the
 * choice may let a peer of ours make the handshake or seal the transport messages. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "../../src/crypto/noise_priv.h"
#include "base/macros.h"
#include "chance.h"
#include "crypto/keys.h"
#include "fuzz.h"

enum {
    PATTERN_MASK = 3, /* modulo the number of patterns */
    WE_INITIATE = 4,
    HONEST_HANDSHAKE = 8,  /* our own peer makes the handshake; the input has no messages for it */
    HONEST_TRANSPORT = 16, /* with HONEST_HANDSHAKE: the peer seals the frames of the input */
    PIN_REMOTE_KEY = 32,   /* for XX */
    WRONG_REMOTE_KEY = 64,
    OTHER_BACKEND = 128,
};

enum { PATTERN_COUNT = NOISE_KK + 1, INITIATOR = 0, RESPONDER = 1 };

struct frames {
    const uint8_t *next;
    size_t left;
};

struct run {
    struct noise_keys keys[2];
    struct noise_handshake ours, peers;
    struct noise_cipher send, receive, peer_send, peer_receive;
    struct aead *aead;
    struct frames frames;
    uint8_t choice;
};

static struct aead *backends[2];
static uint8_t private_keys[2][NOISE_KEY_SIZE], public_keys[2][NOISE_KEY_SIZE];
static uint8_t ephemeral_keys[2][NOISE_KEY_SIZE];

static void set_up(void)
{
    if (backends[0] != NULL)
        return;
    chance_begin(0);
    FUZZ_CHECK(keys_init() == 0);
    for (size_t i = 0; i < 2; i++) {
        memset(private_keys[i], 0x11 + (int)i, NOISE_KEY_SIZE);
        memset(ephemeral_keys[i], 0x21 + (int)i, NOISE_KEY_SIZE);
        keys_pair_public(private_keys[i], public_keys[i]);
    }
    FUZZ_CHECK(aead_create_with(AEAD_SODIUM, &backends[0]) == 0);
    if (aead_create_with(AEAD_LIBCRYPTO, &backends[1]) < 0)
        backends[1] = backends[0];
}

/* The next frame, truncated at the end of the input. */
static bool next_frame(struct frames *frames, const uint8_t **ret, size_t *ret_size)
{
    if (frames->left < 2)
        return false;
    size_t size = (size_t)(frames->next[0] | frames->next[1] << 8);
    size = MIN(size, frames->left - 2);
    *ret = frames->next + 2;
    *ret_size = size;
    frames->next += 2 + size;
    frames->left -= 2 + size;
    return true;
}

static void start(struct run *run)
{
    enum noise_pattern pattern = (enum noise_pattern)((run->choice & PATTERN_MASK) % PATTERN_COUNT);
    bool initiator = run->choice & WE_INITIATE;
    for (int i = 0; i < 2; i++) {
        bool ours = (i == INITIATOR) == initiator;
        const uint8_t *remote = public_keys[1 - i];
        if (pattern == NOISE_XX && !(ours && (run->choice & PIN_REMOTE_KEY)))
            remote = NULL;
        else if (ours && (run->choice & WRONG_REMOTE_KEY))
            remote = public_keys[i];
        noise_keys_init(&run->keys[i], pattern, private_keys[i], remote);
    }
    int own = initiator ? INITIATOR : RESPONDER;
    noise_handshake_init(&run->ours, &run->keys[own], initiator, NULL, 0);
    noise_handshake_set_ephemeral(&run->ours, ephemeral_keys[own]);
    noise_handshake_init(&run->peers, &run->keys[1 - own], !initiator, NULL, 0);
    noise_handshake_set_ephemeral(&run->peers, ephemeral_keys[1 - own]);
}

/* Reads a message. A refusal must not change the state, and a payload must have the right size. */
static int read_checked(struct run *run, const uint8_t *message, size_t size)
{
    static uint8_t payload[NOISE_MESSAGE_MAX];
    struct noise_handshake before;
    memcpy(&before, &run->ours, sizeof(before));
    size_t least = noise_handshake_message_size(&run->ours);
    int r = noise_handshake_read(&run->ours, run->aead, message, size, payload);
    if (r < 0) {
        FUZZ_CHECK(r == -EBADMSG || r == -EPROTO);
        FUZZ_CHECK(memcmp(&before, &run->ours, sizeof(before)) == 0);
    } else {
        FUZZ_CHECK(size >= least && (size_t)r == size - least);
        FUZZ_CHECK(run->ours.message == before.message + 1);
    }
    return r;
}

/* Reads a message from our own peer or from the input. False: refused, or no input is left. */
static bool receive_handshake(struct run *run)
{
    uint8_t message[NOISE_HANDSHAKE_MESSAGE_MAX];
    if (run->choice & HONEST_HANDSHAKE) {
        int size = noise_handshake_write(&run->peers, run->aead, NULL, 0, message, sizeof(message));
        FUZZ_CHECK(size > 0 || (run->choice & WRONG_REMOTE_KEY));
        return size > 0 && read_checked(run, message, (size_t)size) == 0;
    }
    const uint8_t *frame;
    size_t size;
    while (next_frame(&run->frames, &frame, &size)) {
        if (read_checked(run, frame, size) >= 0)
            return true; /* a refused message changes nothing, so try the next one */
    }
    return false;
}

static bool send_handshake(struct run *run)
{
    uint8_t message[NOISE_HANDSHAKE_MESSAGE_MAX], payload[1];
    size_t expected = noise_handshake_message_size(&run->ours);
    int size = noise_handshake_write(&run->ours, run->aead, NULL, 0, message, sizeof(message));
    if (size < 0) {
        FUZZ_CHECK(size == -EPROTO); /* the peer's key has small order */
        return false;
    }
    FUZZ_CHECK((size_t)size == expected);
    if (!(run->choice & HONEST_HANDSHAKE))
        return true;
    int r = noise_handshake_read(&run->peers, run->aead, message, (size_t)size, payload);
    FUZZ_CHECK(r == 0 || (run->choice & WRONG_REMOTE_KEY));
    return r == 0;
}

static bool handshake(struct run *run)
{
    while (!noise_handshake_done(&run->ours)) {
        bool passed =
            noise_handshake_is_ours(&run->ours) ? send_handshake(run) : receive_handshake(run);
        if (!passed)
            return false;
    }
    return true;
}

/* Receives a frame of the input unchanged. */
static void receive_transport(struct run *run, const uint8_t *frame, size_t size)
{
    static uint8_t out[NOISE_MESSAGE_MAX];
    struct noise_cipher before;
    memcpy(&before, &run->receive, sizeof(before));
    int r = noise_decrypt(&run->receive, run->aead, frame, size, out);
    FUZZ_CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        FUZZ_CHECK(memcmp(&before, &run->receive, sizeof(before)) == 0);
    else
        FUZZ_CHECK(size >= NOISE_TAG_SIZE && run->receive.nonce == before.nonce + 1);
}

/* A sealed text is refused with one bit flipped, and opens without. */
static void pass_transport(struct run *run, const uint8_t *text, size_t size)
{
    static uint8_t message[NOISE_MESSAGE_MAX], out[NOISE_MESSAGE_MAX];
    size = MIN(size, NOISE_PAYLOAD_MAX);
    size_t sealed_size = size + NOISE_TAG_SIZE;
    FUZZ_CHECK(noise_encrypt(&run->peer_send, run->aead, text, size, message) == 0);
    size_t at = size > 0 ? text[0] % sealed_size : 0;
    message[at] ^= 1;
    receive_transport(run, message, sealed_size);
    FUZZ_CHECK(run->receive.nonce == run->peer_send.nonce - 1);
    message[at] ^= 1;
    FUZZ_CHECK(noise_decrypt(&run->receive, run->aead, message, sealed_size, out) == 0);
    FUZZ_CHECK(size == 0 || memcmp(out, text, size) == 0);
    FUZZ_CHECK(noise_encrypt(&run->send, run->aead, out, size, out) == 0);
    FUZZ_CHECK(noise_decrypt(&run->peer_receive, run->aead, out, sealed_size, out) == 0);
    FUZZ_CHECK(size == 0 || memcmp(out, text, size) == 0);
}

static void transport(struct run *run)
{
    uint8_t ours[NOISE_HASH_SIZE], peers[NOISE_HASH_SIZE];
    bool honest = run->choice & HONEST_HANDSHAKE;
    noise_handshake_split(&run->ours, &run->send, &run->receive, ours);
    if (honest) {
        noise_handshake_split(&run->peers, &run->peer_send, &run->peer_receive, peers);
        FUZZ_CHECK(memcmp(ours, peers, sizeof(ours)) == 0);
    }
    const uint8_t *frame;
    size_t size;
    while (next_frame(&run->frames, &frame, &size)) {
        if (honest && (run->choice & HONEST_TRANSPORT))
            pass_transport(run, frame, size);
        else
            receive_transport(run, frame, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run run;
    if (size == 0)
        return 0;
    set_up();
    run.choice = data[0];
    run.frames = (struct frames){.next = data + 1, .left = size - 1};
    run.aead = backends[run.choice & OTHER_BACKEND ? 1 : 0];
    start(&run);
    if (handshake(&run))
        transport(&run);
    keys_wipe(&run, sizeof(run));
    return 0;
}
