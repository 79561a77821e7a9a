/* Noise's handshake on a byte stream. Its messages have fixed sizes, so no byte of the frames
 * behind them is taken. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "net/noise_link.h"

struct noise_handshaking {
    struct handshake handshake;
    struct noise_keys keys; /* a copy: a reload frees the recipe's while handshakes run */
    struct noise_handshake state;
    uint32_t have;
    uint8_t in[NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX];
};

static struct noise_handshaking *handshaking_of(struct handshake *handshake)
{
    return container_of(handshake, struct noise_handshaking, handshake);
}

static int write_message(struct noise_handshaking *noise, struct link_engine *engine,
                         struct handshake_out *out)
{
    uint8_t message[NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX];
    int size = noise_handshake_write(&noise->state, engine->aead, NULL, 0,
                                     message + NOISE_FRAME_HEADER, NOISE_HANDSHAKE_MESSAGE_MAX);
    if (size < 0)
        return size;
    message[0] = (uint8_t)size;
    message[1] = (uint8_t)(size >> 8);
    return handshake_put(out, message, NOISE_FRAME_HEADER + (size_t)size);
}

/* Takes bytes of the next message. A wrong length is refused as soon as the header is there, before
 * any costly curve operation. */
static int take(struct noise_handshaking *noise, const unsigned char *in, size_t size, size_t *used)
{
    size_t length = noise_handshake_message_size(&noise->state);
    size_t taken = MIN(size, NOISE_FRAME_HEADER + length - noise->have);
    if (taken > 0) /* in may be NULL */
        memcpy(noise->in + noise->have, in, taken);
    noise->have += (uint32_t)taken;
    *used += taken;
    if ((noise->have > 0 && noise->in[0] != (uint8_t)length) ||
        (noise->have > 1 && noise->in[1] != (uint8_t)(length >> 8)))
        return -EPROTO;
    return noise->have == NOISE_FRAME_HEADER + length ? HANDSHAKE_DONE : HANDSHAKE_MORE;
}

static int read_message(struct noise_handshaking *noise, struct link_engine *engine)
{
    uint8_t payload[NOISE_HANDSHAKE_MESSAGE_MAX];
    if (!handshake_may_begin(&noise->handshake))
        return ERR_LIMIT;
    int result = noise_handshake_read(&noise->state, engine->aead, noise->in + NOISE_FRAME_HEADER,
                                      noise->have - NOISE_FRAME_HEADER, payload);
    noise->have = 0;
    noise->handshake.has_proved |= result >= 0;
    return MIN(result, 0);
}

static int noise_step(struct handshake *handshake, struct link_engine *engine,
                      const unsigned char *in, size_t size, size_t *used, struct handshake_out *out)
{
    struct noise_handshaking *noise = handshaking_of(handshake);
    int result = 0;
    while (result == 0 && !noise_handshake_done(&noise->state)) {
        if (noise_handshake_is_ours(&noise->state)) {
            result = write_message(noise, engine, out);
            continue;
        }
        result = take(noise, in + *used, size - *used, used);
        if (result == HANDSHAKE_MORE)
            return HANDSHAKE_MORE;
        if (result == HANDSHAKE_DONE)
            result = read_message(noise, engine);
    }
    return result < 0 ? result : HANDSHAKE_DONE;
}

static int noise_finish(struct handshake *handshake, struct link_engine *engine, struct link *inner,
                        struct link **ret)
{
    link_free(inner); /* there is none: Noise is always the lowest */
    *ret = noise_link_create(&handshaking_of(handshake)->state);
    return *ret != NULL ? 0 : -ENOMEM;
}

static void noise_free(struct handshake *handshake)
{
    struct noise_handshaking *noise = handshaking_of(handshake);
    noise_handshake_wipe(&noise->state);
    noise_keys_wipe(&noise->keys);
    free(noise);
}

static const struct handshake_ops noise_handshake_ops = {
    .step = noise_step,
    .finish = noise_finish,
    .free = noise_free,
};

int noise_handshake_create(const struct noise_keys *keys, bool is_initiator, struct handshake **ret)
{
    struct noise_handshaking *noise = calloc(1, sizeof(*noise));
    if (noise == NULL)
        return -ENOMEM;
    noise->handshake.ops = &noise_handshake_ops;
    noise->keys = *keys;
    noise_handshake_init(&noise->state, &noise->keys, is_initiator, NULL, 0);
    *ret = &noise->handshake;
    return 0;
}
