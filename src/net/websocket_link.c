#include "net/websocket_link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "crypto/tls.h"

enum {
    /* Over another link: one frame for each of its records, in a buffer on the stack. */
    INNER_FRAME = 16 << 10,
    /* A control frame, coded by the inner link. */
    CONTROL_CODED_MAX = LINK_END_MAX,
    /* Pongs take no more of the reply, so that what the inner link has to say finds room. */
    PONGS_MAX = LINK_REPLY_MAX / 2,
    /* docs/decisions.md, "One WebSocket frame for a batch". */
    SPLICED_FRAME = 512 << 10,
    SPLICED_FRAME_RATHOLE = LINK_BATCH_PLAIN,
};
static_assert(WEBSOCKET_FRAME_HEADER_MAX <= (int)LINK_OVERHEAD_MAX, "one frame for a batch");
static_assert(WEBSOCKET_FRAME_HEADER_MAX <= (int)LINK_HEAD_MAX, "a head is a header");
static_assert(TLS_SEALED_MAX(WEBSOCKET_CONTROL_FRAME_MAX) <= CONTROL_CODED_MAX, "a ping's answer");
/* The frames of a batch are sealed one by one; a key update is said once. */
enum {
    BATCH_FRAMES = LINK_BATCH_PLAIN / (INNER_FRAME - WEBSOCKET_FRAME_HEADER_MAX) + 1,
    BATCH_FRAMED = LINK_BATCH_PLAIN + BATCH_FRAMES * WEBSOCKET_FRAME_HEADER_MAX,
};
static_assert(TLS_SEALED_MAX((size_t)BATCH_FRAMED) + BATCH_FRAMES * (size_t)TLS_RECORD_OVERHEAD <=
                  LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX,
              "one batch, framed and sealed");

static struct websocket_link *websocket_of(struct link *link)
{
    return container_of(link, struct websocket_link, link);
}

/* ---- making and freeing ---- */

static const struct link_ops websocket_ops;

struct link *websocket_link_create(struct link *inner, bool as_client, bool holds_end)
{
    struct websocket_link *websocket = calloc(1, sizeof(*websocket));
    if (websocket == NULL) {
        link_free(inner);
        return NULL;
    }
    websocket->link = (struct link){.ops = &websocket_ops,
                                    .ends_in_band = true,
                                    .holds_end = holds_end,
                                    .is_in_place = inner == NULL};
    websocket->inner = inner;
    if (inner != NULL) {
        websocket->link.reply = take_ptr(inner->reply);
        websocket->link.reply_size = inner->reply_size;
        inner->reply_size = 0;
    }
    websocket_decoder_init(&websocket->decoder, !as_client);
    return &websocket->link;
}

/* A server's frames are masked by its peer, a client's by itself. */
static bool is_client(const struct websocket_link *websocket)
{
    return !websocket->decoder.is_masked;
}

static void drop_control(struct websocket_link *websocket)
{
    free(websocket->decoder.control);
    websocket->decoder.control = NULL;
}

static void websocket_link_free(struct link *link)
{
    struct websocket_link *websocket = websocket_of(link);
    link_free(websocket->inner);
    drop_control(websocket);
    keys_wipe(websocket, sizeof(*websocket));
    free(websocket);
}

static bool websocket_link_is_inside_frame(const struct link *link)
{
    const struct websocket_link *websocket = container_of(link, const struct websocket_link, link);
    return websocket_decoder_is_inside_frame(&websocket->decoder) ||
           (websocket->inner != NULL && websocket->inner->ops->is_inside_frame(websocket->inner));
}

/* ---- sealing ---- */

/* A client's mask keys must not be known before (RFC 6455 section 10.3). Each is used once. The
 * system is asked for 64 at a time: 1.4 us for one, 2.8 us for all. */
static const uint8_t *next_mask(const struct websocket_link *websocket)
{
    static _Thread_local uint8_t masks[64][WEBSOCKET_MASK_SIZE];
    static _Thread_local size_t used = ARRAY_SIZE(masks);
    if (!is_client(websocket))
        return NULL;
    if (used == ARRAY_SIZE(masks)) {
        keys_random(masks, sizeof(masks));
        used = 0;
    }
    return masks[used++];
}

/* Codes a frame, and codes it again if there is an inner link. out has LINK_BATCH_CODED bytes, or
 * CONTROL_CODED_MAX for a control frame. The inner link needs no engine to seal. */
static ssize_t seal_frame(struct websocket_link *websocket, enum websocket_opcode opcode,
                          const void *payload, size_t size, unsigned char *out)
{
    unsigned char frame[INNER_FRAME];
    const uint8_t *mask = next_mask(websocket);
    if (websocket->inner == NULL)
        return (ssize_t)websocket_encode(opcode, mask, payload, size, out);
    assert(size <= INNER_FRAME - WEBSOCKET_FRAME_HEADER_MAX);
    size_t frame_size = websocket_encode(opcode, mask, payload, size, frame);
    return websocket->inner->ops->seal(websocket->inner, NULL, frame, frame_size, out);
}

static ssize_t websocket_link_seal(struct link *link, struct link_engine *engine, const void *plain,
                                   size_t size, unsigned char *out)
{
    struct websocket_link *websocket = websocket_of(link);
    const unsigned char *from = plain;
    unsigned char *to = out;
    while (size > 0) {
        /* Without an inner link all of it is one frame, as rathole makes one of each write. */
        size_t payload = size;
        if (websocket->inner != NULL)
            payload = MIN(size, (size_t)(INNER_FRAME - WEBSOCKET_FRAME_HEADER_MAX));
        ssize_t sealed = seal_frame(websocket, WEBSOCKET_BINARY, from, payload, to);
        if (sealed < 0)
            return sealed;
        to += sealed;
        from += payload;
        size -= payload;
    }
    return to - out;
}

