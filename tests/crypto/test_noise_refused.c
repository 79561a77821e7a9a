/* src/crypto/noise.c and src/crypto/noise_symmetric.c: messages that are refused, which must not
 * change the state. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "crypto/noise.h"
#include "crypto/x25519.h"
#include "hex.h"
#include "noise_pair.h"

TestSuite(noise_refused, .init = pair_set_up, .fini = pair_tear_down);

/* The linker calls the wrapper instead of x25519_shared. */
static unsigned int shared_count;
int __real_x25519_shared(const uint8_t private_key[static X25519_SIZE],
                         const uint8_t public_key[static X25519_SIZE],
                         uint8_t ret[static X25519_SIZE]);
int __wrap_x25519_shared(const uint8_t private_key[static X25519_SIZE],
                         const uint8_t public_key[static X25519_SIZE],
                         uint8_t ret[static X25519_SIZE]);

int __wrap_x25519_shared(const uint8_t private_key[static X25519_SIZE],
                         const uint8_t public_key[static X25519_SIZE],
                         uint8_t ret[static X25519_SIZE])
{
    shared_count++;
    return __real_x25519_shared(private_key, public_key, ret);
}

/* pair.message is refused with this result, twice, and the state stays the same. */
static void expect_refused(struct noise_handshake *handshake, int result, const char *what)
{
    struct noise_handshake before;
    memcpy(&before, handshake, sizeof(before));
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(pair_read(handshake), result, "%s", what);
        cr_expect(memcmp(&before, handshake, sizeof(before)) == 0, "%s: the state", what);
    }
}

