/* src/crypto/noise.c and src/crypto/noise_symmetric.c against the vectors of two other
 * implementations, as initiator and as responder, with each backend of the AEAD. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "noise_priv.h"
#include "noise_vectors.h"

enum { MESSAGE_MAX = 256 };

/* One side of a vector. */
struct side {
    const struct noise_vector *vector;
    bool initiator;
    struct noise_keys keys;
    struct noise_handshake handshake;
    struct noise_cipher send, receive;
    struct aead *aead;
};

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(noise_vectors, .init = set_up);

static void expect_bytes(const uint8_t *bytes, int len, const struct noise_vector_bytes *expected,
                         const char *what)
{
    cr_assert_eq(len, (int)expected->len, "%s: %d instead of %zu bytes", what, len, expected->len);
    cr_expect_arr_eq(bytes, expected->bytes, expected->len, "%s", what);
}

static void start(struct side *side)
{
    const struct noise_vector *v = side->vector;
    const struct noise_vector_bytes *own =
        side->initiator ? &v->initiator_static_private : &v->responder_static_private;
    const struct noise_vector_bytes *known = side->initiator
                                                 ? &v->initiator_known_responder_static_public
                                                 : &v->responder_known_initiator_static_public;
    const struct noise_vector_bytes *prologue =
        side->initiator ? &v->initiator_prologue : &v->responder_prologue;
    enum noise_pattern pattern;
    cr_assert_eq(noise_pattern_from_name(v->protocol_name, &pattern), 0, "%s", v->protocol_name);
    noise_keys_init(&side->keys, pattern, own->bytes, known->bytes);
    noise_handshake_init(&side->handshake, &side->keys, side->initiator, prologue->bytes,
                         prologue->len);
    noise_handshake_set_ephemeral(&side->handshake, side->initiator
                                                        ? v->initiator_ephemeral_private.bytes
                                                        : v->responder_ephemeral_private.bytes);
}

static void handshake_message(struct side *side, const struct noise_vector_message *message)
{
    uint8_t out[MESSAGE_MAX];
    bool ours = message->from_initiator == side->initiator;
    cr_assert_eq(noise_handshake_is_ours(&side->handshake), ours);
    size_t least = noise_handshake_message_size(&side->handshake);
    cr_expect_eq(least, message->ciphertext.len - message->payload.len);
    if (ours) {
        int r = noise_handshake_write(&side->handshake, side->aead, message->payload.bytes,
                                      message->payload.len, out, sizeof(out));
        expect_bytes(out, r, &message->ciphertext, "handshake message");
    } else {
        int r = noise_handshake_read(&side->handshake, side->aead, message->ciphertext.bytes,
                                     message->ciphertext.len, out);
        expect_bytes(out, r, &message->payload, "handshake payload");
    }
}

static void finish(struct side *side)
{
    const struct noise_vector_bytes *expected = &side->vector->handshake_hash;
    uint8_t hash[NOISE_HASH_SIZE];
    noise_handshake_split(&side->handshake, &side->send, &side->receive, hash);
    if (expected->bytes != NULL)
        expect_bytes(hash, sizeof(hash), expected, "handshake hash");
}

static void transport_message(struct side *side, const struct noise_vector_message *message)
{
    uint8_t out[MESSAGE_MAX];
    const struct noise_vector_bytes *payload = &message->payload;
    const struct noise_vector_bytes *ciphertext = &message->ciphertext;
    cr_assert_leq(ciphertext->len, sizeof(out));
    if (message->from_initiator == side->initiator) {
        cr_expect_eq(noise_encrypt(&side->send, side->aead, payload->bytes, payload->len, out), 0);
        expect_bytes(out, (int)payload->len + NOISE_TAG_SIZE, ciphertext, "transport message");
    } else {
        cr_expect_eq(
            noise_decrypt(&side->receive, side->aead, ciphertext->bytes, ciphertext->len, out), 0);
        expect_bytes(out, (int)ciphertext->len - NOISE_TAG_SIZE, payload, "transport payload");
    }
}

static void play(const struct noise_vector *vector, bool initiator, enum aead_backend backend)
{
    struct side side = {.vector = vector, .initiator = initiator};
    int r = aead_create_with(backend, &side.aead);
    if (r == -ENOTSUP && backend == AEAD_LIBCRYPTO)
        return;
    cr_assert_eq(r, 0);
    start(&side);
    size_t i = 0;
    for (; i < vector->message_count && vector->messages[i].is_handshake; i++)
        handshake_message(&side, &vector->messages[i]);
    cr_assert(noise_handshake_done(&side.handshake), "%s: %s", vector->source,
              vector->protocol_name);
    finish(&side);
    for (; i < vector->message_count; i++)
        transport_message(&side, &vector->messages[i]);
    aead_destroy(side.aead);
}

static void play_all(bool initiator, enum aead_backend backend)
{
    for (size_t i = 0; i < ARRAY_SIZE(noise_vectors); i++)
        play(&noise_vectors[i], initiator, backend);
}

Test(noise_vectors, as_initiator)
{
    play_all(true, AEAD_SODIUM);
}

Test(noise_vectors, as_responder)
{
    play_all(false, AEAD_SODIUM);
}

Test(noise_vectors, as_initiator_with_libcrypto)
{
    play_all(true, AEAD_LIBCRYPTO);
}

Test(noise_vectors, as_responder_with_libcrypto)
{
    play_all(false, AEAD_LIBCRYPTO);
}

/* Three patterns from two sources each. */
Test(noise_vectors, are_all_there)
{
    size_t counts[NOISE_KK + 1] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(noise_vectors); i++) {
        enum noise_pattern pattern;
        cr_assert_eq(noise_pattern_from_name(noise_vectors[i].protocol_name, &pattern), 0);
        counts[pattern]++;
    }
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
        cr_expect_eq(counts[i], 2, "%s", noise_pattern_name((enum noise_pattern)i));
}