static ssize_t websocket_link_end(struct link *link, unsigned char *out)
{
    /* The inner link's own end is not said: the Close says it, and we go on receiving. */
    return seal_frame(websocket_of(link), WEBSOCKET_CLOSE, NULL, 0, out);
}

/* The payload of a server's frame is the plaintext, unless an inner link encrypts it. */
static size_t websocket_link_splice_max(const struct link *link)
{
    const struct websocket_link *websocket = container_of(link, const struct websocket_link, link);
    if (is_client(websocket) || websocket->inner != NULL)
        return 0;
    /* A peer for which our end is held back is rathole. */
    return link->holds_end ? SPLICED_FRAME_RATHOLE : SPLICED_FRAME;
}

static size_t websocket_link_head(const struct link *link, size_t size, unsigned char *out)
{
    return websocket_encode_header(WEBSOCKET_BINARY, NULL, size, out);
}

/* ---- opening ---- */

static struct link_next websocket_link_next(const struct link *link)
{
    const struct websocket_link *websocket = container_of(link, const struct websocket_link, link);
    const struct websocket_decoder *decoder = &websocket->decoder;
    if (!is_client(websocket) || websocket->inner != NULL)
        return (struct link_next){0, 0};
    return (struct link_next){websocket_decoder_header_left(decoder),
                              websocket_decoder_payload_left(decoder)};
}

static void websocket_link_skip(struct link *link, size_t size)
{
    websocket_decoder_skip(&websocket_of(link)->decoder, size);
}

/* What the inner link has to say goes in front of what we seal through it later. */
static int take_inner_reply(struct websocket_link *websocket)
{
    struct link *inner = websocket->inner;
    if (inner->reply_size == 0)
        return 0;
    int result = link_add_reply(&websocket->link, inner->reply, inner->reply_size);
    free(take_ptr(inner->reply));
    inner->reply_size = 0;
    return result;
}

static int answer_ping(struct websocket_link *websocket)
{
    unsigned char pong[CONTROL_CODED_MAX];
    const struct websocket_decoder *decoder = &websocket->decoder;
    /* Who sends pings and does not read the answers gets no more of them; nothing is sent behind a
     * Close. */
    if (websocket->link.reply_size > PONGS_MAX || websocket->link.end_is_said)
        return 0;
    ssize_t size =
        seal_frame(websocket, WEBSOCKET_PONG, decoder->control, decoder->control_size, pong);
    return size < 0 ? (int)size : link_add_reply(&websocket->link, pong, (size_t)size);
}

static int answer(struct websocket_link *websocket, int event)
{
    if (event == WEBSOCKET_PINGED)
        return answer_ping(websocket);
    if (event != WEBSOCKET_NEEDS_ROOM)
        return 0;
    websocket->decoder.control = malloc(WEBSOCKET_CONTROL_MAX);
    return websocket->decoder.control != NULL ? 0 : -ENOMEM;
}

/* frames may be engine->plain, or lie outside of it. */
ssize_t websocket_link_decode(struct link *link, struct link_engine *engine,
                              const unsigned char *frames, size_t size)
{
    struct websocket_link *websocket = websocket_of(link);
    size_t at = 0, have = 0;
    int result;
    do {
        size_t used, got;
        result = websocket_decode(&websocket->decoder, frames + at, size - at, &used,
                                  engine->plain + have, &got);
        if (result < 0)
            return -EBADMSG;
        at += used;
        have += got;
        int done = answer(websocket, result);
        if (done < 0)
            return done;
    } while (result == WEBSOCKET_PINGED || result == WEBSOCKET_NEEDS_ROOM);
    if (!websocket_decoder_needs_control(&websocket->decoder))
        drop_control(websocket);
    link->has_ended = result == WEBSOCKET_ENDED;
    return (ssize_t)have;
}

static ssize_t websocket_link_open(struct link *link, struct link_engine *engine,
                                   const unsigned char *coded, size_t size)
{
    struct websocket_link *websocket = websocket_of(link);
    struct link *inner = websocket->inner;
    const unsigned char *frames = coded;
    ssize_t frames_size = (ssize_t)size;
    if (inner != NULL) {
        frames_size = link_open(inner, engine, coded, size);
        frames = engine->plain;
        if (frames_size < 0)
            return frames_size;
        int result = take_inner_reply(websocket);
        if (result < 0)
            return result;
    }
    if (link->has_ended)
        return 0;
    ssize_t opened = websocket_link_decode(link, engine, frames, (size_t)frames_size);
    /* TLS has ended, and no Close has come. */
    if (opened >= 0 && inner != NULL && inner->has_ended && !link->has_ended)
        return ERR_TRUNCATED;
    return opened;
}

static const struct link_ops websocket_ops = {
    .seal = websocket_link_seal,
    .open = websocket_link_open,
    .end = websocket_link_end,
    .is_inside_frame = websocket_link_is_inside_frame,
    .free = websocket_link_free,
    .splice_max = websocket_link_splice_max,
    .head = websocket_link_head,
    .next = websocket_link_next,
    .skip = websocket_link_skip,
    .read_size = LINK_BATCH_PLAIN,
};