static void flip_bits(enum noise_pattern pattern, size_t message)
{
    struct noise_handshake *to = pair_reader();
    pair_write();
    /* The first message of XX has no tag: see unauthenticated_message below. */
    for (int bit = 0; !(pattern == NOISE_XX && message == 0) && bit < 8 * pair.size; bit++) {
        struct noise_handshake before;
        memcpy(&before, to, sizeof(before));
        pair.message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int r = pair_read(to);
        /* Static keys are encrypted, so a changed one is -EBADMSG as well. */
        cr_expect_eq(r, -EBADMSG, "pattern %d, message %zu, bit %d", pattern, message, bit);
        cr_expect(memcmp(&before, to, sizeof(before)) == 0);
        pair.message[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_expect_eq(pair_read(to), 0, "as it was sent it is fine, even after refusals");
}

Test(noise_refused, flipped_bits_in_the_handshake)
{
    pair_before_each_message(flip_bits);
}

/* A change in a message without a tag makes the next message fail. */
Test(noise_refused, unauthenticated_message)
{
    for (size_t bit = 0; bit < 8 * NOISE_KEY_SIZE; bit++) {
        pair_begin(NOISE_XX);
        struct noise_handshake *to = pair_reader();
        pair_write();
        pair.message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_eq(pair_read(to), 0);
        to = pair_reader();
        pair_write();
        expect_refused(to, -EBADMSG, "a flipped bit in e");
    }
}

static void cut(enum noise_pattern pattern, size_t message)
{
    struct noise_handshake *to = pair_reader();
    pair_write();
    int size = pair.size;
    shared_count = 0;
    for (pair.size = 0; pair.size < size; pair.size++)
        expect_refused(to, -EPROTO, "a short message");
    pair.size = NOISE_MESSAGE_MAX + 1; /* refused before a byte is read */
    expect_refused(to, -EPROTO, "a message that no frame can hold");
    cr_expect_eq(shared_count, 0, "lengths come before any X25519");
    pair.size = size + 1;
    if (!(pattern == NOISE_XX && message == 0))
        expect_refused(to, -EBADMSG, "a byte more");
    pair.size = size;
    cr_expect_eq(pair_read(to), 0);
    cr_expect(pattern == NOISE_XX || shared_count > 0, "the counter counts");
}

Test(noise_refused, cut_handshake_messages)
{
    pair_before_each_message(cut);
}

static void in_wrong_turn(enum noise_pattern pattern, size_t message)
{
    struct noise_handshake *from = pair_writer(), *to = pair_reader();
    struct noise_handshake before;
    uint8_t out[BUFFER_SIZE];
    memcpy(&before, to, sizeof(before));
    cr_expect_not(noise_handshake_is_ours(to));
    cr_expect_eq(noise_handshake_write(to, pair.aead, NULL, 0, out, sizeof(out)), -EPROTO);
    cr_expect(memcmp(&before, to, sizeof(before)) == 0);
    memset(pair.message, 0, sizeof(pair.message));
    pair.size = (int)noise_handshake_message_size(from);
    expect_refused(from, -EPROTO, "a message when it is ours to write");
    pair_pass();
    expect_refused(to, noise_handshake_done(to) || noise_handshake_is_ours(to) ? -EPROTO : -EBADMSG,
                   "the same message again");
}

Test(noise_refused, wrong_turn)
{
    pair_before_each_message(in_wrong_turn);
}

Test(noise_refused, after_the_last_message)
{
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        uint8_t out[BUFFER_SIZE];
        pair_begin((enum noise_pattern)i);
        while (!pair_is_done())
            pair_pass();
        for (size_t j = 0; j < SIDE_COUNT; j++) {
            struct noise_handshake *handshake = &pair.sides[j].handshake;
            cr_expect_not(noise_handshake_is_ours(handshake));
            cr_expect_eq(noise_handshake_write(handshake, pair.aead, NULL, 0, out, sizeof(out)),
                         -EPROTO);
            expect_refused(handshake, -EPROTO, "one message too many");
        }
    }
}

/* The seven points of small order in 255 bits. The highest bit is ignored, so each has a second
 * encoding. */
static const char *const small_order[] = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

static void send_small_order(enum noise_pattern pattern, const uint8_t *point)
{
    pair_begin(pattern);
    struct noise_handshake *to = pair_reader();
    pair_write();
    memcpy(pair.message, point, NOISE_KEY_SIZE);
    if (pattern != NOISE_XX) {
        expect_refused(to, -EPROTO, "a small-order e");
        pair_begin(pattern);
        pair_pass();
    } else { /* XX has no DH in its first message: the responder notices when it answers */
        uint8_t out[BUFFER_SIZE];
        struct noise_handshake before;
        cr_expect_eq(pair_read(to), 0);
        memcpy(&before, to, sizeof(before));
        cr_expect_eq(noise_handshake_write(to, pair.aead, NULL, 0, out, sizeof(out)), -EPROTO);
        cr_expect(memcmp(&before, to, sizeof(before)) == 0);
        pair_begin(pattern);
        pair_pass();
    }
    to = pair_reader();
    pair_write();
    memcpy(pair.message, point, NOISE_KEY_SIZE);
    expect_refused(to, -EPROTO, "a small-order e in the answer");
}

Test(noise_refused, small_order_ephemerals)
{
    for (size_t i = 0; i < ARRAY_SIZE(small_order); i++) {
        for (uint8_t high = 0; high < 2; high++) {
            uint8_t point[NOISE_KEY_SIZE];
            from_hex(small_order[i], point, sizeof(point));
            point[NOISE_KEY_SIZE - 1] |= (uint8_t)(high << 7);
            for (size_t j = 0; j < PATTERN_COUNT; j++)
                send_small_order((enum noise_pattern)j, point);
        }
    }
}

/* The key is configured (NK, KK) or sent encrypted (XX). */
Test(noise_refused, small_order_static_keys)
{
    uint8_t out[BUFFER_SIZE], point[NOISE_KEY_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(small_order); i++) {
        from_hex(small_order[i], point, sizeof(point));
        for (size_t j = 0; j < PATTERN_COUNT; j++) {
            pair_begin((enum noise_pattern)j);
            if (j == NOISE_XX) {
                memcpy(pair.sides[RESPONDER].keys.local_public, point, sizeof(point));
                pair_pass();
                struct noise_handshake *to = pair_reader();
                pair_write();
                expect_refused(to, -EPROTO, "a small-order static key");
                continue;
            }
            noise_keys_init(&pair.sides[INITIATOR].keys, (enum noise_pattern)j, NULL, point);
            pair_begin_with_prologues("", "");
            cr_expect_eq(noise_handshake_write(&pair.sides[INITIATOR].handshake, pair.aead, NULL, 0,
                                               out, sizeof(out)),
                         -EPROTO);
            cr_expect_eq(pair.sides[INITIATOR].handshake.message, 0);
        }
    }
}

/* The client has another server's key; with KK also the server another client's. */
Test(noise_refused, wrong_static_keys)
{
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        for (size_t j = 0; j < SIDE_COUNT; j++) {
            pair_begin((enum noise_pattern)i);
            if (!pair.sides[j].keys.has_remote_public)
                continue;
            uint8_t ignored[NOISE_KEY_SIZE];
            keys_pair_generate(ignored, pair.sides[j].keys.remote_public);
            pair_begin_with_prologues("", "");
            struct noise_handshake *to = pair_reader();
            pair_write();
            expect_refused(to, -EBADMSG, "another key");
        }
    }
}

/* A server without the private key cannot pose as the one that the client knows. */
Test(noise_refused, server_without_its_key)
{
    pair_begin(NOISE_NK);
    noise_keys_init(&pair.sides[RESPONDER].keys, NOISE_NK, NULL, NULL);
    pair_begin_with_prologues("", "");
    struct noise_handshake *to = pair_reader();
    pair_write();
    expect_refused(to, -EBADMSG, "not for this server");
}

