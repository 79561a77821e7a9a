#include "curve25519_priv.h"

#include <assert.h>
#include <sodium.h>
#include <stddef.h>
#include <string.h>

#include "crypto/keys.h"

enum {
    LIMBS = 5,
    LIMB_BITS = 51,
    SCALAR_BITS = 255,
    FOLD = 19,    /* 2^255 = 19 modulo p */
    A24 = 121665, /* RFC 7748 section 4.1: (A - 2) / 4 */
};

#define LIMB_MASK ((UINT64_C(1) << LIMB_BITS) - 1)

/* ---- numbers modulo p = 2^255 - 19 ---- */

/* limb[i] counts 2^(51 i). A number is "tight" when its limbs are below 2^51 + 2^13: what
 * field_load and the multiplications give. Sums and differences of two tight numbers are below
 * 2^53; factors may have up to 2^54. */
struct number {
    uint64_t limb[LIMBS];
};

/* The sum of five products of 2^54 x 2^54 x 19 is below 2^115. */
typedef unsigned __int128 product;

static const struct number one = {{1}};

static uint64_t field_load_word(const uint8_t bytes[static 8])
{
    uint64_t word = 0;
    for (size_t i = 0; i < sizeof(word); i++)
        word |= (uint64_t)bytes[i] << 8 * i;
    return word;
}

static void store_word(uint64_t word, uint8_t bytes[static 8])
{
    for (size_t i = 0; i < sizeof(word); i++)
        bytes[i] = (uint8_t)(word >> 8 * i);
}

/* Without the highest bit, as RFC 7748 section 5 wants it. */
static struct number field_load(const uint8_t bytes[static X25519_SIZE])
{
    uint64_t word[4];
    for (size_t i = 0; i < 4; i++)
        word[i] = field_load_word(bytes + 8 * i);
    return (struct number){{
        word[0] & LIMB_MASK,
        (word[0] >> 51 | word[1] << 13) & LIMB_MASK,
        (word[1] >> 38 | word[2] << 26) & LIMB_MASK,
        (word[2] >> 25 | word[3] << 39) & LIMB_MASK,
        (word[3] >> 12) & LIMB_MASK,
    }};
}

/* Moves what is above 51 bits into the next limb, and from the last one, folded, into the first. */
static void carry_round(struct number *a)
{
    for (size_t i = 0; i < LIMBS - 1; i++) {
        a->limb[i + 1] += a->limb[i] >> LIMB_BITS;
        a->limb[i] &= LIMB_MASK;
    }
    a->limb[0] += FOLD * (a->limb[4] >> LIMB_BITS);
    a->limb[4] &= LIMB_MASK;
}

static void store(struct number a, uint8_t ret[static X25519_SIZE])
{
    carry_round(&a);
    carry_round(&a); /* now below 2^255 + 19 */
    /* One more p to subtract if a + 19 has a bit 255. */
    uint64_t over = FOLD;
    for (size_t i = 0; i < LIMBS; i++)
        over = (a.limb[i] + over) >> LIMB_BITS;
    a.limb[0] += FOLD * over;
    for (size_t i = 0; i < LIMBS - 1; i++) {
        a.limb[i + 1] += a.limb[i] >> LIMB_BITS;
        a.limb[i] &= LIMB_MASK;
    }
    a.limb[4] &= LIMB_MASK; /* without the bit 255 that stands for the p */
    store_word(a.limb[0] | a.limb[1] << 51, ret);
    store_word(a.limb[1] >> 13 | a.limb[2] << 38, ret + 8);
    store_word(a.limb[2] >> 26 | a.limb[3] << 25, ret + 16);
    store_word(a.limb[3] >> 39 | a.limb[4] << 12, ret + 24);
}

static inline struct number add(const struct number *a, const struct number *b)
{
    struct number sum;
    for (size_t i = 0; i < LIMBS; i++)
        sum.limb[i] = a->limb[i] + b->limb[i];
    return sum;
}

/* a + 2p - b: no limb falls below zero if b is tight. */
static inline struct number subtract(const struct number *a, const struct number *b)
{
    struct number difference;
    difference.limb[0] = a->limb[0] + 2 * (LIMB_MASK - (FOLD - 1)) - b->limb[0];
    for (size_t i = 1; i < LIMBS; i++)
        difference.limb[i] = a->limb[i] + 2 * LIMB_MASK - b->limb[i];
    return difference;
}

