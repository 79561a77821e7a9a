/* How src/crypto/x25519.c chooses: the linker puts the functions below in front of both backends.
 */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "crypto/keys.h"
#include "curve25519_priv.h"

enum { SLOW_NS = 500000 };

/* What goes wrong. */
static struct {
    bool sodium_public_slow, sodium_shared_slow, own_public_slow, own_shared_slow;
    bool own_public_wrong, own_shared_wrong;
} faults;
static unsigned int own_public_count, own_shared_count;

static void wait_if(bool slow)
{
    struct timespec start, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    } while (slow &&
             (now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < SLOW_NS);
}

int __real_crypto_scalarmult_base(unsigned char *q, const unsigned char *n);
int __wrap_crypto_scalarmult_base(unsigned char *q, const unsigned char *n);
int __real_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p);
int __wrap_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p);
void __real_curve25519_public(const uint8_t scalar[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE]);
void __wrap_curve25519_public(const uint8_t scalar[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE]);
void __real_curve25519_shared(const uint8_t scalar[static X25519_SIZE],
                              const uint8_t point[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE]);
void __wrap_curve25519_shared(const uint8_t scalar[static X25519_SIZE],
                              const uint8_t point[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE]);

int __wrap_crypto_scalarmult_base(unsigned char *q, const unsigned char *n)
{
    wait_if(faults.sodium_public_slow);
    return __real_crypto_scalarmult_base(q, n);
}

int __wrap_crypto_scalarmult(unsigned char *q, const unsigned char *n, const unsigned char *p)
{
    wait_if(faults.sodium_shared_slow);
    return __real_crypto_scalarmult(q, n, p);
}

void __wrap_curve25519_public(const uint8_t scalar[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE])
{
    own_public_count++;
    wait_if(faults.own_public_slow);
    __real_curve25519_public(scalar, ret);
    ret[31] ^= faults.own_public_wrong;
}

void __wrap_curve25519_shared(const uint8_t scalar[static X25519_SIZE],
                              const uint8_t point[static X25519_SIZE],
                              uint8_t ret[static X25519_SIZE])
{
    own_shared_count++;
    wait_if(faults.own_shared_slow);
    __real_curve25519_shared(scalar, point, ret);
    ret[0] ^= faults.own_shared_wrong;
}

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(x25519_setup, .init = set_up);

static void expect_choice(bool own_public, bool own_shared, const char *description)
{
    uint8_t private_key[X25519_SIZE], public_key[X25519_SIZE], secret[X25519_SIZE];
    cr_expect_str_eq(x25519_description(), description);
    keys_random(private_key, sizeof(private_key));
    own_public_count = own_shared_count = 0;
    x25519_public(private_key, public_key);
    cr_expect_eq(own_public_count, own_public);
    cr_expect_eq(x25519_shared(private_key, public_key, secret), 0);
    cr_expect_eq(own_shared_count, own_shared);
}

Test(x25519_setup, before_it_libsodium)
{
    expect_choice(false, false, "libsodium");
}

Test(x25519_setup, ours_is_faster)
{
    faults.sodium_public_slow = faults.sodium_shared_slow = true;
    x25519_setup();
    expect_choice(true, true, "our own code");
}

Test(x25519_setup, ours_is_slower)
{
    faults.own_public_slow = faults.own_shared_slow = true;
    x25519_setup();
    expect_choice(false, false, "libsodium");
}

Test(x25519_setup, no_difference)
{
    faults.own_public_slow = faults.own_shared_slow = true;
    faults.sodium_public_slow = faults.sodium_shared_slow = true;
    x25519_setup();
    expect_choice(false, false, "libsodium");
}

Test(x25519_setup, ours_is_faster_at_public_keys)
{
    faults.sodium_public_slow = faults.own_shared_slow = true;
    x25519_setup();
    expect_choice(true, false, "libsodium, public keys by our own code");
}

Test(x25519_setup, ours_is_faster_at_secrets)
{
    faults.sodium_shared_slow = faults.own_public_slow = true;
    x25519_setup();
    expect_choice(false, true, "our own code, public keys by libsodium");
}

Test(x25519_setup, wrong_public_keys)
{
    faults.sodium_public_slow = faults.sodium_shared_slow = faults.own_public_wrong = true;
    x25519_setup();
    expect_choice(false, false, "libsodium");
}

/* Measured again, for another machine so to speak: the former choice is forgotten. */
Test(x25519_setup, wrong_secrets_the_second_time)
{
    faults.sodium_public_slow = faults.sodium_shared_slow = true;
    x25519_setup();
    expect_choice(true, true, "our own code");
    faults.own_shared_wrong = true;
    x25519_setup();
    expect_choice(false, false, "libsodium");
}
