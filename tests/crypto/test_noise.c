/* src/crypto/noise.c and src/crypto/noise_symmetric.c: handshakes and messages between two sides of
 * ours that succeed. See also test_noise_refused.c, and test_noise_vectors.c for published
 * vectors. */
#include "crypto/noise.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "noise_pair.h"

TestSuite(noise, .init = pair_set_up, .fini = pair_tear_down);

Test(noise, names)
{
    static const char *const names[] = {
        [NOISE_NK] = "Noise_NK_25519_ChaChaPoly_BLAKE2s",
        [NOISE_XX] = "Noise_XX_25519_ChaChaPoly_BLAKE2s",
        [NOISE_KK] = "Noise_KK_25519_ChaChaPoly_BLAKE2s",
    };
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        enum noise_pattern pattern;
        cr_expect_str_eq(noise_pattern_name((enum noise_pattern)i), names[i]);
        cr_expect_eq(noise_pattern_from_name(names[i], &pattern), 0);
        cr_expect_eq(pattern, i);
    }
    static const char *const wrong[] = {"",
                                        "NK",
                                        "Noise_NK_25519_ChaChaPoly_BLAKE2b",
                                        "Noise_NK_25519_AESGCM_BLAKE2s",
                                        "Noise_IK_25519_ChaChaPoly_BLAKE2s",
                                        "Noise_NK_25519_ChaChaPoly_BLAKE2s ",
                                        "noise_nk_25519_chachapoly_blake2s"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        enum noise_pattern pattern = NOISE_KK;
        cr_expect_eq(noise_pattern_from_name(wrong[i], &pattern), -EINVAL, "%s", wrong[i]);
        cr_expect_eq(pattern, NOISE_KK);
    }
}

/* The sizes of rathole's handshake messages. */
Test(noise, message_sizes)
{
    static const int expected[PATTERN_COUNT][4] = {
        [NOISE_NK] = {48, 48}, [NOISE_XX] = {32, 96, 64}, [NOISE_KK] = {48, 48}};
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_begin((enum noise_pattern)i);
        size_t count = 0;
        for (; !pair_is_done(); count++) {
            size_t size = noise_handshake_message_size(pair_writer());
            cr_expect_eq(size, noise_handshake_message_size(pair_reader()));
            cr_expect_leq(size, NOISE_HANDSHAKE_MESSAGE_MAX);
            pair_pass();
            cr_expect_eq(pair.size, (int)size);
            cr_expect_eq(pair.size, expected[i][count], "%zu of %zu", count, i);
        }
        cr_expect_eq(expected[i][count], 0);
    }
}

Test(noise, sides_talk)
{
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_connect((enum noise_pattern)i);
        cr_expect(!keys_equal(pair.sides[0].send.key, pair.sides[0].receive.key, NOISE_KEY_SIZE));
        pair_talk(pair.aead);
    }
}

/* Each side may use another AEAD backend. */
Test(noise, sides_talk_with_libcrypto)
{
    struct aead *other = NULL;
    int r = aead_create_with(AEAD_LIBCRYPTO, &other);
    if (r == -ENOTSUP)
        cr_skip_test("no libcrypto here");
    cr_assert_eq(r, 0);
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_begin((enum noise_pattern)i);
        while (!pair_is_done()) {
            pair_pass();
            struct aead *swap = pair.aead;
            pair.aead = other;
            other = swap;
        }
        pair_split();
        pair_talk(other);
    }
    aead_destroy(other);
}

Test(noise, every_handshake_is_new)
{
    uint8_t first[NOISE_KEY_SIZE], key[NOISE_KEY_SIZE];
    pair_connect(NOISE_NK);
    memcpy(key, pair.sides[INITIATOR].send.key, sizeof(key));
    pair_begin_with_prologues("", "");
    pair_write();
    memcpy(first, pair.message, sizeof(first));
    pair_begin_with_prologues("", "");
    pair_write();
    cr_expect(memcmp(first, pair.message, sizeof(first)) != 0, "the ephemeral key");
    pair_begin_with_prologues("", "");
    while (!pair_is_done())
        pair_pass();
    pair_split();
    cr_expect_not(keys_equal(key, pair.sides[INITIATOR].send.key, sizeof(key)));
}

