/* src/crypto/aead.c and src/crypto/aead_libcrypto.c: each backend against RFC 8439 and against the
 * other. Without libcrypto its half is skipped, with a line on stderr. */
#include "crypto/aead.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "hex.h"

enum { TEXT_MAX = 65519, BACKEND_COUNT = AEAD_LIBCRYPTO + 1 };

static const size_t sizes[] = {0,    1,    15,   16,   17,    31,    63,    64,    65,   127,  128,
                               129,  191,  255,  256,  257,   511,   512,   513,   1000, 1024, 1025,
                               4095, 4096, 4097, 8192, 16383, 16384, 16385, 32768, 65519};

/* By enum aead_backend; NULL: not available. */
static struct aead *backends[BACKEND_COUNT];
static uint8_t key[AEAD_KEY_SIZE];
static uint8_t plain[TEXT_MAX], sealed[TEXT_MAX + AEAD_TAG_SIZE], other[TEXT_MAX + AEAD_TAG_SIZE];

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(aead_create_with(AEAD_SODIUM, &backends[AEAD_SODIUM]), 0);
    int r = aead_create_with(AEAD_LIBCRYPTO, &backends[AEAD_LIBCRYPTO]);
    cr_assert(r == 0 || r == -ENOTSUP);
    if (r < 0)
        (void)fprintf(stderr, "SKIPPED: no libcrypto here\n");
    keys_random(key, sizeof(key));
    keys_random(plain, sizeof(plain));
}

static void tear_down(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
        aead_destroy(backends[i]);
}

TestSuite(aead, .init = set_up, .fini = tear_down);

/* RFC 8439, appendix A.5, whose nonce begins with four zero bytes like those of Noise. */
static const char rfc_key[] = "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0";
static const char rfc_ad[] = "f33388860000000000004e91";
static const char rfc_sealed[] = "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2"
                                 "4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
                                 "332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
                                 "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
                                 "b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e"
                                 "af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
                                 "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
                                 "49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
                                 "a6ad5cb4022b02709b"
                                 "eead9d67890cbb22392336fea1851f38";
static const char rfc_plain[] =
    "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, "
    "replaced, or obsoleted by other documents at any time. It is inappropriate to use "
    "Internet-Drafts as reference material or to cite them other than as /\xe2\x80\x9cwork in "
    "progress./\xe2\x80\x9d";

Test(aead, rfc_8439)
{
    const uint64_t nonce = 0x0807060504030201;
    uint8_t ad[(sizeof(rfc_ad) - 1) / 2], text[(sizeof(rfc_sealed) - 1) / 2];
    from_hex(rfc_key, key, sizeof(key));
    from_hex(rfc_ad, ad, sizeof(ad));
    from_hex(rfc_sealed, text, sizeof(text));
    cr_assert_eq(sizeof(text), sizeof(rfc_plain) - 1 + AEAD_TAG_SIZE);
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (backends[i] == NULL)
            continue;
        aead_seal(backends[i], key, nonce, ad, sizeof(ad), rfc_plain, sizeof(rfc_plain) - 1,
                  sealed);
        cr_expect_arr_eq(sealed, text, sizeof(text), "backend %zu", i);
        cr_expect_eq(aead_open(backends[i], key, nonce, ad, sizeof(ad), text, sizeof(text), other),
                     0);
        cr_expect_arr_eq(other, rfc_plain, sizeof(rfc_plain) - 1, "backend %zu", i);
    }
}

/* `to` opens what `from` has sealed, in another buffer and in place. */
static void round_trip(struct aead *from, struct aead *to, size_t size, size_t ad_len)
{
    static const uint8_t ad[100] = "associated data";
    uint64_t nonce = size * 0x123456789abcdull;
    size_t sealed_size = size + AEAD_TAG_SIZE;
    aead_seal(from, key, nonce, ad_len > 0 ? ad : NULL, ad_len, plain, size, sealed);
    cr_expect_eq(aead_open(to, key, nonce, ad, ad_len, sealed, sealed_size, other), 0, "%zu", size);
    cr_expect(memcmp(other, plain, size) == 0, "%zu", size);

    memcpy(other, plain, size);
    aead_seal(to, key, nonce, ad, ad_len, other, size, other);
    cr_expect(memcmp(other, sealed, sealed_size) == 0, "%zu in place", size);
    cr_expect_eq(aead_open(from, key, nonce, ad, ad_len, other, sealed_size, other), 0);
    cr_expect(memcmp(other, plain, size) == 0, "%zu in place", size);
}

Test(aead, backends_agree)
{
    for (size_t from = 0; from < BACKEND_COUNT; from++) {
        for (size_t to = 0; to < BACKEND_COUNT; to++) {
            if (backends[from] == NULL || backends[to] == NULL)
                continue;
            for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                round_trip(backends[from], backends[to], sizes[i], 0);
                round_trip(backends[from], backends[to], sizes[i], 32);
                round_trip(backends[from], backends[to], sizes[i], 100);
            }
        }
    }
}

