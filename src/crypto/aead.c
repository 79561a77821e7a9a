#include "crypto/aead.h"

#include <assert.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "aead_priv.h"
#include "base/clock.h"
#include "base/macros.h"
#include "crypto/keys.h"

static_assert(AEAD_KEY_SIZE == crypto_aead_chacha20poly1305_ietf_KEYBYTES &&
                  AEAD_TAG_SIZE == crypto_aead_chacha20poly1305_ietf_ABYTES &&
                  AEAD_NONCE_SIZE == crypto_aead_chacha20poly1305_ietf_NPUBBYTES,
              "sizes are those of RFC 8439");

enum {
    MEASURE_SIZE_MAX = 16 << 10, /* it decides for the 32 KiB of a relay frame as well */
    MEASURE_ROUNDS = 10,
    MEASURE_CALLS = 4, /* per round, to hide the cost of reading the clock */
    WIN_PERCENT = 5,   /* libcrypto has to win by this much, or chance would decide */
};

struct aead {
    size_t libcrypto_from;         /* smaller texts go to libsodium */
    struct evp_cipher_ctx_st *evp; /* NULL: all go to libsodium */
};

/* Written only by aead_setup, before other threads use them. */
static size_t chosen_from = SIZE_MAX;
static char description[64] = "libsodium";

static struct aead_call make_call(const uint8_t *key, uint64_t nonce, const void *ad, size_t ad_len)
{
    struct aead_call call = {.key = key, .ad = ad, .ad_len = ad_len};
    for (size_t i = 0; i < sizeof(nonce); i++) /* Noise section 12.3: zeroes, then little endian */
        call.nonce[4 + i] = (uint8_t)(nonce >> 8 * i);
    return call;
}

void aead_seal(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
               const void *ad, size_t ad_len, const void *plain, size_t plain_len, void *out)
{
    struct aead_call call = make_call(key, nonce, ad, ad_len);
    call.in = plain;
    call.in_len = plain_len;
    call.out = out;
    if (plain_len >= aead->libcrypto_from)
        aead_libcrypto_seal(aead->evp, &call);
    else
        (void)crypto_aead_chacha20poly1305_ietf_encrypt(call.out, NULL, call.in, call.in_len, ad,
                                                        ad_len, NULL, call.nonce, key);
}

int aead_open(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
              const void *ad, size_t ad_len, const void *sealed, size_t sealed_len, void *out)
{
    assert(sealed_len >= AEAD_TAG_SIZE);
    struct aead_call call = make_call(key, nonce, ad, ad_len);
    call.in = sealed;
    call.in_len = sealed_len - AEAD_TAG_SIZE;
    call.out = out;
    if (call.in_len >= aead->libcrypto_from) {
        int r = aead_libcrypto_open(aead->evp, &call);
        if (r < 0) /* libcrypto decrypts before it checks the tag */
            keys_wipe(call.out, call.in_len);
        return r;
    }
    if (crypto_aead_chacha20poly1305_ietf_decrypt(call.out, NULL, NULL, call.in, sealed_len, ad,
                                                  ad_len, call.nonce, key) != 0)
        return -EBADMSG;
    return 0;
}

static int create(size_t libcrypto_from, struct aead **ret)
{
    struct aead *aead = malloc(sizeof(*aead));
    if (aead == NULL)
        return -ENOMEM;
    *aead = (struct aead){.libcrypto_from = libcrypto_from};
    if (libcrypto_from != SIZE_MAX) {
        int r = aead_libcrypto_create(&aead->evp);
        if (r < 0) {
            free(aead);
            return r;
        }
    }
    *ret = aead;
    return 0;
}

int aead_create(struct aead **ret)
{
    return create(chosen_from, ret);
}

int aead_create_with(enum aead_backend backend, struct aead **ret)
{
    if (backend == AEAD_SODIUM)
        return create(SIZE_MAX, ret);
    int r = aead_libcrypto_load();
    return r < 0 ? r : create(0, ret);
}

void aead_destroy(struct aead *aead)
{
    if (aead == NULL)
        return;
    aead_libcrypto_destroy(aead->evp);
    free(aead);
}

struct trial {
    struct aead *sodium, *libcrypto;
    uint8_t key[AEAD_KEY_SIZE];
    uint8_t plain[MEASURE_SIZE_MAX];
    uint8_t sealed[MEASURE_SIZE_MAX + AEAD_TAG_SIZE];
    uint8_t other[MEASURE_SIZE_MAX + AEAD_TAG_SIZE];
};

/* Both seal alike, libcrypto opens what libsodium sealed, and it refuses a text with a changed
 * bit. */
