#include "net/noise_link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"

/* Room for the rest of the largest frame and a batch behind it. */
enum { ENGINE_PLAIN_SIZE = NOISE_PAYLOAD_MAX + NOISE_BATCH_SEALED };

/* ---- engine ---- */

int noise_engine_create(struct noise_engine **ret)
{
    struct noise_engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return -ENOMEM;
    engine->sealed = malloc(NOISE_BATCH_SEALED);
    engine->plain = malloc(ENGINE_PLAIN_SIZE);
    if (engine->sealed == NULL || engine->plain == NULL || aead_create(&engine->aead) < 0) {
        noise_engine_destroy(engine);
        return -ENOMEM;
    }
    *ret = engine;
    return 0;
}

void noise_engine_destroy(struct noise_engine *engine)
{
    if (engine == NULL)
        return;
    if (engine->plain != NULL)
        keys_wipe(engine->plain, ENGINE_PLAIN_SIZE);
    aead_destroy(engine->aead);
    free(engine->sealed);
    free(engine->plain);
    free(engine);
}

/* ---- link ---- */

struct noise_link *noise_link_create(struct noise_handshake *handshake)
{
    struct noise_link *link = calloc(1, sizeof(*link));
    if (link == NULL) {
        noise_handshake_wipe(handshake);
        return NULL;
    }
    noise_handshake_split(handshake, &link->send, &link->receive, NULL);
    return link;
}

static void drop_early(struct noise_link *link)
{
    if (link->early == NULL)
        return;
    keys_wipe(link->early, link->early_end);
    free(link->early);
    link->early = NULL;
}

static void drop_partial(struct noise_link *link)
{
    free(link->partial);
    link->partial = NULL;
    link->partial_have = link->partial_size = 0;
}

void noise_link_free(struct noise_link *link)
{
    if (link == NULL)
        return;
    drop_early(link);
    drop_partial(link);
    keys_wipe(link, sizeof(*link));
    free(link);
}

bool noise_link_is_inside_frame(const struct noise_link *link)
{
    return link->partial_have > 0;
}

int noise_link_keep_early(struct noise_link *link, const void *plain, size_t size)
{
    assert(link->early == NULL);
    link->early = malloc(size);
    if (link->early == NULL)
        return -ENOMEM;
    memcpy(link->early, plain, size);
    link->early_begin = 0;
    link->early_end = (uint32_t)size;
    return 0;
}

size_t noise_link_take_early(struct noise_link *link, void *out, size_t size)
{
    if (link->early == NULL)
        return 0;
    size_t taken = MIN(size, (size_t)(link->early_end - link->early_begin));
    memcpy(out, link->early + link->early_begin, taken);
    link->early_begin += (uint32_t)taken;
    if (link->early_begin == link->early_end)
        drop_early(link);
    return taken;
}

/* ---- sealing ---- */

ssize_t noise_link_seal(struct noise_link *link, struct noise_engine *engine, const void *plain,
                        size_t size, void *out)
{
    /* Not an empty frame: a peer takes it for an end of stream. */
    assert(size > 0 && size <= NOISE_BATCH_PLAIN);
    const unsigned char *from = plain;
    unsigned char *to = out;
    while (size > 0) {
        size_t payload = MIN(size, (size_t)NOISE_FRAME_PAYLOAD);
        size_t length = payload + NOISE_TAG_SIZE;
        to[0] = (unsigned char)length;
        to[1] = (unsigned char)(length >> 8);
        int result =
            noise_encrypt(&link->send, engine->aead, from, payload, to + NOISE_FRAME_HEADER);
        if (result < 0)
            return result;
        to += NOISE_FRAME_HEADER + length;
        from += payload;
        size -= payload;
    }
    return to - (unsigned char *)out;
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

static ssize_t open_frame(struct noise_link *link, struct noise_engine *engine,
                          const unsigned char *frame, size_t size, unsigned char *out)
{
    size_t length = size - NOISE_FRAME_HEADER;
    int result =
        noise_decrypt(&link->receive, engine->aead, frame + NOISE_FRAME_HEADER, length, out);
    return result < 0 ? -EBADMSG : (ssize_t)(length - NOISE_TAG_SIZE);
}

/* Keeps the beginning of a frame: one byte in the link, or more in a buffer for the whole frame. */
static int keep_partial(struct noise_link *link, const unsigned char *bytes, size_t size)
{
    if (size == 1) {
        link->header = bytes[0];
        link->partial_have = 1;
        return 0;
    }
    ssize_t whole = frame_size(bytes[0], bytes[1]);
    if (whole < 0)
        return (int)whole;
    link->partial = malloc((size_t)whole);
    if (link->partial == NULL)
        return -ENOMEM;
    memcpy(link->partial, bytes, size);
    link->partial_size = (uint32_t)whole;
    link->partial_have = (uint32_t)size;
    return 0;
}

/* Adds bytes to the incomplete frame. Returns how many belong to it, or an error. */
static ssize_t complete_partial(struct noise_link *link, const unsigned char *bytes, size_t size)
{
    size_t used = 0;
    if (link->partial == NULL) { /* only the first header byte has come so far */
        unsigned char header[NOISE_FRAME_HEADER] = {link->header, bytes[0]};
        link->partial_have = 0;
        int result = keep_partial(link, header, sizeof(header));
        if (result < 0)
            return result;
        used = 1;
    }
    size_t more = MIN(size - used, (size_t)(link->partial_size - link->partial_have));
    memcpy(link->partial + link->partial_have, bytes + used, more);
    link->partial_have += (uint32_t)more;
    return (ssize_t)(used + more);
}

ssize_t noise_link_open(struct noise_link *link, struct noise_engine *engine,
                        const unsigned char *sealed, size_t size)
{
    assert(size > 0 && size <= NOISE_BATCH_SEALED);
    unsigned char *out = engine->plain;
    size_t at = 0;
    if (link->partial_have > 0) {
        ssize_t used = complete_partial(link, sealed, size);
        if (used < 0)
            return used;
        at = (size_t)used;
        if (link->partial_have < link->partial_size)
            return 0;
        ssize_t opened = open_frame(link, engine, link->partial, link->partial_size, out);
        drop_partial(link);
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
        ssize_t opened = open_frame(link, engine, sealed + at, (size_t)whole, out);
        if (opened < 0)
            return opened;
        out += opened;
        at += (size_t)whole;
    }
    if (at < size) {
        int result = keep_partial(link, sealed + at, size - at);
        if (result < 0)
            return result;
    }
    return out - engine->plain;
}
