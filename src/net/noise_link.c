#include "net/noise_link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"

static_assert(NOISE_BATCH_FRAMES * NOISE_FRAME_PAYLOAD == (int)LINK_BATCH_PLAIN, "one batch");
static_assert((int)NOISE_BATCH_CODED <= LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX, "one batch, sealed");
static_assert((int)NOISE_PAYLOAD_MAX <= (int)LINK_FRAME_MAX, "the rest of the largest frame");

static struct noise_link *noise_of(struct link *link)
{
    return container_of(link, struct noise_link, link);
}

/* ---- making and freeing ---- */

static const struct link_ops noise_ops;

struct link *noise_link_create(struct noise_handshake *handshake)
{
    struct noise_link *noise = calloc(1, sizeof(*noise));
    if (noise == NULL) {
        noise_handshake_wipe(handshake);
        return NULL;
    }
    noise->link.ops = &noise_ops;
    noise_handshake_split(handshake, &noise->send, &noise->receive, NULL);
    return &noise->link;
}

static void drop_partial(struct noise_link *noise)
{
    free(noise->partial);
    noise->partial = NULL;
    noise->partial_have = noise->partial_size = 0;
}

static void noise_link_free(struct link *link)
{
    struct noise_link *noise = noise_of(link);
    drop_partial(noise);
    keys_wipe(noise, sizeof(*noise));
    free(noise);
}

static bool noise_link_is_inside_frame(const struct link *link)
{
    return container_of(link, const struct noise_link, link)->partial_have > 0;
}

/* ---- sealing ---- */

static ssize_t noise_link_seal(struct link *link, struct link_engine *engine, const void *plain,
                               size_t size, unsigned char *out)
{
    struct noise_link *noise = noise_of(link);
    /* Not an empty frame: a peer takes it for an end of stream. */
    assert(size > 0);
    const unsigned char *from = plain;
    unsigned char *to = out;
    while (size > 0) {
        size_t payload = MIN(size, (size_t)NOISE_FRAME_PAYLOAD);
        size_t length = payload + NOISE_TAG_SIZE;
        to[0] = (unsigned char)length;
        to[1] = (unsigned char)(length >> 8);
        int result =
            noise_encrypt(&noise->send, engine->aead, from, payload, to + NOISE_FRAME_HEADER);
        if (result < 0)
            return result;
        to += NOISE_FRAME_HEADER + length;
        from += payload;
        size -= payload;
    }
    return to - out;
}

/* ---- opening ---- */

/* The size of a frame with its header. -EBADMSG: it is too short for any plaintext. */
static ssize_t frame_size(unsigned char low, unsigned char high)
{
    size_t length = (size_t)low | (size_t)high << 8;
    if (length <= NOISE_TAG_SIZE)
        return -EBADMSG;
    return (ssize_t)(length + NOISE_FRAME_HEADER);
}

static ssize_t open_frame(struct noise_link *noise, struct link_engine *engine,
                          const unsigned char *frame, size_t size, unsigned char *out)
{
    size_t length = size - NOISE_FRAME_HEADER;
    int result =
        noise_decrypt(&noise->receive, engine->aead, frame + NOISE_FRAME_HEADER, length, out);
    return result < 0 ? -EBADMSG : (ssize_t)(length - NOISE_TAG_SIZE);
}

/* Keeps the beginning of a frame: one byte in the link, or more in a buffer for the whole frame. */
static int keep_partial(struct noise_link *noise, const unsigned char *bytes, size_t size)
{
    if (size == 1) {
        noise->header = bytes[0];
        noise->partial_have = 1;
        return 0;
    }
    ssize_t whole = frame_size(bytes[0], bytes[1]);
    if (whole < 0)
        return (int)whole;
    if (noise->link.is_distrusted && whole > LINK_DISTRUSTED_FRAME)
        return -EBADMSG;
    noise->partial = malloc((size_t)whole);
    if (noise->partial == NULL)
        return -ENOMEM;
    memcpy(noise->partial, bytes, size);
    noise->partial_size = (uint32_t)whole;
    noise->partial_have = (uint32_t)size;
    return 0;
}

/* Adds bytes to the incomplete frame. Returns how many belong to it, or an error. */
static ssize_t complete_partial(struct noise_link *noise, const unsigned char *bytes, size_t size)
{
    size_t used = 0;
    if (noise->partial == NULL) { /* only the first header byte has come so far */
        unsigned char header[NOISE_FRAME_HEADER] = {noise->header, bytes[0]};
        noise->partial_have = 0;
        int result = keep_partial(noise, header, sizeof(header));
        if (result < 0)
            return result;
        used = 1;
    }
    size_t more = MIN(size - used, (size_t)(noise->partial_size - noise->partial_have));
    memcpy(noise->partial + noise->partial_have, bytes + used, more);
    noise->partial_have += (uint32_t)more;
    return (ssize_t)(used + more);
}

static ssize_t noise_link_open(struct link *link, struct link_engine *engine,
                               const unsigned char *sealed, size_t size)
{
    struct noise_link *noise = noise_of(link);
    unsigned char *out = engine->plain;
    size_t at = 0;
    if (noise->partial_have > 0) {
        ssize_t used = complete_partial(noise, sealed, size);
        if (used < 0)
            return used;
        at = (size_t)used;
        if (noise->partial_have < noise->partial_size)
            return 0;
        ssize_t opened = open_frame(noise, engine, noise->partial, noise->partial_size, out);
        drop_partial(noise);
        if (opened < 0)
            return opened;
        out += opened;
    }
    while (size - at >= NOISE_FRAME_HEADER) {
        ssize_t whole = frame_size(sealed[at], sealed[at + 1]);
        if (whole < 0)
            return whole;
        if ((size_t)whole > size - at)
            break;
        ssize_t opened = open_frame(noise, engine, sealed + at, (size_t)whole, out);
        if (opened < 0)
            return opened;
        out += opened;
        at += (size_t)whole;
    }
    if (at < size) {
        int result = keep_partial(noise, sealed + at, size - at);
        if (result < 0)
            return result;
    }
    return out - engine->plain;
}

static const struct link_ops noise_ops = {
    .seal = noise_link_seal,
    .open = noise_link_open,
    .is_inside_frame = noise_link_is_inside_frame,
    .free = noise_link_free,
    .read_size = NOISE_BATCH_CODED,
};