Test(noise, missing_private_key_is_a_random_one)
{
    struct noise_keys keys[2];
    uint8_t public_key[NOISE_KEY_SIZE];
    for (size_t i = 0; i < 2; i++) {
        noise_keys_init(&keys[i], NOISE_XX, NULL, NULL);
        keys_pair_public(keys[i].local_private, public_key);
        cr_expect_arr_eq(keys[i].local_public, public_key, NOISE_KEY_SIZE);
        cr_expect_not(keys[i].has_remote_public);
    }
    cr_expect_not(keys_equal(keys[0].local_private, keys[1].local_private, NOISE_KEY_SIZE));
}

static void with_payload(enum noise_pattern pattern, size_t message)
{
    static const uint8_t payload[] = "payload";
    uint8_t out[sizeof(payload)] = {0};
    struct noise_handshake *from = pair_writer(), *to = pair_reader();
    struct noise_handshake before;
    size_t size = noise_handshake_message_size(from) + sizeof(payload);
    memcpy(&before, from, sizeof(before));
    for (size_t room = 0; room < size; room++)
        cr_expect_eq(noise_handshake_write(from, pair.aead, payload, sizeof(payload), pair.message,
                                           room),
                     -EMSGSIZE);
    cr_expect(memcmp(&before, from, sizeof(before)) == 0);
    pair.size =
        noise_handshake_write(from, pair.aead, payload, sizeof(payload), pair.message, size);
    cr_expect_eq(pair.size, (int)size);
    cr_expect_eq(noise_handshake_read(to, pair.aead, pair.message, size, out), sizeof(payload));
    cr_expect_arr_eq(out, payload, sizeof(payload), "pattern %d, message %zu", pattern, message);
}

Test(noise, handshake_payloads)
{
    pair_before_each_message(with_payload);
}

Test(noise, largest_handshake_payload)
{
    static uint8_t payload[NOISE_MESSAGE_MAX], out[2 * NOISE_MESSAGE_MAX];
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_begin((enum noise_pattern)i);
        struct noise_handshake *from = pair_writer(), *to = pair_reader();
        size_t room = NOISE_MESSAGE_MAX - noise_handshake_message_size(from);
        cr_expect_eq(noise_handshake_write(from, pair.aead, payload, room + 1, out, sizeof(out)),
                     -EMSGSIZE);
        cr_expect_eq(noise_handshake_write(from, pair.aead, payload, SIZE_MAX, out, sizeof(out)),
                     -EMSGSIZE);
        cr_expect_eq(noise_handshake_write(from, pair.aead, payload, room, out, sizeof(out)),
                     NOISE_MESSAGE_MAX);
        cr_expect_eq(noise_handshake_read(to, pair.aead, out, NOISE_MESSAGE_MAX, payload),
                     (int)room);
    }
}

Test(noise, xx_with_the_right_keys_pinned)
{
    pair_begin(NOISE_XX);
    pair_pin(INITIATOR, pair.sides[RESPONDER].keys.local_public);
    pair_pin(RESPONDER, pair.sides[INITIATOR].keys.local_public);
    while (!pair_is_done())
        pair_pass();
    pair_split();
    pair_talk(pair.aead);
}

static void expect_zero(const void *bytes, size_t size, const char *what)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum |= ((const uint8_t *)bytes)[i];
    cr_expect_eq(sum, 0, "%s", what);
}

Test(noise, wiping)
{
    pair_connect(NOISE_KK);
    for (size_t i = 0; i < SIDE_COUNT; i++) {
        struct side *side = &pair.sides[i];
        expect_zero(&side->handshake, sizeof(side->handshake), "by split");
        noise_cipher_wipe(&side->send);
        expect_zero(&side->send, sizeof(side->send), "a cipher");
        noise_keys_wipe(&side->keys);
        expect_zero(&side->keys, sizeof(side->keys), "the keys");
    }
    pair_begin(NOISE_KK);
    pair_pass();
    noise_handshake_wipe(&pair.sides[RESPONDER].handshake);
    expect_zero(&pair.sides[RESPONDER].handshake, sizeof(struct noise_handshake), "a handshake");
}

Test(noise, split_without_the_hash)
{
    pair_begin(NOISE_XX);
    while (!pair_is_done())
        pair_pass();
    for (size_t i = 0; i < SIDE_COUNT; i++)
        noise_handshake_split(&pair.sides[i].handshake, &pair.sides[i].send, &pair.sides[i].receive,
                              NULL);
    pair_talk(pair.aead);
}
