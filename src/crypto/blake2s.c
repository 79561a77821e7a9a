#include "crypto/blake2s.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"

enum { WORD_SIZE = 4, ROUNDS = 10 };

/* RFC 7693 section 2.6: the fractions of the square roots of the first eight primes. */
static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* RFC 7693 section 2.7: which words of the block each round mixes in. */
static const uint8_t schedule[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint32_t blake2s_load_word(const uint8_t bytes[static WORD_SIZE])
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static uint32_t rotate_right(uint32_t word, unsigned int bits)
{
    return word >> bits | word << (32 - bits);
}

/* RFC 7693 section 3.1, the function G, on the words a, b, c and d of v. */
static inline void mix(uint32_t v[static 16], size_t a, size_t b, size_t c, size_t d, uint32_t x,
                       uint32_t y)
{
    v[a] += v[b] + x;
    v[d] = rotate_right(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = rotate_right(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 7);
}

/* RFC 7693 section 3.2, the function F. state->hashed includes this block. */
static void compress(struct blake2s *state, const uint8_t block[static BLAKE2S_BLOCK_SIZE],
                     bool last)
{
    uint32_t v[16], m[16];
    for (size_t i = 0; i < ARRAY_SIZE(m); i++)
        m[i] = blake2s_load_word(block + i * WORD_SIZE);
    memcpy(v, state->chain, sizeof(state->chain));
    memcpy(v + 8, initial, sizeof(initial));
    v[12] ^= (uint32_t)state->hashed;
    v[13] ^= (uint32_t)(state->hashed >> 32);
    if (last)
        v[14] = ~v[14];

    for (size_t round = 0; round < ROUNDS; round++) {
        const uint8_t *s = schedule[round];
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(state->chain); i++)
        state->chain[i] ^= v[i] ^ v[i + 8];
    keys_wipe(m, sizeof(m));
    keys_wipe(v, sizeof(v));
}

void blake2s_init(struct blake2s *state, size_t out_size, const void *key, size_t key_len)
{
    assert(out_size >= 1 && out_size <= BLAKE2S_HASH_SIZE && key_len <= BLAKE2S_KEY_MAX);
    *state = (struct blake2s){.out_size = out_size};
    memcpy(state->chain, initial, sizeof(initial));
    /* The parameter block of RFC 7693 section 2.5: fanout and depth 1, the rest is zero. */
    state->chain[0] ^= 0x01010000 ^ (uint32_t)key_len << 8 ^ (uint32_t)out_size;
    if (key_len > 0) {
        memcpy(state->block, key, key_len);
        state->block_len = BLAKE2S_BLOCK_SIZE;
    }
}

void blake2s_update(struct blake2s *state, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    while (len > 0) {
        /* A full block waits for the next byte: the last block is compressed differently. */
        if (state->block_len == BLAKE2S_BLOCK_SIZE) {
            state->hashed += BLAKE2S_BLOCK_SIZE;
            compress(state, state->block, false);
            state->block_len = 0;
        }
        size_t count = MIN(len, BLAKE2S_BLOCK_SIZE - state->block_len);
        memcpy(state->block + state->block_len, bytes, count);
        state->block_len += count;
        bytes += count;
        len -= count;
    }
}

void blake2s_final(struct blake2s *state, uint8_t *out)
{
    state->hashed += state->block_len;
    memset(state->block + state->block_len, 0, BLAKE2S_BLOCK_SIZE - state->block_len);
    compress(state, state->block, true);
    for (size_t i = 0; i < state->out_size; i++)
        out[i] = (uint8_t)(state->chain[i / WORD_SIZE] >> 8 * (i % WORD_SIZE));
}

void blake2s_hash(const void *first, size_t first_len, const void *second, size_t second_len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE])
{
    struct blake2s state;
    blake2s_init(&state, BLAKE2S_HASH_SIZE, NULL, 0);
    blake2s_update(&state, first, first_len);
    blake2s_update(&state, second, second_len);
    blake2s_final(&state, ret);
    keys_wipe(&state, sizeof(state));
}

void blake2s_hmac(const void *key, size_t key_len, const void *data, size_t len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE])
{
    enum { INNER = 0x36, OUTER = 0x5c }; /* RFC 2104 section 2 */
    uint8_t pad[BLAKE2S_BLOCK_SIZE] = {0};
    uint8_t inner[BLAKE2S_HASH_SIZE];
    assert(key_len <= sizeof(pad));
    if (key_len > 0)
        memcpy(pad, key, key_len);
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= INNER;
    blake2s_hash(pad, sizeof(pad), data, len, inner);
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= INNER ^ OUTER;
    blake2s_hash(pad, sizeof(pad), inner, sizeof(inner), ret);
    keys_wipe(pad, sizeof(pad));
    keys_wipe(inner, sizeof(inner));
}
