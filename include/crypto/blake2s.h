/* BLAKE2s (RFC 7693) and HMAC-BLAKE2s (RFC 2104), for Noise; libsodium has only BLAKE2b. A state
 * holds input, so a caller that hashes secrets piece by piece wipes it. blake2s_hash and
 * blake2s_hmac wipe their own. */
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
    uint64_t hashed; /* bytes, including those of the block that is being compressed */
    uint8_t block[BLAKE2S_BLOCK_SIZE];
    size_t block_len;
    size_t out_size;
};

/* out_size is 1 to BLAKE2S_HASH_SIZE; each size is a different function. With a key (key_len 1 to
 * BLAKE2S_KEY_MAX) it is a MAC; Noise uses HMAC instead. */
void blake2s_init(struct blake2s *state, size_t out_size, const void *key, size_t key_len);
void blake2s_update(struct blake2s *state, const void *data, size_t len);
/* Writes out_size bytes. The state then needs blake2s_init again. */
void blake2s_final(struct blake2s *state, uint8_t *out);

/* BLAKE2s-256 of first || second, the only form that Noise needs. ret may be one of them. */
void blake2s_hash(const void *first, size_t first_len, const void *second, size_t second_len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE]);
/* HMAC-BLAKE2s-256. key_len is at most BLAKE2S_BLOCK_SIZE. ret may be the key or the data. */
void blake2s_hmac(const void *key, size_t key_len, const void *data, size_t len,
                  uint8_t ret[static BLAKE2S_HASH_SIZE]);
