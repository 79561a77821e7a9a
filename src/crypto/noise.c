/* Noise sections 5.3 and 7: the handshake patterns, and the HandshakeState that executes them. */
#include "crypto/noise.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "crypto/keys.h"
#include "crypto/x25519.h"
#include "noise_priv.h"

enum { MESSAGES_MAX = 3, TOKENS_MAX = 4 };

enum token { TOKEN_NONE, TOKEN_E, TOKEN_S, TOKEN_EE, TOKEN_ES, TOKEN_SE, TOKEN_SS, TOKEN_COUNT };

struct pattern {
    const char *protocol_name; /* section 8 */
    /* Pre-messages: the other side knows this side's static key beforehand. */
    bool initiator_known, responder_known;
    uint8_t message_count; /* the initiator writes 0 and 2 */
    enum token messages[MESSAGES_MAX][TOKENS_MAX];
};

/* Section 7.5, the fundamental interactive patterns. */
static const struct pattern patterns[] = {
    /*      <- s
     *      ...
     *      -> e, es
     *      <- e, ee */
    [NOISE_NK] = {.protocol_name = "Noise_NK_25519_ChaChaPoly_BLAKE2s",
                  .responder_known = true,
                  .message_count = 2,
                  .messages = {{TOKEN_E, TOKEN_ES}, {TOKEN_E, TOKEN_EE}}},
    /*      -> e
     *      <- e, ee, s, es
     *      -> s, se */
    [NOISE_XX] = {.protocol_name = "Noise_XX_25519_ChaChaPoly_BLAKE2s",
                  .message_count = 3,
                  .messages = {{TOKEN_E},
                               {TOKEN_E, TOKEN_EE, TOKEN_S, TOKEN_ES},
                               {TOKEN_S, TOKEN_SE}}},
    /*      -> s
     *      <- s
     *      ...
     *      -> e, es, ss
     *      <- e, ee, se */
    [NOISE_KK] = {.protocol_name = "Noise_KK_25519_ChaChaPoly_BLAKE2s",
                  .initiator_known = true,
                  .responder_known = true,
                  .message_count = 2,
                  .messages = {{TOKEN_E, TOKEN_ES, TOKEN_SS}, {TOKEN_E, TOKEN_EE, TOKEN_SE}}},
};

/* A message that is being written or read, on a copy of the handshake. Its length was checked. */
struct step {
    struct noise_handshake *handshake;
    struct aead *aead;
    uint8_t *out;      /* writing: where the next token goes */
    const uint8_t *in; /* reading: where the next token is */
};

static const struct pattern *pattern_of(const struct noise_handshake *handshake)
{
    return &patterns[handshake->keys->pattern];
}

/* The tokens of the next message: up to TOKENS_MAX, or up to TOKEN_NONE. */
static const enum token *next_tokens(const struct noise_handshake *handshake)
{
    assert(!noise_handshake_done(handshake));
    return pattern_of(handshake)->messages[handshake->message];
}

const char *noise_pattern_name(enum noise_pattern pattern)
{
    assert((size_t)pattern < ARRAY_SIZE(patterns));
    return patterns[pattern].protocol_name;
}

int noise_pattern_from_name(const char *name, enum noise_pattern *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(patterns); i++) {
        if (strcmp(name, patterns[i].protocol_name) == 0) {
            *ret = (enum noise_pattern)i;
            return 0;
        }
    }
    return -EINVAL;
}

void noise_keys_init(struct noise_keys *keys, enum noise_pattern pattern,
                     const uint8_t *local_private, const uint8_t *remote_public)
{
    *keys = (struct noise_keys){.pattern = pattern, .has_remote_public = remote_public != NULL};
    if (local_private != NULL) {
        memcpy(keys->local_private, local_private, NOISE_KEY_SIZE);
        keys_pair_public(keys->local_private, keys->local_public);
    } else {
        keys_pair_generate(keys->local_private, keys->local_public);
    }
    if (remote_public != NULL)
        memcpy(keys->remote_public, remote_public, NOISE_KEY_SIZE);
}

void noise_keys_wipe(struct noise_keys *keys)
{
    keys_wipe(keys, sizeof(*keys));
}