Test(aead, unaligned)
{
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        for (size_t offset = 1; backends[i] != NULL && offset < 16; offset++) {
            aead_seal(backends[i], key, 1, NULL, 0, plain + offset, 1000, sealed + offset);
            cr_expect_eq(aead_open(backends[i], key, 1, NULL, 0, sealed + offset,
                                   1000 + AEAD_TAG_SIZE, other + 16 - offset),
                         0);
            cr_expect_arr_eq(other + 16 - offset, plain + offset, 1000);
        }
    }
}

static void expect_refused(struct aead *aead, uint64_t nonce, const void *ad, size_t ad_len,
                           size_t size, const char *what)
{
    static uint8_t before[TEXT_MAX];
    memset(before, 0, size);
    memset(other, 0, size);
    cr_expect_eq(aead_open(aead, key, nonce, ad, ad_len, sealed, size + AEAD_TAG_SIZE, other),
                 -EBADMSG, "%s", what);
    cr_expect(memcmp(other, before, size) == 0, "%s: something was left", what);
}

static void refuse_flipped_bits(struct aead *aead, size_t size)
{
    aead_seal(aead, key, 7, "ad", 2, plain, size, sealed);
    for (size_t bit = 0; bit < 8 * (size + AEAD_TAG_SIZE); bit++) {
        sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_refused(aead, 7, "ad", 2, size, "a flipped bit");
        sealed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    expect_refused(aead, 8, "ad", 2, size, "another nonce");
    expect_refused(aead, 7 | 1ull << 63, "ad", 2, size, "the highest bit of the nonce");
    expect_refused(aead, 7, "aD", 2, size, "other associated data");
    expect_refused(aead, 7, "a", 1, size, "less of it");
    expect_refused(aead, 7, NULL, 0, size, "none");
    key[31] ^= 0x80;
    expect_refused(aead, 7, "ad", 2, size, "another key");
    key[31] ^= 0x80;
    cr_expect_eq(aead_open(aead, key, 7, "ad", 2, sealed, size + AEAD_TAG_SIZE, other), 0);
}

Test(aead, changes_are_refused)
{
    static const size_t some[] = {0, 1, 16, 64, 65, 300};
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        for (size_t j = 0; backends[i] != NULL && j < ARRAY_SIZE(some); j++)
            refuse_flipped_bits(backends[i], some[j]);
    }
}

Test(aead, shorter_and_longer_are_refused)
{
    const size_t size = 200;
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (backends[i] == NULL)
            continue;
        memset(sealed, 0, sizeof(sealed));
        aead_seal(backends[i], key, 7, NULL, 0, plain, size, sealed);
        for (size_t len = AEAD_TAG_SIZE; len < size + 2 * AEAD_TAG_SIZE; len++) {
            int r = aead_open(backends[i], key, 7, NULL, 0, sealed, len, other);
            cr_expect_eq(r, len == size + AEAD_TAG_SIZE ? 0 : -EBADMSG, "%zu bytes", len);
        }
    }
}

/* All calls share libcrypto's context, but no call may depend on the one before. */
Test(aead, calls_do_not_know_each_other)
{
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (backends[i] == NULL)
            continue;
        uint8_t first[64 + AEAD_TAG_SIZE];
        aead_seal(backends[i], key, 1, "ad", 2, plain, 64, first);
        cr_expect_eq(aead_open(backends[i], key, 2, NULL, 0, first, sizeof(first), other),
                     -EBADMSG);
        aead_seal(backends[i], key, 3, NULL, 0, plain, 5000, sealed);
        cr_expect_eq(aead_open(backends[i], key, 3, NULL, 0, sealed, 5000 + AEAD_TAG_SIZE, other),
                     0);
        aead_seal(backends[i], key, 1, "ad", 2, plain, 64, sealed);
        cr_expect_arr_eq(sealed, first, sizeof(first), "backend %zu", i);
    }
}

Test(aead, setup_chooses_one_that_works)
{
    for (int i = 0; i < 2; i++) { /* it may be called again */
        aead_setup();
        const char *description = aead_description();
        cr_expect(strcmp(description, "libsodium") == 0 ||
                      (strncmp(description, "libcrypto 3.", 12) == 0 &&
                       strstr(description, " from ") != NULL),
                  "%s", description);
        struct aead *aead = NULL;
        cr_assert_eq(aead_create(&aead), 0);
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++)
            round_trip(aead, backends[AEAD_SODIUM], sizes[j], 32);
        aead_destroy(aead);
    }
}

Test(aead, before_setup_it_is_libsodium)
{
    cr_expect_str_eq(aead_description(), "libsodium");
    struct aead *aead = NULL;
    cr_assert_eq(aead_create(&aead), 0);
    round_trip(aead, backends[AEAD_SODIUM], 1000, 0);
    aead_destroy(aead);
}

Test(aead, destroy_accepts_null)
{
    aead_destroy(NULL);
}
