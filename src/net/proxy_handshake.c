#include "net/proxy_handshake.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"

struct proxy_handshake {
    struct handshake handshake;
    struct proxy_request request; /* owned */
    struct proxy proxy;
};

static_assert((int)PROXY_OUT_MAX <= (int)HANDSHAKE_OUT_MAX, "a request has room");

static char *proxy_copy_text(const char *text, bool *is_out_of_memory)
{
    char *copy = text != NULL ? strdup(text) : NULL;
    *is_out_of_memory |= text != NULL && copy == NULL;
    return copy;
}

static void proxy_wipe_text(const char *text)
{
    if (text != NULL)
        keys_wipe((char *)text, strlen(text));
    free((char *)text);
}

int proxy_request_copy(const struct proxy_request *request, struct proxy_request *ret)
{
    bool is_out_of_memory = false;
    struct proxy_request copy = *request;
    copy.host = proxy_copy_text(request->host, &is_out_of_memory);
    copy.user = proxy_copy_text(request->user, &is_out_of_memory);
    copy.password = proxy_copy_text(request->password, &is_out_of_memory);
    if (is_out_of_memory) {
        proxy_request_finish(&copy);
        return -ENOMEM;
    }
    *ret = copy;
    return 0;
}

void proxy_request_finish(struct proxy_request *request)
{
    proxy_wipe_text(request->host);
    proxy_wipe_text(request->user);
    proxy_wipe_text(request->password);
    *request = (struct proxy_request){.host = NULL};
}

static struct proxy_handshake *proxy_of(struct handshake *handshake)
{
    return container_of(handshake, struct proxy_handshake, handshake);
}

static int proxy_handshake_step(struct handshake *handshake, struct link_engine *engine,
                                const unsigned char *in, size_t size, size_t *used,
                                struct handshake_out *out)
{
    struct proxy_handshake *proxy = proxy_of(handshake);
    struct wire_writer writer;
    size_t added = 0;
    wire_writer_init(&writer, out->data + out->size, out->room - out->size);
    int result = proxy_step(&proxy->proxy, in, size, used, &writer);
    if (result < 0)
        handshake->why = proxy->proxy.why;
    int written = wire_writer_done(&writer, &added);
    if (written < 0)
        return written;
    out->size += added;
    return result == PROXY_FINISHED ? HANDSHAKE_DONE : MIN(result, (int)HANDSHAKE_MORE);
}

static int proxy_handshake_finish(struct handshake *handshake, struct link_engine *engine,
                                  struct link *inner, struct link **ret)
{
    *ret = inner;
    return 0;
}

static void proxy_handshake_free(struct handshake *handshake)
{
    struct proxy_handshake *proxy = proxy_of(handshake);
    proxy_request_finish(&proxy->request);
    free(proxy);
}

static const struct handshake_ops proxy_handshake_ops = {
    .step = proxy_handshake_step,
    .finish = proxy_handshake_finish,
    .free = proxy_handshake_free,
};

int proxy_handshake_create(const struct proxy_request *request, struct handshake **ret)
{
    struct proxy_handshake *proxy = calloc(1, sizeof(*proxy));
    if (proxy == NULL)
        return -ENOMEM;
    if (proxy_request_copy(request, &proxy->request) < 0) {
        free(proxy);
        return -ENOMEM;
    }
    proxy->handshake.ops = &proxy_handshake_ops;
    proxy->handshake.error = ERR_PROXY;
    proxy_init(&proxy->proxy, &proxy->request);
    *ret = &proxy->handshake;
    return 0;
}
