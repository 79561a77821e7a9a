/* The Noise protocol framework, revision 34, as far as rathole's wire needs it: patterns NK, XX and
 * KK with 25519, ChaChaPoly and BLAKE2s. Bytes in, bytes out: no sockets, no framing, no clock.
 *
 *     noise_keys_init            once per process: whose static keys, which pattern
 *     noise_handshake_init       per connection
 *     noise_handshake_write/read in turn, until noise_handshake_done
 *     noise_handshake_split      two noise_ciphers; the handshake is wiped
 *     noise_encrypt/decrypt      transport messages, in order
 *
 * A step computes on a copy and commits on success: a message that is refused leaves the state as
 * it was. Nothing here allocates. The structs are the caller's, who wipes them with noise_*_wipe on
 * every exit; struct noise_keys is read-only once made, so all threads may share it. */
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

/* One direction of a connection: all that an idle one keeps. */
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
    uint8_t message; /* index of the next one in the pattern */
    bool initiator;
};

/* "Noise_NK_25519_ChaChaPoly_BLAKE2s" and its like. */
const char *noise_pattern_name(enum noise_pattern pattern);
/* -EINVAL: none of the three. */
MUST_CHECK int noise_pattern_from_name(const char *name, enum noise_pattern *ret);

/* local_private NULL: a random one, which only makes sense where the pattern does not authenticate
 * this side. remote_public may be NULL where the pattern transmits it (XX); if given there, a
 * different one is refused. Copies both. */
void noise_keys_init(struct noise_keys *keys, enum noise_pattern pattern,
                     const uint8_t *local_private, const uint8_t *remote_public);
void noise_keys_wipe(struct noise_keys *keys);

/* keys must outlive the handshake and hold what the pattern needs of this role (asserted). */
void noise_handshake_init(struct noise_handshake *handshake, const struct noise_keys *keys,
                          bool initiator, const void *prologue, size_t prologue_len);
/* All messages are through: noise_handshake_split is next. */
bool noise_handshake_done(const struct noise_handshake *handshake);
/* Whether the next message is ours to write. Not after the last. */
bool noise_handshake_is_ours(const struct noise_handshake *handshake);
/* Bytes of the next message with an empty payload: what a peer's message must at least have. */
size_t noise_handshake_message_size(const struct noise_handshake *handshake);
/* Returns the size of the message in out, or -EMSGSIZE: out_size is too small; -EPROTO: not our
 * turn, or a public key of small order made an all-zero secret (RFC 7748 section 6.1). */
MUST_CHECK int noise_handshake_write(struct noise_handshake *handshake, struct aead *aead,
                                     const void *payload, size_t payload_len, void *out,
                                     size_t out_size);
/* Returns the size of the payload in ret_payload (at most size minus
 * noise_handshake_message_size). -EBADMSG: a tag is wrong; -EPROTO: too short, not the peer's turn,
 * a small-order key, or another static key than the configured one. Lengths are checked before any
 * X25519. */
MUST_CHECK int noise_handshake_read(struct noise_handshake *handshake, struct aead *aead,
                                    const void *message, size_t size, void *ret_payload);
/* Noise section 5.2, Split(): ciphers for our sending and our receiving, and the handshake hash for
 * channel binding if ret_hash is not NULL. Wipes the handshake. */
void noise_handshake_split(struct noise_handshake *handshake, struct noise_cipher *ret_send,
                           struct noise_cipher *ret_receive, uint8_t *ret_hash);
void noise_handshake_wipe(struct noise_handshake *handshake);

/* Transport messages. plain_len at most NOISE_PAYLOAD_MAX; out gets plain_len + NOISE_TAG_SIZE
 * bytes and may be plain itself. -EOVERFLOW: nonce 2^64 - 1 is reserved (Noise section 5.1), the
 * connection is over. */
MUST_CHECK int noise_encrypt(struct noise_cipher *cipher, struct aead *aead, const void *plain,
                             size_t plain_len, void *out);
/* size: NOISE_TAG_SIZE to NOISE_MESSAGE_MAX. out gets size - NOISE_TAG_SIZE bytes and may be
 * message itself. -EBADMSG: refused, cipher unchanged; -EOVERFLOW as above. */
MUST_CHECK int noise_decrypt(struct noise_cipher *cipher, struct aead *aead, const void *message,
                             size_t size, void *out);
void noise_cipher_wipe(struct noise_cipher *cipher);
