/* The Noise Protocol Framework, revision 34, as far as rathole's wire needs it: the patterns NK, XX
 * and KK with 25519, ChaChaPoly and BLAKE2s. Bytes in, bytes out: no sockets, no framing, no clock.
 *
 *     noise_keys_init            per configuration: the pattern and the static keys
 *     noise_handshake_init       per connection
 *     noise_handshake_write/read in turn, until noise_handshake_done
 *     noise_handshake_split      gives two noise_ciphers and wipes the handshake
 *     noise_encrypt/decrypt      transport messages, in order
 *
 * A step works on a copy and commits on success, so a message that is refused leaves the state
 * unchanged. Nothing here allocates. The caller owns the structs and wipes them with noise_*_wipe
 * on every path. A struct noise_keys is read-only once made, so all threads may share it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/aead.h"

enum noise_sizes {
    NOISE_KEY_SIZE = 32,
    NOISE_HASH_SIZE = 32,
    NOISE_TAG_SIZE = AEAD_TAG_SIZE,
    NOISE_MESSAGE_MAX = 65535,
    NOISE_PAYLOAD_MAX = NOISE_MESSAGE_MAX - NOISE_TAG_SIZE,
    /* e, s with its tag, and the tag of an empty payload: XX's second message */
    NOISE_HANDSHAKE_MESSAGE_MAX = 2 * NOISE_KEY_SIZE + 2 * NOISE_TAG_SIZE,
};

enum noise_pattern { NOISE_NK, NOISE_XX, NOISE_KK };

struct noise_keys {
    enum noise_pattern pattern;
    bool has_remote_public;
    uint8_t local_private[NOISE_KEY_SIZE];
    uint8_t local_public[NOISE_KEY_SIZE];
    uint8_t remote_public[NOISE_KEY_SIZE];
};

/* One direction of a connection. An idle connection holds nothing else. */
struct noise_cipher {
    uint8_t key[NOISE_KEY_SIZE];
    uint64_t nonce;
};

struct noise_symmetric { /* Noise section 5.2 */
    uint8_t chaining_key[NOISE_HASH_SIZE];
    uint8_t hash[NOISE_HASH_SIZE];
    struct noise_cipher cipher;
    bool has_key;
};

struct noise_handshake { /* Noise section 5.3 */
    const struct noise_keys *keys;
    struct noise_symmetric symmetric;
    uint8_t ephemeral_private[NOISE_KEY_SIZE];
    uint8_t ephemeral_public[NOISE_KEY_SIZE];
    uint8_t remote_static[NOISE_KEY_SIZE];
    uint8_t remote_ephemeral[NOISE_KEY_SIZE];
    uint8_t message; /* index of the next message in the pattern */
    bool initiator;
};

/* "Noise_NK_25519_ChaChaPoly_BLAKE2s", ... */
const char *noise_pattern_name(enum noise_pattern pattern);
/* 0, or -EINVAL for any other name. */
MUST_CHECK int noise_pattern_from_name(const char *name, enum noise_pattern *ret);

/* Copies both keys. local_private NULL: a random one, for a side that the pattern does not
 * authenticate. remote_public may be NULL if the pattern sends it (XX); if it is given there, a
 * handshake with another key is refused. */
void noise_keys_init(struct noise_keys *keys, enum noise_pattern pattern,
                     const uint8_t *local_private, const uint8_t *remote_public);
void noise_keys_wipe(struct noise_keys *keys);

/* keys must outlive the handshake and hold the keys that the pattern needs in this role
 * (asserted). */
void noise_handshake_init(struct noise_handshake *handshake, const struct noise_keys *keys,
                          bool initiator, const void *prologue, size_t prologue_len);
/* True once all messages were exchanged: noise_handshake_split is next. */
bool noise_handshake_done(const struct noise_handshake *handshake);
/* True if this side writes the next message; false after the last one. */
bool noise_handshake_is_ours(const struct noise_handshake *handshake);
/* The size of the next message with an empty payload, which is its minimum. */
size_t noise_handshake_message_size(const struct noise_handshake *handshake);
/* Returns the size of the message in out. -EMSGSIZE: out_size is too small. -EPROTO: it is not our
 * turn, or the peer's public key has small order, so that the shared secret would be all zero (RFC
 * 7748, section 6.1). */
MUST_CHECK int noise_handshake_write(struct noise_handshake *handshake, struct aead *aead,
                                     const void *payload, size_t payload_len, void *out,
                                     size_t out_size);
/* Returns the size of the payload in ret_payload, which is size minus noise_handshake_message_size.
 * -EBADMSG: a tag is wrong. -EPROTO: the message is too short or too long, it is not the peer's
 * turn, a key has small order, or the static key is not the configured one. Lengths are checked
 * first: a stranger's garbage costs no X25519. */
MUST_CHECK int noise_handshake_read(struct noise_handshake *handshake, struct aead *aead,
                                    const void *message, size_t size, void *ret_payload);
/* Noise section 5.2, Split(): the ciphers for sending and receiving, and the handshake hash for
 * channel binding (ret_hash may be NULL). Wipes the handshake. */
void noise_handshake_split(struct noise_handshake *handshake, struct noise_cipher *ret_send,
                           struct noise_cipher *ret_receive, uint8_t *ret_hash);
void noise_handshake_wipe(struct noise_handshake *handshake);

/* A transport message. plain_len is at most NOISE_PAYLOAD_MAX; out gets plain_len + NOISE_TAG_SIZE
 * bytes and may be plain itself. -EOVERFLOW: the nonces are used up (2^64 - 1 is reserved, Noise
 * section 5.1), so the connection has to end. */
MUST_CHECK int noise_encrypt(struct noise_cipher *cipher, struct aead *aead, const void *plain,
                             size_t plain_len, void *out);
/* size is NOISE_TAG_SIZE to NOISE_MESSAGE_MAX; out gets size - NOISE_TAG_SIZE bytes and may be
 * message itself. -EBADMSG: refused, with cipher unchanged; -EOVERFLOW as above. */
MUST_CHECK int noise_decrypt(struct noise_cipher *cipher, struct aead *aead, const void *message,
                             size_t size, void *out);
void noise_cipher_wipe(struct noise_cipher *cipher);
