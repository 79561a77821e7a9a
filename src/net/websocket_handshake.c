/* WebSocket's handshake: a request of the client, an answer of the server. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"
#include "net/websocket_link.h"
#include "proto/websocket_upgrade.h"

struct websocket_handshaking {
    struct handshake handshake;
    char *host; /* a copy: a reload frees the recipe's while handshakes run; NULL: a server */
    bool has_inner, has_begun;
    struct websocket_upgrade upgrade;
    /* Over an inner link: what has come behind the header. A stranger's read bounds it. */
    unsigned char *behind;
    size_t behind_size;
};

static struct websocket_handshaking *websocket_handshaking_of(struct handshake *handshake)
{
    return container_of(handshake, struct websocket_handshaking, handshake);
}

static int send_request(struct websocket_handshaking *websocket, struct handshake_out *out)
{
    uint8_t nonce[WEBSOCKET_NONCE_SIZE];
    char request[WEBSOCKET_REQUEST_MAX];
    keys_random(nonce, sizeof(nonce));
    ssize_t size = websocket_upgrade_request(&websocket->upgrade, websocket->host, nonce, request);
    return size < 0 ? (int)size : handshake_put(out, request, (size_t)size);
}

static int send_answer(struct websocket_handshaking *websocket, struct handshake_out *out)
{
    char answer[WEBSOCKET_ANSWER_MAX];
    return handshake_put(out, answer, websocket_upgrade_answer(&websocket->upgrade, answer));
}

static int keep_behind(struct websocket_handshaking *websocket, const unsigned char *bytes,
                       size_t size)
{
    if (size == 0)
        return 0;
    websocket->behind = malloc(size);
    if (websocket->behind == NULL)
        return -ENOMEM;
    memcpy(websocket->behind, bytes, size);
    websocket->behind_size = size;
    return 0;
}

static int websocket_step(struct handshake *handshake, struct link_engine *engine,
                          const unsigned char *in, size_t size, size_t *used,
                          struct handshake_out *out)
{
    struct websocket_handshaking *websocket = websocket_handshaking_of(handshake);
    int result = 0;
    if (!websocket->has_begun && websocket->host != NULL)
        result = send_request(websocket, out);
    websocket->has_begun = true;
    if (result < 0)
        return result;
    result = websocket_upgrade_parse(&websocket->upgrade, in, size, used);
    if (result < 0) {
        handshake->why = websocket->upgrade.why;
        return result;
    }
    if (result == 0)
        return HANDSHAKE_MORE;
    result = websocket->host == NULL ? send_answer(websocket, out) : 0;
    if (result == 0 && websocket->has_inner) {
        result = keep_behind(websocket, in + *used, size - *used);
        *used = size;
    }
    return result < 0 ? result : HANDSHAKE_DONE;
}

static int websocket_finish(struct handshake *handshake, struct link_engine *engine,
                            struct link *inner, struct link **ret)
{
    struct websocket_handshaking *websocket = websocket_handshaking_of(handshake);
    bool is_client = websocket->host != NULL;
    struct link *link =
        websocket_link_create(inner, is_client, !is_client && !websocket->upgrade.keeps_half);
    if (link == NULL)
        return -ENOMEM;
    ssize_t opened = 0;
    if (websocket->behind_size > 0)
        opened = websocket_link_decode(link, engine, websocket->behind, websocket->behind_size);
    if (opened > 0 && link_keep_early(link, engine->plain, (size_t)opened) < 0)
        opened = -ENOMEM;
    if (opened < 0) {
        link_free(link);
        return (int)opened;
    }
    *ret = link;
    return 0;
}

static void websocket_free(struct handshake *handshake)
{
    struct websocket_handshaking *websocket = websocket_handshaking_of(handshake);
    if (websocket->behind != NULL)
        keys_wipe(websocket->behind, websocket->behind_size);
    free(websocket->behind);
    free(websocket->host);
    free(websocket);
}

static const struct handshake_ops websocket_handshake_ops = {
    .step = websocket_step,
    .finish = websocket_finish,
    .free = websocket_free,
};

int websocket_handshake_create(const char *host, bool has_inner, struct handshake **ret)
{
    struct websocket_handshaking *websocket = calloc(1, sizeof(*websocket));
    if (websocket == NULL)
        return -ENOMEM;
    websocket->handshake.ops = &websocket_handshake_ops;
    websocket->host = host != NULL ? strdup(host) : NULL;
    if (host != NULL && websocket->host == NULL) {
        free(websocket);
        return -ENOMEM;
    }
    websocket->has_inner = has_inner;
    websocket_upgrade_init(&websocket->upgrade, host == NULL);
    *ret = &websocket->handshake;
    return 0;
}