/* To a tight number. */
static inline struct number carry(product t0, product t1, product t2, product t3, product t4)
{
    struct number a;
    t1 += (uint64_t)(t0 >> LIMB_BITS);
    t2 += (uint64_t)(t1 >> LIMB_BITS);
    t3 += (uint64_t)(t2 >> LIMB_BITS);
    t4 += (uint64_t)(t3 >> LIMB_BITS);
    /* t4 has no folded part, so it is below 2^111 and this below 2^64. */
    uint64_t low = ((uint64_t)t0 & LIMB_MASK) + FOLD * (uint64_t)(t4 >> LIMB_BITS);
    a.limb[0] = low & LIMB_MASK;
    a.limb[1] = ((uint64_t)t1 & LIMB_MASK) + (low >> LIMB_BITS);
    a.limb[2] = (uint64_t)t2 & LIMB_MASK;
    a.limb[3] = (uint64_t)t3 & LIMB_MASK;
    a.limb[4] = (uint64_t)t4 & LIMB_MASK;
    return a;
}

static inline struct number multiply(const struct number *first, const struct number *second)
{
    const uint64_t *a = first->limb, *b = second->limb;
    const uint64_t b1 = FOLD * b[1], b2 = FOLD * b[2], b3 = FOLD * b[3], b4 = FOLD * b[4];
    return carry((product)a[0] * b[0] + (product)a[1] * b4 + (product)a[2] * b3 +
                     (product)a[3] * b2 + (product)a[4] * b1,
                 (product)a[0] * b[1] + (product)a[1] * b[0] + (product)a[2] * b4 +
                     (product)a[3] * b3 + (product)a[4] * b2,
                 (product)a[0] * b[2] + (product)a[1] * b[1] + (product)a[2] * b[0] +
                     (product)a[3] * b4 + (product)a[4] * b3,
                 (product)a[0] * b[3] + (product)a[1] * b[2] + (product)a[2] * b[1] +
                     (product)a[3] * b[0] + (product)a[4] * b4,
                 (product)a[0] * b[4] + (product)a[1] * b[3] + (product)a[2] * b[2] +
                     (product)a[3] * b[1] + (product)a[4] * b[0]);
}

/* multiply(a, a) with equal products taken together. */
static inline struct number square(const struct number *number)
{
    const uint64_t *a = number->limb;
    const uint64_t twice0 = 2 * a[0], twice1 = 2 * a[1], twice2 = 2 * a[2];
    const uint64_t a3 = FOLD * a[3], a4 = FOLD * a[4];
    return carry((product)a[0] * a[0] + (product)twice1 * a4 + (product)twice2 * a3,
                 (product)twice0 * a[1] + (product)twice2 * a4 + (product)a[3] * a3,
                 (product)twice0 * a[2] + (product)a[1] * a[1] + (product)(2 * a[3]) * a4,
                 (product)twice0 * a[3] + (product)twice1 * a[2] + (product)a[4] * a4,
                 (product)twice0 * a[4] + (product)twice1 * a[3] + (product)a[2] * a[2]);
}

static inline struct number multiply_small(const struct number *a, uint32_t factor)
{
    return carry((product)a->limb[0] * factor, (product)a->limb[1] * factor,
                 (product)a->limb[2] * factor, (product)a->limb[3] * factor,
                 (product)a->limb[4] * factor);
}

static struct number square_times(const struct number *a, unsigned int times)
{
    struct number power = square(a);
    for (unsigned int i = 1; i < times; i++)
        power = square(&power);
    return power;
}

/* a^(2^(n + m) - 1) from a^(2^n - 1) and a^(2^m - 1). */
static struct number join(const struct number *n_ones, const struct number *m_ones, unsigned int m)
{
    struct number shifted = square_times(n_ones, m);
    return multiply(&shifted, m_ones);
}

/* Fermat: a^(p - 2), whose exponent is 250 ones and 01011 in binary. 0 stays 0. */
static struct number invert(const struct number *a)
{
    struct number ones_2 = join(a, a, 1);
    struct number ones_4 = join(&ones_2, &ones_2, 2);
    struct number ones_5 = join(&ones_4, a, 1);
    struct number ones_10 = join(&ones_5, &ones_5, 5);
    struct number ones_20 = join(&ones_10, &ones_10, 10);
    struct number ones_40 = join(&ones_20, &ones_20, 20);
    struct number ones_50 = join(&ones_40, &ones_10, 10);
    struct number ones_100 = join(&ones_50, &ones_50, 50);
    struct number ones_200 = join(&ones_100, &ones_100, 100);
    struct number ones_250 = join(&ones_200, &ones_50, 50);
    struct number with_01 = join(&ones_250, a, 2);
    return join(&with_01, &ones_2, 3);
}

