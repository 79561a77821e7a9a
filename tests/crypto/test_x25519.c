/* src/crypto/x25519.c against the published vectors. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "crypto/x25519.h"
#include "hex.h"

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(x25519, .init = set_up);

/* RFC 7748 section 5.2, the first two; the second has the highest bit of the point set.
 * Section 6.1, the last two. */
static const struct {
    const char *scalar, *point, *result;
} vectors[] = {
    {"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
    {"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
    {"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
     "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
     "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
    {"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
     "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
     "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
};

Test(x25519, published_secrets)
{
    uint8_t scalar[X25519_SIZE], point[X25519_SIZE], result[X25519_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
        from_hex(vectors[i].scalar, scalar, sizeof(scalar));
        from_hex(vectors[i].point, point, sizeof(point));
        cr_expect_eq(x25519_shared(scalar, point, result), 0);
        expect_hex(result, sizeof(result), vectors[i].result);
    }
}

/* RFC 7748 section 5.2: the result is the next scalar, the scalar the next point. */
Test(x25519, published_iterations)
{
    uint8_t k[X25519_SIZE] = {9}, u[X25519_SIZE] = {9}, result[X25519_SIZE];
    for (int i = 1; i <= 1000; i++) {
        cr_assert_eq(x25519_shared(k, u, result), 0);
        memcpy(u, k, sizeof(u));
        memcpy(k, result, sizeof(k));
        if (i == 1)
            expect_hex(k, sizeof(k),
                       "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }
    expect_hex(k, sizeof(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
}

/* RFC 7748 section 6.1. */
Test(x25519, published_public_keys)
{
    uint8_t private_key[X25519_SIZE], public_key[X25519_SIZE];
    from_hex(vectors[2].scalar, private_key, sizeof(private_key));
    x25519_public(private_key, public_key);
    expect_hex(public_key, sizeof(public_key), vectors[3].point);
    from_hex(vectors[3].scalar, private_key, sizeof(private_key));
    x25519_public(private_key, public_key);
    expect_hex(public_key, sizeof(public_key), vectors[2].point);
}

/* The seven points of small order, as in test_noise_refused.c. */
Test(x25519, small_order_is_refused)
{
    static const char *const points[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    };
    static const uint8_t zero[X25519_SIZE];
    uint8_t private_key[X25519_SIZE], point[X25519_SIZE], secret[X25519_SIZE];
    keys_random(private_key, sizeof(private_key));
    for (size_t i = 0; i < 2 * ARRAY_SIZE(points); i++) {
        from_hex(points[i / 2], point, sizeof(point));
        point[X25519_SIZE - 1] |= (uint8_t)(i % 2 << 7);
        memset(secret, 0xa5, sizeof(secret));
        cr_expect_eq(x25519_shared(private_key, point, secret), -EPROTO, "%s", points[i / 2]);
        cr_expect_arr_eq(secret, zero, sizeof(secret));
    }
}
