/* How aead_setup chooses. The linker replaces aead_libcrypto.c by the fake below, and wraps
 * libsodium's functions. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aead_priv.h"
#include "crypto/keys.h"

enum { SLOW_NS = 20000, SLOW_UNDER_VALGRIND_NS = 5000000, TEXT_MAX = 16384 };

static struct {
    int load_result, create_result;
    bool seals_wrong, opens_wrong, opens_all;
    bool (*is_slow)(size_t size);        /* libcrypto */
    bool (*is_sodium_slow)(size_t size); /* libsodium */
} faults;
static long slow_ns; /* longer than a call that is not made slow */
static unsigned int create_count, destroy_count, seal_count;

static void wait_if(bool slow)
{
    struct timespec start, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    } while (slow &&
             (now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < slow_ns);
}

int __real_crypto_aead_chacha20poly1305_ietf_encrypt(
    unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
    const unsigned char *ad, unsigned long long ad_len, const unsigned char *secret_nonce,
    const unsigned char *nonce, const unsigned char *key);
int __wrap_crypto_aead_chacha20poly1305_ietf_encrypt(
    unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
    const unsigned char *ad, unsigned long long ad_len, const unsigned char *secret_nonce,
    const unsigned char *nonce, const unsigned char *key);
int __real_crypto_aead_chacha20poly1305_ietf_decrypt(
    unsigned char *m, unsigned long long *m_len, unsigned char *secret_nonce,
    const unsigned char *c, unsigned long long c_len, const unsigned char *ad,
    unsigned long long ad_len, const unsigned char *nonce, const unsigned char *key);
int __wrap_crypto_aead_chacha20poly1305_ietf_decrypt(
    unsigned char *m, unsigned long long *m_len, unsigned char *secret_nonce,
    const unsigned char *c, unsigned long long c_len, const unsigned char *ad,
    unsigned long long ad_len, const unsigned char *nonce, const unsigned char *key);
int __wrap_aead_libcrypto_load(void);
const char *__wrap_aead_libcrypto_version(void);
int __wrap_aead_libcrypto_create(struct evp_cipher_ctx_st **ret);
void __wrap_aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp);
void __wrap_aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call);
int __wrap_aead_libcrypto_open(struct evp_cipher_ctx_st *evp, const struct aead_call *call);

int __wrap_crypto_aead_chacha20poly1305_ietf_encrypt(
    unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
    const unsigned char *ad, unsigned long long ad_len, const unsigned char *secret_nonce,
    const unsigned char *nonce, const unsigned char *key)
{
    wait_if(faults.is_sodium_slow != NULL && faults.is_sodium_slow(m_len));
    return __real_crypto_aead_chacha20poly1305_ietf_encrypt(c, c_len, m, m_len, ad, ad_len,
                                                            secret_nonce, nonce, key);
}

int __wrap_crypto_aead_chacha20poly1305_ietf_decrypt(
    unsigned char *m, unsigned long long *m_len, unsigned char *secret_nonce,
    const unsigned char *c, unsigned long long c_len, const unsigned char *ad,
    unsigned long long ad_len, const unsigned char *nonce, const unsigned char *key)
{
    wait_if(faults.is_sodium_slow != NULL && faults.is_sodium_slow(c_len - AEAD_TAG_SIZE));
    return __real_crypto_aead_chacha20poly1305_ietf_decrypt(m, m_len, secret_nonce, c, c_len, ad,
                                                            ad_len, nonce, key);
}

int __wrap_aead_libcrypto_load(void)
{
    return faults.load_result;
}

const char *__wrap_aead_libcrypto_version(void)
{
    return "3.9.9";
}

int __wrap_aead_libcrypto_create(struct evp_cipher_ctx_st **ret)
{
    static char evp;
    create_count++;
    *ret = faults.create_result == 0 ? (struct evp_cipher_ctx_st *)(void *)&evp : NULL;
    return faults.create_result;
}

void __wrap_aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp)
{
    destroy_count += evp != NULL;
}

void __wrap_aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    cr_assert_not_null(evp);
    seal_count++;
    wait_if(faults.is_slow != NULL && faults.is_slow(call->in_len));
    (void)__real_crypto_aead_chacha20poly1305_ietf_encrypt(call->out, NULL, call->in, call->in_len,
                                                           call->ad, call->ad_len, NULL,
                                                           call->nonce, call->key);
    call->out[0] ^= faults.seals_wrong;
}