static bool agree_at(struct trial *trial, size_t size)
{
    static const uint8_t ad[] = "associated";
    const uint64_t nonce = 0x0123456789abcdef;
    size_t sealed_size = size + AEAD_TAG_SIZE;
    aead_seal(trial->sodium, trial->key, nonce, ad, sizeof(ad), trial->plain, size, trial->sealed);
    aead_seal(trial->libcrypto, trial->key, nonce, ad, sizeof(ad), trial->plain, size,
              trial->other);
    if (!keys_equal(trial->sealed, trial->other, sealed_size))
        return false;
    if (aead_open(trial->libcrypto, trial->key, nonce, ad, sizeof(ad), trial->sealed, sealed_size,
                  trial->other) < 0 ||
        !keys_equal(trial->plain, trial->other, size))
        return false;
    trial->sealed[size / 2] ^= 1;
    return aead_open(trial->libcrypto, trial->key, nonce, ad, sizeof(ad), trial->sealed,
                     sealed_size, trial->other) == -EBADMSG;
}

static bool aead_backends_agree(struct trial *trial)
{
    static const size_t sizes[] = {0, 1, 16, 63, 64, 65, 255, 256, 1000, 4096, MEASURE_SIZE_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (!agree_at(trial, sizes[i]))
            return false;
    }
    return true;
}

static uint64_t seal_ns(struct trial *trial, struct aead *aead, size_t size)
{
    uint64_t start = clock_monotonic_ns();
    for (uint64_t nonce = 0; nonce < MEASURE_CALLS; nonce++)
        aead_seal(aead, trial->key, nonce, NULL, 0, trial->plain, size, trial->sealed);
    return clock_monotonic_ns() - start;
}

/* Opens what the last call of seal_ns sealed. A backend that refuses it gets a time that never
 * wins. */
static uint64_t open_ns(struct trial *trial, struct aead *aead, size_t size)
{
    bool opened = true;
    uint64_t start = clock_monotonic_ns();
    for (int i = 0; i < MEASURE_CALLS; i++)
        opened &= aead_open(aead, trial->key, MEASURE_CALLS - 1, NULL, 0, trial->sealed,
                            size + AEAD_TAG_SIZE, trial->other) == 0;
    return opened ? clock_monotonic_ns() - start : UINT64_MAX / 100;
}

static bool is_clearly_less(uint64_t a, uint64_t b)
{
    return a * 100 < b * (100 - WIN_PERCENT);
}

/* Both take turns, and the shortest time of each counts: other load only makes a time longer. */
static bool libcrypto_wins_at(struct trial *trial, size_t size)
{
    uint64_t seal[2] = {UINT64_MAX, UINT64_MAX}, open[2] = {UINT64_MAX, UINT64_MAX};
    for (int round = 0; round < MEASURE_ROUNDS; round++) {
        for (enum aead_backend i = AEAD_SODIUM; i <= AEAD_LIBCRYPTO; i++) {
            struct aead *aead = i == AEAD_SODIUM ? trial->sodium : trial->libcrypto;
            uint64_t ns = seal_ns(trial, aead, size);
            seal[i] = MIN(seal[i], ns);
            ns = open_ns(trial, aead, size);
            open[i] = MIN(open[i], ns);
        }
    }
    return is_clearly_less(seal[AEAD_LIBCRYPTO], seal[AEAD_SODIUM]) &&
           is_clearly_less(open[AEAD_LIBCRYPTO], open[AEAD_SODIUM]);
}

/* The smallest size from which on libcrypto wins at every size, or SIZE_MAX. */
static size_t find_crossover(struct trial *trial)
{
    static const size_t sizes[] = {MEASURE_SIZE_MAX, 8192, 4096, 2048, 1024, 512, 256};
    size_t from = SIZE_MAX;
    for (size_t i = 0; i < ARRAY_SIZE(sizes) && libcrypto_wins_at(trial, sizes[i]); i++)
        from = sizes[i];
    return from;
}

void aead_setup(void)
{
    struct trial *trial = calloc(1, sizeof(*trial));
    if (trial == NULL)
        return;
    chosen_from = SIZE_MAX;
    if (aead_create_with(AEAD_SODIUM, &trial->sodium) == 0 &&
        aead_create_with(AEAD_LIBCRYPTO, &trial->libcrypto) == 0) {
        keys_random(trial->key, sizeof(trial->key));
        keys_random(trial->plain, sizeof(trial->plain));
        if (aead_backends_agree(trial))
            chosen_from = find_crossover(trial);
    }
    aead_destroy(trial->libcrypto);
    aead_destroy(trial->sodium);
    free(trial);
    if (chosen_from == SIZE_MAX)
        (void)snprintf(description, sizeof(description), "libsodium");
    else
        (void)snprintf(description, sizeof(description), "libcrypto %s from %zu bytes",
                       aead_libcrypto_version(), chosen_from);
}

const char *aead_description(void)
{
    return description;
}
