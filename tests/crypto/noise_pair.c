#include "noise_pair.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"

struct pair pair;

void pair_set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(aead_create_with(AEAD_SODIUM, &pair.aead), 0);
}

void pair_tear_down(void)
{
    aead_destroy(pair.aead);
}

void pair_begin_with_prologues(const char *first, const char *second)
{
    noise_handshake_init(&pair.sides[INITIATOR].handshake, &pair.sides[INITIATOR].keys, true, first,
                         strlen(first));
    noise_handshake_init(&pair.sides[RESPONDER].handshake, &pair.sides[RESPONDER].keys, false,
                         second, strlen(second));
}

void pair_begin(enum noise_pattern pattern)
{
    uint8_t private_keys[SIDE_COUNT][NOISE_KEY_SIZE], public_keys[SIDE_COUNT][NOISE_KEY_SIZE];
    for (size_t i = 0; i < SIDE_COUNT; i++)
        keys_pair_generate(private_keys[i], public_keys[i]);
    noise_keys_init(&pair.sides[INITIATOR].keys, pattern, private_keys[INITIATOR],
                    pattern == NOISE_XX ? NULL : public_keys[RESPONDER]);
    noise_keys_init(&pair.sides[RESPONDER].keys, pattern, private_keys[RESPONDER],
                    pattern == NOISE_KK ? public_keys[INITIATOR] : NULL);
    pair_begin_with_prologues("", "");
}

struct noise_handshake *pair_writer(void)
{
    bool initiator = noise_handshake_is_ours(&pair.sides[INITIATOR].handshake);
    return &pair.sides[initiator ? INITIATOR : RESPONDER].handshake;
}

struct noise_handshake *pair_reader(void)
{
    bool initiator = noise_handshake_is_ours(&pair.sides[INITIATOR].handshake);
    return &pair.sides[initiator ? RESPONDER : INITIATOR].handshake;
}

void pair_write(void)
{
    pair.size = noise_handshake_write(pair_writer(), pair.aead, NULL, 0, pair.message,
                                      sizeof(pair.message));
    cr_assert_gt(pair.size, 0);
}

int pair_read(struct noise_handshake *handshake)
{
    uint8_t payload[BUFFER_SIZE];
    return noise_handshake_read(handshake, pair.aead, pair.message, (size_t)pair.size, payload);
}

void pair_pass(void)
{
    struct noise_handshake *to = pair_reader();
    pair_write();
    cr_assert_eq(pair_read(to), 0);
}

bool pair_is_done(void)
{
    bool done = noise_handshake_done(&pair.sides[INITIATOR].handshake);
    cr_assert_eq(done, noise_handshake_done(&pair.sides[RESPONDER].handshake));
    return done;
}

void pair_split(void)
{
    uint8_t hashes[SIDE_COUNT][NOISE_HASH_SIZE];
    for (size_t i = 0; i < SIDE_COUNT; i++) {
        struct side *side = &pair.sides[i];
        noise_handshake_split(&side->handshake, &side->send, &side->receive, hashes[i]);
    }
    cr_expect_arr_eq(hashes[INITIATOR], hashes[RESPONDER], NOISE_HASH_SIZE);
}

void pair_connect(enum noise_pattern pattern)
{
    pair_begin(pattern);
    while (!pair_is_done())
        pair_pass();
    pair_split();
}

void pair_talk(struct aead *aead)
{
    static const size_t sizes[] = {1, 0, 16, 1000, 8192, 16384, NOISE_PAYLOAD_MAX};
    static uint8_t plain[NOISE_PAYLOAD_MAX], buffer[NOISE_MESSAGE_MAX], apart[NOISE_MESSAGE_MAX],
        opened[NOISE_PAYLOAD_MAX];
    keys_random(plain, sizeof(plain));
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t from = 0; from < SIDE_COUNT; from++) {
            struct noise_cipher *send = &pair.sides[from].send;
            struct noise_cipher *receive = &pair.sides[1 - from].receive;
            size_t size = sizes[i];
            cr_expect_eq(send->nonce, 2 * i);
            cr_expect_eq(noise_encrypt(send, aead, plain, size, buffer), 0);
            cr_expect_eq(noise_decrypt(receive, aead, buffer, size + NOISE_TAG_SIZE, opened), 0);
            cr_expect(memcmp(opened, plain, size) == 0, "%zu bytes", size);

            struct noise_cipher twin = *send;
            cr_expect_eq(noise_encrypt(&twin, aead, plain, size, apart), 0);
            memcpy(buffer, plain, size);
            cr_expect_eq(noise_encrypt(send, aead, buffer, size, buffer), 0);
            cr_expect(memcmp(buffer, apart, size + NOISE_TAG_SIZE) == 0, "%zu bytes", size);
            /* A short text may be encrypted to itself: one byte in 256 is. */
            cr_expect(size < NOISE_TAG_SIZE || memcmp(buffer, plain, size) != 0);
            cr_expect_eq(noise_decrypt(receive, aead, buffer, size + NOISE_TAG_SIZE, buffer), 0);
            cr_expect(memcmp(buffer, plain, size) == 0, "%zu bytes in place", size);
            cr_expect_eq(receive->nonce, send->nonce);
        }
    }
}

void pair_pin(size_t side, const uint8_t public_key[static NOISE_KEY_SIZE])
{
    struct noise_keys *keys = &pair.sides[side].keys;
    keys->has_remote_public = true;
    memcpy(keys->remote_public, public_key, NOISE_KEY_SIZE);
}

void pair_before_each_message(void (*do_with)(enum noise_pattern pattern, size_t message))
{
    for (size_t i = 0; i < PATTERN_COUNT; i++) {
        pair_begin((enum noise_pattern)i);
        for (size_t message = 0; !pair_is_done(); message++)
            do_with((enum noise_pattern)i, message);
    }
}