int __wrap_aead_libcrypto_open(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    cr_assert_not_null(evp);
    wait_if(faults.is_slow != NULL && faults.is_slow(call->in_len));
    int r = __real_crypto_aead_chacha20poly1305_ietf_decrypt(call->out, NULL, NULL, call->in,
                                                             call->in_len + AEAD_TAG_SIZE, call->ad,
                                                             call->ad_len, call->nonce, call->key);
    call->out[0] ^= faults.opens_wrong;
    return r == 0 || faults.opens_all ? 0 : -EBADMSG;
}

static bool always(size_t size)
{
    return true;
}

static bool from_1024(size_t size)
{
    return size >= 1024;
}

static bool below_1024(size_t size)
{
    return size < 1024;
}

static bool at_2048(size_t size)
{
    return size == 2048;
}

static bool not_at_2048(size_t size)
{
    return size != 2048;
}

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    slow_ns = getenv("UNDER_VALGRIND") != NULL ? SLOW_UNDER_VALGRIND_NS : SLOW_NS;
    faults.is_sodium_slow = always;
}

TestSuite(aead_setup, .init = set_up);

static void expect_libsodium(void)
{
    static uint8_t plain[TEXT_MAX], sealed[TEXT_MAX + AEAD_TAG_SIZE];
    static const uint8_t key[AEAD_KEY_SIZE];
    struct aead *aead = NULL;
    aead_setup();
    cr_expect_str_eq(aead_description(), "libsodium");
    unsigned int seals = seal_count, creates = create_count;
    cr_assert_eq(aead_create(&aead), 0);
    aead_seal(aead, key, 0, NULL, 0, plain, sizeof(plain), sealed);
    cr_expect_eq(seal_count, seals);
    cr_expect_eq(create_count, creates);
    aead_destroy(aead);
}

/* aead_setup chooses libcrypto for texts from this size on. */
static void expect_libcrypto_from(size_t size, const char *description)
{
    static uint8_t plain[TEXT_MAX], sealed[TEXT_MAX + AEAD_TAG_SIZE];
    static const uint8_t key[AEAD_KEY_SIZE];
    struct aead *aead = NULL;
    aead_setup();
    cr_expect_str_eq(aead_description(), description);
    cr_assert_eq(aead_create(&aead), 0);
    seal_count = 0;
    aead_seal(aead, key, 0, NULL, 0, plain, size - 1, sealed);
    cr_expect_eq(seal_count, 0);
    aead_seal(aead, key, 0, NULL, 0, plain, size, sealed);
    aead_seal(aead, key, 0, NULL, 0, plain, sizeof(plain), sealed);
    cr_expect_eq(seal_count, 2);
    aead_destroy(aead);
    cr_expect_eq(create_count, destroy_count);
}

Test(aead_setup, no_library)
{
    faults.load_result = -ENOTSUP;
    expect_libsodium();
    struct aead *aead = NULL;
    cr_expect_eq(aead_create_with(AEAD_LIBCRYPTO, &aead), -ENOTSUP);
    cr_expect_null(aead);
    cr_expect_eq(create_count, 0);
}

Test(aead_setup, no_cipher)
{
    faults.create_result = -ENOTSUP;
    expect_libsodium();
}

Test(aead_setup, seals_something_else)
{
    faults.seals_wrong = true;
    expect_libsodium();
}

Test(aead_setup, opens_something_else)
{
    faults.opens_wrong = true;
    expect_libsodium();
}

Test(aead_setup, refuses_nothing)
{
    faults.opens_all = true;
    expect_libsodium();
}

Test(aead_setup, never_faster)
{
    faults.is_sodium_slow = NULL;
    faults.is_slow = always;
    expect_libsodium();
}

Test(aead_setup, no_difference)
{
    faults.is_slow = always;
    expect_libsodium();
}

Test(aead_setup, always_faster)
{
    expect_libcrypto_from(256, "libcrypto 3.9.9 from 256 bytes");
}

Test(aead_setup, faster_from_some_size)
{
    faults.is_sodium_slow = from_1024;
    faults.is_slow = below_1024;
    expect_libcrypto_from(1024, "libcrypto 3.9.9 from 1024 bytes");
}

/* The search goes down from the largest size and ends where libcrypto loses. */
Test(aead_setup, faster_here_and_there)
{
    faults.is_sodium_slow = not_at_2048;
    faults.is_slow = at_2048;
    expect_libcrypto_from(4096, "libcrypto 3.9.9 from 4096 bytes");
}

/* A second call forgets the first choice. */
Test(aead_setup, twice)
{
    expect_libcrypto_from(256, "libcrypto 3.9.9 from 256 bytes");
    faults.seals_wrong = true;
    expect_libsodium();
}
