#include "crypto/keys.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "hex.h"

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(keys, .init = set_up);

/* The published vectors of SHA-256 (FIPS 180-2). Vectors of the wire are in tests/proto. */
Test(keys, service_digest_is_sha256)
{
    uint8_t digest[KEYS_DIGEST_SIZE];
    keys_service_digest("abc", 3, digest);
    expect_hex(digest, sizeof(digest),
               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    keys_service_digest("", 0, digest);
    expect_hex(digest, sizeof(digest),
               "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    keys_service_digest(two_blocks, strlen(two_blocks), digest);
    expect_hex(digest, sizeof(digest),
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

Test(keys, auth_digest_is_of_token_then_nonce)
{
    uint8_t nonce[KEYS_NONCE_SIZE], joined[6 + KEYS_NONCE_SIZE];
    uint8_t expected[KEYS_DIGEST_SIZE], digest[KEYS_DIGEST_SIZE];
    keys_random(nonce, sizeof(nonce));
    memcpy(joined, "secret", 6);
    memcpy(joined + 6, nonce, sizeof(nonce));
    keys_service_digest((const char *)joined, sizeof(joined), expected);
    keys_auth_digest("secret", 6, nonce, digest);
    cr_expect(keys_equal(digest, expected, sizeof(digest)));

    nonce[31] ^= 1;
    keys_auth_digest("secret", 6, nonce, digest);
    cr_expect_not(keys_equal(digest, expected, sizeof(digest)));
}

/* Tokens of up to three SHA-256 blocks, overwritten before the second step. */
Test(keys, auth_in_two_steps)
{
    uint8_t nonce[KEYS_NONCE_SIZE], expected[KEYS_DIGEST_SIZE], digest[KEYS_DIGEST_SIZE];
    char token[192];
    keys_random(nonce, sizeof(nonce));
    for (size_t len = 0; len <= sizeof(token); len++) {
        struct keys_auth auth;
        memset(token, 'a' + (int)(len % 26), sizeof(token));
        keys_auth_digest(token, len, nonce, expected);
        keys_auth_begin(&auth, token, len);
        memset(token, 0, sizeof(token));
        keys_auth_end(&auth, nonce, digest);
        cr_assert_arr_eq(digest, expected, sizeof(digest), "%zu bytes", len);
        for (size_t i = 0; i < sizeof(auth.state); i++)
            cr_assert_eq(auth.state[i], 0, "wiped");
    }
}

Test(keys, random_bytes_differ)
{
    uint8_t zero[32] = {0}, a[32] = {0}, b[32] = {0};
    keys_random(a, sizeof(a));
    keys_random(b, sizeof(b));
    cr_expect(memcmp(a, zero, sizeof(a)) != 0);
    cr_expect(memcmp(a, b, sizeof(a)) != 0);
}

Test(keys, equal_sees_every_bit)
{
    uint8_t a[32], b[32];
    keys_random(a, sizeof(a));
    for (size_t bit = 0; bit < 8 * sizeof(a); bit++) {
        memcpy(b, a, sizeof(b));
        cr_expect(keys_equal(a, b, sizeof(a)));
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect_not(keys_equal(a, b, sizeof(a)), "bit %zu", bit);
    }
    cr_expect(keys_equal(a, b, 0));
}

Test(keys, wipe)
{
    uint8_t secret[8] = "secrets";
    keys_wipe(secret + 2, 3);
    cr_expect(memcmp(secret, "se\0\0\0ts", 8) == 0);
    keys_wipe(NULL, 0);
}

Test(keys, hash_depends_on_data_alone_within_a_process)
{
    cr_expect_eq(keys_hash("abc", 3), keys_hash("abc", 3));
    cr_expect_neq(keys_hash("abc", 3), keys_hash("abd", 3));
    cr_expect_neq(keys_hash("abc", 3), keys_hash("abc", 2));
    uint64_t before = keys_hash("abc", 3);
    cr_expect_eq(keys_init(), 0, "a second init is harmless");
    cr_expect_eq(keys_hash("abc", 3), before, "and changes no hash");
}

/* RFC 7748, section 6.1: the keys of Alice and Bob, with their base64 from Python. */
static const struct {
    const char *private_hex, *private_text, *public_hex, *public_text;
} pairs[] = {
    {"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
     "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
     "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
     "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="},
    {"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
     "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=",
     "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
     "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="},
};

Test(keys, public_key_of_a_private_key)
{
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
        from_hex(pairs[i].private_hex, private_key, sizeof(private_key));
        keys_pair_public(private_key, public_key);
        expect_hex(public_key, sizeof(public_key), pairs[i].public_hex);
    }
}

Test(keys, generated_pairs_differ_and_belong_together)
{
    uint8_t private_keys[2][KEYS_X25519_SIZE], public_keys[2][KEYS_X25519_SIZE];
    uint8_t again[KEYS_X25519_SIZE];
    for (size_t i = 0; i < 2; i++) {
        keys_pair_generate(private_keys[i], public_keys[i]);
        keys_pair_public(private_keys[i], again);
        cr_expect_arr_eq(again, public_keys[i], sizeof(again));
    }
    cr_expect_arr_neq(private_keys[0], private_keys[1], sizeof(private_keys[0]));
    cr_expect_arr_neq(public_keys[0], public_keys[1], sizeof(public_keys[0]));
}

Test(keys, text_of_known_keys)
{
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        uint8_t key[KEYS_X25519_SIZE];
        char text[KEYS_TEXT_SIZE];
        cr_expect_eq(keys_from_text(pairs[i].private_text, strlen(pairs[i].private_text), key), 0);
        expect_hex(key, sizeof(key), pairs[i].private_hex);
        keys_to_text(key, text);
        cr_expect_str_eq(text, pairs[i].private_text);
        cr_expect_eq(keys_from_text(pairs[i].public_text, strlen(pairs[i].public_text), key), 0);
        expect_hex(key, sizeof(key), pairs[i].public_hex);
    }
}

Test(keys, text_round_trip)
{
    for (int i = 0; i < 200; i++) {
        uint8_t key[KEYS_X25519_SIZE], again[KEYS_X25519_SIZE];
        char text[KEYS_TEXT_SIZE];
        keys_random(key, sizeof(key));
        keys_to_text(key, text);
        cr_expect_eq(strlen(text), KEYS_TEXT_SIZE - 1);
        cr_expect_eq(keys_from_text(text, strlen(text), again), 0, "%s", text);
        cr_expect_arr_eq(again, key, sizeof(key));
    }
}

Test(keys, text_ends_where_it_is_said_to_end)
{
    uint8_t key[KEYS_X25519_SIZE];
    char text[KEYS_TEXT_SIZE + 1];
    keys_random(key, sizeof(key));
    keys_to_text(key, text);
    text[KEYS_TEXT_SIZE - 1] = 'A'; /* no NUL behind it */
    cr_expect_eq(keys_from_text(text, KEYS_TEXT_SIZE - 1, key), 0);
    for (size_t len = 0; len < KEYS_TEXT_SIZE - 1; len++)
        cr_expect_eq(keys_from_text(text, len, key), -EINVAL, "%zu characters", len);
}

Test(keys, wrong_text_is_refused_and_nothing_is_left)
{
    static const char *const wrong[] = {
        "",
        "=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",              /* no padding */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",            /* too much padding */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",           /* no padding, 34 bytes */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",             /* 31 bytes */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",             /* 33 bytes */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", /* 42 bytes */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",             /* non-zero padding bits */
        "AAAAAAAAAAAAAAAAAAAAA=AAAAAAAAAAAAAAAAAAAAA=",             /* padding inside */
        " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= ",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "AAAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA-=", /* URL-safe base64 */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\xc3=",
    };
    static const uint8_t zero[KEYS_X25519_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        uint8_t key[KEYS_X25519_SIZE];
        memset(key, 0xa5, sizeof(key));
        cr_expect_eq(keys_from_text(wrong[i], strlen(wrong[i]), key), -EINVAL, "%s", wrong[i]);
        cr_expect_arr_eq(key, zero, sizeof(key), "%s", wrong[i]);
    }
    uint8_t key[KEYS_X25519_SIZE];
    cr_expect_eq(keys_from_text("AAAAAAAAAAAAAAAAAAAAA\0AAAAAAAAAAAAAAAAAAAAA=", 44, key), -EINVAL,
                 "a NUL inside");
}

/* RFC 4648 section 10. */
Test(keys, base64)
{
    static const char *const texts[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                        "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (size_t size = 0; size < ARRAY_SIZE(texts); size++) {
        char text[9];
        keys_base64("foobar", size, text, strlen(texts[size]) + 1);
        cr_expect_str_eq(text, texts[size]);
    }
}