/* ---- the curve ---- */

/* RFC 7748 section 5, decodeScalar25519. */
static void clamp(const uint8_t scalar[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    memcpy(ret, scalar, X25519_SIZE);
    ret[0] &= 0xf8;
    ret[31] &= 0x7f;
    ret[31] |= 0x40;
}

/* Two points, as x / z each: k P and (k + 1) P. */
struct ladder {
    struct number x2, z2, x3, z3;
};

static inline void swap_if(uint64_t mask, struct number *a, struct number *b)
{
    for (size_t i = 0; i < LIMBS; i++) {
        uint64_t difference = mask & (a->limb[i] ^ b->limb[i]);
        a->limb[i] ^= difference;
        b->limb[i] ^= difference;
    }
}

static inline void ladder_swap_if(struct ladder *ladder, uint64_t bit)
{
    uint64_t mask = 0 - bit;
    /* Else a compiler that knows that the mask is one of two might make a branch of it. */
    __asm__("" : "+r"(mask));
    swap_if(mask, &ladder->x2, &ladder->x3);
    swap_if(mask, &ladder->z2, &ladder->z3);
}

/* RFC 7748 section 5, in its names: doubles the one point, adds the two, whose difference is x1. */
static inline void ladder_step(struct ladder *ladder, const struct number *x1)
{
    const struct number a = add(&ladder->x2, &ladder->z2);
    const struct number b = subtract(&ladder->x2, &ladder->z2);
    const struct number c = add(&ladder->x3, &ladder->z3);
    const struct number d = subtract(&ladder->x3, &ladder->z3);
    const struct number da = multiply(&d, &a);
    const struct number cb = multiply(&c, &b);
    const struct number aa = square(&a);
    const struct number bb = square(&b);
    const struct number e = subtract(&aa, &bb);
    const struct number sum = add(&da, &cb);
    const struct number difference = subtract(&da, &cb);
    const struct number difference_2 = square(&difference);
    const struct number e_24 = multiply_small(&e, A24);
    const struct number last = add(&aa, &e_24);
    ladder->x3 = square(&sum);
    ladder->z3 = multiply(x1, &difference_2);
    ladder->x2 = multiply(&aa, &bb);
    ladder->z2 = multiply(&e, &last);
}

void curve25519_shared(const uint8_t scalar[static X25519_SIZE],
                       const uint8_t point[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    uint8_t k[X25519_SIZE];
    const struct number x1 = field_load(point);
    struct ladder ladder = {.x2 = one, .x3 = x1, .z3 = one};
    uint64_t swapped = 0;
    clamp(scalar, k);
    for (size_t i = SCALAR_BITS; i-- > 0;) {
        uint64_t bit = k[i / 8] >> i % 8 & 1;
        ladder_swap_if(&ladder, swapped ^ bit);
        swapped = bit;
        ladder_step(&ladder, &x1);
    }
    ladder_swap_if(&ladder, swapped);
    ladder.z2 = invert(&ladder.z2);
    store(multiply(&ladder.x2, &ladder.z2), ret);
    keys_wipe(&ladder, sizeof(ladder));
    keys_wipe(k, sizeof(k));
}

#ifdef SODIUM_LIBRARY_MINIMAL /* a build of libsodium without crypto_scalarmult_ed25519 */

void curve25519_public(const uint8_t scalar[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    static const uint8_t base[X25519_SIZE] = {9};
    curve25519_shared(scalar, base, ret);
}

#else

/* RFC 7748 section 4.1: u = (1 + y) / (1 - y). Everything here is public. */
static void from_edwards(const uint8_t edwards[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    const struct number y = field_load(edwards); /* the highest bit is the sign of x: no matter */
    const struct number above = add(&one, &y);
    const struct number below = subtract(&one, &y);
    const struct number inverse = invert(&below);
    store(multiply(&above, &inverse), ret);
}

void curve25519_public(const uint8_t scalar[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    uint8_t k[X25519_SIZE], edwards[X25519_SIZE];
    clamp(scalar, k);
    int r = crypto_scalarmult_ed25519_base_noclamp(edwards, k);
    keys_wipe(k, sizeof(k));
    assert(r == 0); /* a clamped scalar is no multiple of the base point's order */
    (void)r;
    from_edwards(edwards, ret);
}

#endif