Test(noise_refused, xx_with_other_keys_pinned)
{
    for (size_t side = 0; side < SIDE_COUNT; side++) {
        for (size_t bit = 0; bit < 8 * NOISE_KEY_SIZE; bit += 17) {
            uint8_t other[NOISE_KEY_SIZE];
            pair_begin(NOISE_XX);
            memcpy(other, pair.sides[1 - side].keys.local_public, sizeof(other));
            other[bit / 8] ^= (uint8_t)(1u << bit % 8);
            pair_pin(side, other);
            pair_pass();
            if (side == RESPONDER)
                pair_pass();
            struct noise_handshake *to = pair_reader();
            pair_write();
            expect_refused(to, -EPROTO, "another key than the pinned one");
        }
    }
}

Test(noise_refused, other_pattern_or_prologue)
{
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_begin((enum noise_pattern)i);
        pair_begin_with_prologues("one", "two");
        if (i == NOISE_XX)
            pair_pass();
        struct noise_handshake *to = pair_reader();
        pair_write();
        expect_refused(to, -EBADMSG, "another prologue");
    }
    pair_begin(NOISE_KK);
    struct noise_keys keys = pair.sides[INITIATOR].keys;
    keys.pattern = NOISE_NK;
    noise_handshake_init(&pair.sides[INITIATOR].handshake, &keys, true, NULL, 0);
    struct noise_handshake *to = pair_reader();
    pair_write();
    expect_refused(to, -EBADMSG, "NK to a server with KK");
}

/* The transport message is refused, and the cipher stays the same. */
static void expect_message_refused(struct noise_cipher *cipher, const uint8_t *message, size_t size,
                                   int result, const char *what)
{
    uint8_t out[BUFFER_SIZE];
    struct noise_cipher before;
    memcpy(&before, cipher, sizeof(before));
    cr_expect_eq(noise_decrypt(cipher, pair.aead, message, size, out), result, "%s", what);
    cr_expect(memcmp(&before, cipher, sizeof(before)) == 0, "%s: the cipher", what);
}

Test(noise_refused, flipped_and_cut_transport_messages)
{
    uint8_t message[32 + NOISE_TAG_SIZE], out[sizeof(message)];
    pair_connect(NOISE_NK);
    struct noise_cipher *receive = &pair.sides[RESPONDER].receive;
    cr_assert_eq(noise_encrypt(&pair.sides[INITIATOR].send, pair.aead, "some text of 32 bytes", 22,
                               message),
                 0);
    const size_t size = 22 + NOISE_TAG_SIZE;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_message_refused(receive, message, size, -EBADMSG, "a flipped bit");
        message[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t len = 0; len < size; len++)
        expect_message_refused(receive, message, len, -EBADMSG, "a cut message");
    expect_message_refused(receive, message, size + 1, -EBADMSG, "a byte more");
    expect_message_refused(receive, message, NOISE_MESSAGE_MAX + 1, -EBADMSG, "too long");
    cr_expect_eq(noise_decrypt(receive, pair.aead, message, size, out), 0);
    cr_expect_str_eq((const char *)out, "some text of 32 bytes");
}

Test(noise_refused, replayed_and_reordered)
{
    uint8_t messages[3][4 + NOISE_TAG_SIZE], out[4];
    pair_connect(NOISE_NK);
    struct noise_cipher *receive = &pair.sides[RESPONDER].receive;
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(noise_encrypt(&pair.sides[INITIATOR].send, pair.aead, "text", 4, messages[i]),
                     0);
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 3; j++) {
            if (j != i)
                expect_message_refused(receive, messages[j], sizeof(messages[j]), -EBADMSG,
                                       "not the next message");
        }
        cr_expect_eq(noise_decrypt(receive, pair.aead, messages[i], sizeof(messages[i]), out), 0);
    }
    expect_message_refused(&pair.sides[INITIATOR].receive, messages[0], sizeof(messages[0]),
                           -EBADMSG, "a message sent back");
}

Test(noise_refused, nonces_end)
{
    uint8_t message[4 + NOISE_TAG_SIZE] = {0}, out[4], zero[sizeof(message)] = {0};
    pair_connect(NOISE_NK);
    struct noise_cipher *send = &pair.sides[INITIATOR].send;
    struct noise_cipher *receive = &pair.sides[RESPONDER].receive;
    send->nonce = receive->nonce = UINT64_MAX - 1;
    cr_expect_eq(noise_encrypt(send, pair.aead, "text", 4, message), 0, "the last one");
    cr_expect_eq(noise_decrypt(receive, pair.aead, message, sizeof(message), out), 0);
    cr_expect_eq(send->nonce, UINT64_MAX);
    cr_expect_eq(receive->nonce, UINT64_MAX);

    memset(message, 0, sizeof(message));
    cr_expect_eq(noise_encrypt(send, pair.aead, "text", 4, message), -EOVERFLOW);
    cr_expect_arr_eq(message, zero, sizeof(message), "nothing was written");
    cr_expect_eq(send->nonce, UINT64_MAX);
    /* Even a message that is sealed correctly. */
    aead_seal(pair.aead, send->key, UINT64_MAX, NULL, 0, "text", 4, message);
    expect_message_refused(receive, message, sizeof(message), -EOVERFLOW, "the reserved nonce");
}
