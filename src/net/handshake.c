#include "net/handshake.h"

#include <errno.h>
#include <string.h>

int handshake_step(struct handshake *handshake, struct link_engine *engine, const unsigned char *in,
                   size_t size, size_t *used, struct handshake_out *out)
{
    *used = 0;
    return handshake->ops->step(handshake, engine, in, size, used, out);
}

int handshake_finish(struct handshake *handshake, struct link_engine *engine, struct link *inner,
                     struct link **ret)
{
    return handshake->ops->finish(handshake, engine, inner, ret);
}

bool handshake_may_begin(const struct handshake *handshake)
{
    return handshake->may_begin == NULL || handshake->may_begin(handshake->may_begin_arg);
}

int handshake_put(struct handshake_out *out, const void *bytes, size_t size)
{
    if (size > out->room - out->size)
        return -ENOBUFS;
    memcpy(out->data + out->size, bytes, size);
    out->size += size;
    return 0;
}

void handshake_free(struct handshake *handshake)
{
    while (handshake != NULL) {
        struct handshake *next = handshake->next;
        handshake->ops->free(handshake);
        handshake = next;
    }
}
