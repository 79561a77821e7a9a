#include "crypto/sha1.h"

#include <string.h>

#include "base/macros.h"

enum { BLOCK_SIZE = 64, LENGTH_SIZE = 8, WORDS = 5, ROUNDS = 80 };

static uint32_t rotate_left(uint32_t word, unsigned int bits)
{
    return word << bits | word >> (32 - bits);
}

/* RFC 3174 section 6.1, with the letters of its text. */
static void sha1_block(uint32_t chain[static WORDS], const uint8_t block[static BLOCK_SIZE])
{
    uint32_t w[ROUNDS], a = chain[0], b = chain[1], c = chain[2], d = chain[3], e = chain[4];
    for (size_t t = 0; t < ROUNDS; t++)
        w[t] = t < 16 ? (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
                            (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3]
                      : rotate_left(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    for (size_t t = 0; t < ROUNDS; t++) {
        uint32_t f = t < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : t < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : t < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = rotate_left(a, 5) + f + e + w[t];
        e = d;
        d = c;
        c = rotate_left(b, 30);
        b = a;
        a = next;
    }
    chain[0] += a;
    chain[1] += b;
    chain[2] += c;
    chain[3] += d;
    chain[4] += e;
}

void sha1_digest(const void *data, size_t size, uint8_t ret[static SHA1_DIGEST_SIZE])
{
    uint32_t chain[WORDS] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const uint8_t *bytes = data;
    size_t left = size;
    for (; left >= BLOCK_SIZE; left -= BLOCK_SIZE, bytes += BLOCK_SIZE)
        sha1_block(chain, bytes);

    /* The rest, a bit, zeros, and the number of bits: one block or two. */
    uint8_t tail[2 * BLOCK_SIZE] = {0};
    size_t tail_size = left + 1 + LENGTH_SIZE > BLOCK_SIZE ? 2 * BLOCK_SIZE : BLOCK_SIZE;
    if (left > 0)
        memcpy(tail, bytes, left);
    tail[left] = 0x80;
    for (size_t i = 0; i < LENGTH_SIZE; i++)
        tail[tail_size - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < tail_size; at += BLOCK_SIZE)
        sha1_block(chain, tail + at);
    for (size_t i = 0; i < SHA1_DIGEST_SIZE; i++)
        ret[i] = (uint8_t)(chain[i / 4] >> (24 - 8 * (i % 4)));
}