/* Section 5.3, Initialize(). */
void noise_handshake_init(struct noise_handshake *handshake, const struct noise_keys *keys,
                          bool initiator, const void *prologue, size_t prologue_len)
{
    const struct pattern *pattern = &patterns[keys->pattern];
    struct noise_symmetric *symmetric = &handshake->symmetric;
    *handshake = (struct noise_handshake){.keys = keys, .initiator = initiator};
    noise_symmetric_init(symmetric, pattern->protocol_name);
    noise_symmetric_mix_hash(symmetric, prologue, prologue_len);

    if (initiator ? pattern->responder_known : pattern->initiator_known) {
        assert(keys->has_remote_public);
        memcpy(handshake->remote_static, keys->remote_public, NOISE_KEY_SIZE);
    }
    if (pattern->initiator_known)
        noise_symmetric_mix_hash(symmetric, initiator ? keys->local_public : keys->remote_public,
                                 NOISE_KEY_SIZE);
    if (pattern->responder_known)
        noise_symmetric_mix_hash(symmetric, initiator ? keys->remote_public : keys->local_public,
                                 NOISE_KEY_SIZE);
}

void noise_handshake_set_ephemeral(struct noise_handshake *handshake,
                                   const uint8_t private_key[static NOISE_KEY_SIZE])
{
    memcpy(handshake->ephemeral_private, private_key, NOISE_KEY_SIZE);
    keys_pair_public(handshake->ephemeral_private, handshake->ephemeral_public);
}

bool noise_handshake_done(const struct noise_handshake *handshake)
{
    return handshake->message == pattern_of(handshake)->message_count;
}

bool noise_handshake_is_ours(const struct noise_handshake *handshake)
{
    return !noise_handshake_done(handshake) &&
           handshake->initiator == (handshake->message % 2 == 0);
}

size_t noise_handshake_message_size(const struct noise_handshake *handshake)
{
    const enum token *tokens = next_tokens(handshake);
    size_t size = 0, overhead = noise_symmetric_overhead(&handshake->symmetric);
    for (size_t i = 0; i < TOKENS_MAX && tokens[i] != TOKEN_NONE; i++) {
        if (tokens[i] == TOKEN_E)
            size += NOISE_KEY_SIZE;
        else if (tokens[i] == TOKEN_S)
            size += NOISE_KEY_SIZE + overhead;
        else
            overhead = NOISE_TAG_SIZE; /* from the first DH on there is a key */
    }
    return size + overhead;
}

/* Section 4.1, DH(), then MixKey() with the result. -EPROTO: the result is all zero. */
static int mix_dh(struct noise_handshake *handshake, const uint8_t *private_key,
                  const uint8_t *public_key)
{
    uint8_t secret[NOISE_KEY_SIZE];
    int r = x25519_shared(private_key, public_key, secret);
    if (r == 0)
        noise_symmetric_mix_key(&handshake->symmetric, secret);
    keys_wipe(secret, sizeof(secret));
    return r;
}

/* The tokens, section 5.3, WriteMessage() and ReadMessage(). */

static int write_e(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    /* Section 5.3 says that e must be empty; a test may have set it (noise_priv.h). */
    if (sodium_is_zero(handshake->ephemeral_public, NOISE_KEY_SIZE))
        keys_pair_generate(handshake->ephemeral_private, handshake->ephemeral_public);
    memcpy(step->out, handshake->ephemeral_public, NOISE_KEY_SIZE);
    step->out += NOISE_KEY_SIZE;
    noise_symmetric_mix_hash(&handshake->symmetric, handshake->ephemeral_public, NOISE_KEY_SIZE);
    return 0;
}

static int read_e(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    memcpy(handshake->remote_ephemeral, step->in, NOISE_KEY_SIZE);
    step->in += NOISE_KEY_SIZE;
    noise_symmetric_mix_hash(&handshake->symmetric, handshake->remote_ephemeral, NOISE_KEY_SIZE);
    return 0;
}

static int write_s(struct step *step)
{
    struct noise_symmetric *symmetric = &step->handshake->symmetric;
    size_t size = NOISE_KEY_SIZE + noise_symmetric_overhead(symmetric);
    int r = noise_symmetric_encrypt(symmetric, step->aead, step->handshake->keys->local_public,
                                    NOISE_KEY_SIZE, step->out);
    step->out += size;
    return r;
}

static int read_s(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    const struct noise_keys *keys = handshake->keys;
    size_t size = NOISE_KEY_SIZE + noise_symmetric_overhead(&handshake->symmetric);
    int r = noise_symmetric_decrypt(&handshake->symmetric, step->aead, step->in, size,
                                    handshake->remote_static);
    step->in += size;
    if (r < 0)
        return r;
    if (keys->has_remote_public &&
        !keys_equal(handshake->remote_static, keys->remote_public, NOISE_KEY_SIZE))
        return -EPROTO;
    return 0;
}

