#include "crypto/keys.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(keys, .init = set_up);

static void expect_hex(const uint8_t *bytes, size_t len, const char *hex)
{
    for (size_t i = 0; i < len; i++) {
        char digits[3];
        (void)snprintf(digits, sizeof(digits), "%02x", bytes[i]);
        cr_expect(strncmp(digits, hex + 2 * i, 2) == 0, "byte %zu of %s", i, hex);
    }
}

/* The published vectors of SHA-256 (FIPS 180-2); those of the wire are in tests/proto. */
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
