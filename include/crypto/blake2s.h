/* BLAKE2s (RFC 7693) and HMAC over it (RFC 2104), for Noise. libsodium has BLAKE2b only. A state
 * keeps input of the caller: who hashes secrets in pieces wipes it; the functions that need one for
 * themselves do so on their own. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum blake2s_sizes {
    BLAKE2S_HASH_SIZE = 32,
    BLAKE2S_BLOCK_SIZE = 64,
    BLAKE2S_KEY_MAX = 32,
};

struct blake2s {
    uint32_t chain[8];
    uint64_t hashed; /* bytes that went through compress, or, in the last block, that will */
    uint8_t block[BLAKE2S_BLOCK_SIZE];
    size_t block_len;
    size_t out_size;
};

/* out_size: 1 to BLAKE2S_HASH_SIZE, a different function for each. A key (key_len 1 to
 * BLAKE2S_KEY_MAX) makes it a MAC; Noise has no use for that, it wants HMAC. */
void blake2s_init(struct blake2s *state, size_t out_size, const void *key, size_t key_len);
void blake2s_update(struct blake2s *state, const void *data, size_t len);
/* Writes out_size bytes. The state needs a new init then. */
void blake2s_final(struct blake2s *state, uint8_t *out);

/* BLAKE2s-256 of first || second: Noise hashes nothing else. ret may be one of them. */
void blake2s_hash(const void *first, size_t first_len, const void *second, size_t second_len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE]);
/* HMAC-BLAKE2s-256. key_len at most BLAKE2S_BLOCK_SIZE: longer keys do not occur here. ret may be
 * the key or the data. */
void blake2s_hmac(const void *key, size_t key_len, const void *data, size_t len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE]);