static int mix_ee(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    return mix_dh(handshake, handshake->ephemeral_private, handshake->remote_ephemeral);
}

/* Of "es" and "se", the first letter is the initiator's key, the second the responder's. */
static int mix_es(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    if (handshake->initiator)
        return mix_dh(handshake, handshake->ephemeral_private, handshake->remote_static);
    return mix_dh(handshake, handshake->keys->local_private, handshake->remote_ephemeral);
}

static int mix_se(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    if (handshake->initiator)
        return mix_dh(handshake, handshake->keys->local_private, handshake->remote_ephemeral);
    return mix_dh(handshake, handshake->ephemeral_private, handshake->remote_static);
}

static int mix_ss(struct step *step)
{
    struct noise_handshake *handshake = step->handshake;
    return mix_dh(handshake, handshake->keys->local_private, handshake->remote_static);
}

static const struct {
    int (*write)(struct step *step);
    int (*read)(struct step *step);
} token_table[] = {
    [TOKEN_E] = {write_e, read_e}, [TOKEN_S] = {write_s, read_s}, [TOKEN_EE] = {mix_ee, mix_ee},
    [TOKEN_ES] = {mix_es, mix_es}, [TOKEN_SE] = {mix_se, mix_se}, [TOKEN_SS] = {mix_ss, mix_ss},
};
static_assert(ARRAY_SIZE(token_table) == TOKEN_COUNT, "a row for each token");

static int write_tokens(struct step *step)
{
    const enum token *tokens = next_tokens(step->handshake);
    int r = 0;
    for (size_t i = 0; r == 0 && i < TOKENS_MAX && tokens[i] != TOKEN_NONE; i++)
        r = token_table[tokens[i]].write(step);
    return r;
}

static int read_tokens(struct step *step)
{
    const enum token *tokens = next_tokens(step->handshake);
    int r = 0;
    for (size_t i = 0; r == 0 && i < TOKENS_MAX && tokens[i] != TOKEN_NONE; i++)
        r = token_table[tokens[i]].read(step);
    return r;
}

int noise_handshake_write(struct noise_handshake *handshake, struct aead *aead, const void *payload,
                          size_t payload_len, void *out, size_t out_size)
{
    if (!noise_handshake_is_ours(handshake))
        return -EPROTO;
    size_t least = noise_handshake_message_size(handshake);
    size_t limit = MIN(out_size, NOISE_MESSAGE_MAX);
    if (least > limit || payload_len > limit - least)
        return -EMSGSIZE;

    struct noise_handshake next = *handshake;
    struct step step = {.handshake = &next, .aead = aead, .out = out};
    int r = write_tokens(&step);
    if (r == 0)
        r = noise_symmetric_encrypt(&next.symmetric, aead, payload, payload_len, step.out);
    if (r == 0) {
        next.message++;
        *handshake = next;
        r = (int)(least + payload_len);
    }
    noise_handshake_wipe(&next);
    return r;
}

int noise_handshake_read(struct noise_handshake *handshake, struct aead *aead, const void *message,
                         size_t size, void *ret_payload)
{
    if (noise_handshake_done(handshake) || noise_handshake_is_ours(handshake))
        return -EPROTO;
    size_t least = noise_handshake_message_size(handshake);
    if (size < least || size > NOISE_MESSAGE_MAX)
        return -EPROTO;

    struct noise_handshake next = *handshake;
    struct step step = {.handshake = &next, .aead = aead, .in = message};
    int r = read_tokens(&step);
    if (r == 0) {
        size_t tokens_size = (size_t)(step.in - (const uint8_t *)message);
        r = noise_symmetric_decrypt(&next.symmetric, aead, step.in, size - tokens_size,
                                    ret_payload);
    }
    if (r == 0) {
        next.message++;
        *handshake = next;
        r = (int)(size - least);
    }
    noise_handshake_wipe(&next);
    return r;
}

void noise_handshake_split(struct noise_handshake *handshake, struct noise_cipher *ret_send,
                           struct noise_cipher *ret_receive, uint8_t *ret_hash)
{
    assert(noise_handshake_done(handshake));
    if (handshake->initiator)
        noise_symmetric_split(&handshake->symmetric, ret_send, ret_receive);
    else
        noise_symmetric_split(&handshake->symmetric, ret_receive, ret_send);
    if (ret_hash != NULL)
        memcpy(ret_hash, handshake->symmetric.hash, NOISE_HASH_SIZE);
    noise_handshake_wipe(handshake);
}

void noise_handshake_wipe(struct noise_handshake *handshake)
{
    keys_wipe(handshake, sizeof(*handshake));
}
