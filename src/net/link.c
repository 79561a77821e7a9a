#include "net/link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "io/socket.h"

/* ---- engine ---- */

int link_engine_create(struct link_engine **ret)
{
    struct link_engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return -ENOMEM;
    engine->coded = malloc(LINK_BATCH_CODED);
    engine->plain = malloc(LINK_PLAIN_SIZE);
    if (engine->coded == NULL || engine->plain == NULL || aead_create(&engine->aead) < 0) {
        link_engine_destroy(engine);
        return -ENOMEM;
    }
    *ret = engine;
    return 0;
}

void link_engine_destroy(struct link_engine *engine)
{
    if (engine == NULL)
        return;
    if (engine->plain != NULL)
        keys_wipe(engine->plain, LINK_PLAIN_SIZE);
    aead_destroy(engine->aead);
    free(engine->coded);
    free(engine->plain);
    free(engine);
}

/* ---- early plaintext ---- */

static void drop_early(struct link *link)
{
    if (link->early == NULL)
        return;
    keys_wipe(link->early, link->early_end);
    free(link->early);
    link->early = NULL;
}

int link_keep_early(struct link *link, const void *plain, size_t size)
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

size_t link_take_early(struct link *link, void *out, size_t size)
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

/* ---- the reply ---- */

static void drop_reply(struct link *link)
{
    free(link->reply);
    link->reply = NULL;
    link->reply_size = 0;
}

int link_add_reply(struct link *link, const void *coded, size_t size)
{
    if (size > LINK_REPLY_MAX - (size_t)link->reply_size)
        return -ENOBUFS;
    unsigned char *reply = realloc(link->reply, link->reply_size + size);
    if (reply == NULL)
        return -ENOMEM;
    memcpy(reply + link->reply_size, coded, size);
    link->reply = reply;
    link->reply_size += (uint32_t)size;
    return 0;
}

static size_t take_reply(struct link *link, unsigned char *out)
{
    size_t size = link->reply_size;
    if (size == 0)
        return 0;
    memcpy(out, link->reply, size);
    drop_reply(link);
    return size;
}

void link_send_reply(struct link *link, int fd)
{
    if (link->reply == NULL)
        return;
    if (link->end_is_said) {
        drop_reply(link);
        return;
    }
    /* A socket that is broken or full says so to the next write too. */
    ssize_t sent = socket_send_now(fd, link->reply, link->reply_size);
    if (sent <= 0)
        return;
    link->reply_size -= (uint32_t)sent;
    if (link->reply_size == 0)
        drop_reply(link);
    else
        memmove(link->reply, link->reply + sent, link->reply_size);
}

/* ---- coding ---- */

void link_free(struct link *link)
{
    if (link == NULL)
        return;
    drop_early(link);
    drop_reply(link);
    link->ops->free(link);
}

ssize_t link_seal(struct link *link, struct link_engine *engine, const void *plain, size_t size,
                  unsigned char *out)
{
    assert(size > 0 && size <= LINK_BATCH_PLAIN);
    size_t before = take_reply(link, out);
    ssize_t sealed = link->ops->seal(link, engine, plain, size, out + before);
    return sealed < 0 ? sealed : (ssize_t)before + sealed;
}

ssize_t link_open(struct link *link, struct link_engine *engine, const unsigned char *coded,
                  size_t size)
{
    assert(size > 0 && size <= LINK_BATCH_CODED);
    ssize_t opened = link->ops->open(link, engine, coded, size);
    link->was_skipped = link->was_skipped && opened == 0;
    return opened;
}

ssize_t link_end(struct link *link, unsigned char *out)
{
    if (!link->ends_in_band || link->end_is_said)
        return 0;
    link->end_is_said = true;
    size_t before = take_reply(link, out);
    ssize_t size = link->ops->end(link, out + before);
    return size < 0 ? size : (ssize_t)before + size;
}

void link_send_end(struct link *link, int fd)
{
    unsigned char out[LINK_REPLY_MAX + LINK_END_MAX];
    ssize_t size = link != NULL ? link_end(link, out) : 0;
    if (size > 0)
        (void)socket_send_now(fd, out, (size_t)size);
}

int link_fin(const struct link *link)
{
    bool is_clean = link->ends_in_band ? link->has_ended : !link->ops->is_inside_frame(link);
    return is_clean ? ERR_EOF : ERR_TRUNCATED;
}

size_t link_splice_max(const struct link *link)
{
    bool may = link->ops->splice_max != NULL && link->reply == NULL;
    return may ? link->ops->splice_max(link) : 0;
}

size_t link_head(const struct link *link, size_t size, unsigned char *out)
{
    return link->ops->head(link, size, out);
}

struct link_next link_next(const struct link *link)
{
    return link->ops->next != NULL ? link->ops->next(link) : (struct link_next){0, 0};
}

void link_skip(struct link *link, size_t size)
{
    link->ops->skip(link, size);
    link->was_skipped = true;
}

size_t link_read_size(const struct link *link)
{
    return link->ops->read_size;
}
