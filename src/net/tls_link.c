#include "net/tls_link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum {
    BATCH_RECORDS = LINK_BATCH_PLAIN / TLS_RECORD_PLAIN,
    BATCH_CODED = BATCH_RECORDS * (TLS_RECORD_PLAIN + TLS_RECORD_OVERHEAD),
};

static_assert((int)BATCH_CODED <= (int)LINK_BATCH_CODED, "what is received at a time");
static_assert(TLS_SEALED_MAX((size_t)LINK_BATCH_PLAIN) <= LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX,
              "one batch, sealed");
static_assert(TLS_SEALED_MAX((size_t)0) <= LINK_END_MAX, "a close_notify");
static_assert((int)TLS_RECORD_PLAIN <= (int)LINK_FRAME_MAX, "the rest of the largest record");

struct tls_link {
    struct link link;
    struct tls_session *session;
};

struct tls_handshake {
    struct handshake handshake;
    struct tls_session *session; /* NULL: it is the link's */
};

/* ---- the link ---- */

static struct tls_link *tls_of(struct link *link)
{
    return container_of(link, struct tls_link, link);
}

static ssize_t tls_link_seal(struct link *link, struct link_engine *engine, const void *plain,
                             size_t size, unsigned char *out)
{
    struct tls_out sealed = {.data = out, .room = LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX};
    int result = tls_session_seal(tls_of(link)->session, plain, size, &sealed);
    return result < 0 ? result : (ssize_t)sealed.size;
}

static ssize_t tls_link_open(struct link *link, struct link_engine *engine,
                             const unsigned char *coded, size_t size)
{
    unsigned char bytes[LINK_REPLY_MAX];
    struct tls_session *session = tls_of(link)->session;
    struct tls_out reply = {.data = bytes, .room = sizeof(bytes) - link->reply_size};
    ssize_t opened = tls_session_open(session, coded, size, engine->plain, LINK_PLAIN_SIZE, &reply);
    link->has_ended = tls_session_has_ended(session);
    int kept = reply.size > 0 ? link_add_reply(link, bytes, reply.size) : 0;
    return opened >= 0 && kept < 0 ? kept : opened;
}

static ssize_t tls_link_end(struct link *link, unsigned char *out)
{
    struct tls_out said = {.data = out, .room = LINK_END_MAX};
    int result = tls_session_end(tls_of(link)->session, &said);
    return result < 0 ? result : (ssize_t)said.size;
}

static bool tls_link_is_inside_frame(const struct link *link)
{
    const struct tls_link *tls = container_of(link, const struct tls_link, link);
    return tls_session_is_inside_record(tls->session);
}

static void tls_link_free(struct link *link)
{
    struct tls_link *tls = tls_of(link);
    tls_session_destroy(tls->session);
    free(tls);
}

static const struct link_ops tls_ops = {
    .seal = tls_link_seal,
    .open = tls_link_open,
    .end = tls_link_end,
    .is_inside_frame = tls_link_is_inside_frame,
    .free = tls_link_free,
    .read_size = BATCH_CODED,
};

/* ---- the handshake ---- */

static struct tls_handshake *tls_handshake_of(struct handshake *handshake)
{
    return container_of(handshake, struct tls_handshake, handshake);
}

static bool tls_handshake_may_begin(void *arg)
{
    return handshake_may_begin(arg);
}

static int tls_handshake_step(struct handshake *handshake, struct link_engine *engine,
                              const unsigned char *in, size_t size, size_t *used,
                              struct handshake_out *out)
{
    struct tls_session *session = tls_handshake_of(handshake)->session;
    struct tls_out sent = {.data = out->data, .room = out->room, .size = out->size};
    int result = tls_session_handshake(session, in, size, used, &sent);
    out->size = sent.size;
    if (result < 0) {
        const char *why = tls_session_why(session);
        handshake->why = why[0] != '\0' ? why : NULL;
        return result;
    }
    /* A stranger can do it, too, as it can send a Hello without TLS. */
    handshake->has_proved = result == 1;
    return result == 1 ? HANDSHAKE_DONE : HANDSHAKE_MORE;
}

static int tls_handshake_finish(struct handshake *handshake, struct link_engine *engine,
                                struct link *inner, struct link **ret)
{
    struct tls_handshake *own = tls_handshake_of(handshake);
    link_free(inner); /* there is none: TLS is always the lowest */
    struct tls_link *tls = calloc(1, sizeof(*tls));
    if (tls == NULL)
        return -ENOMEM;
    tls->link.ops = &tls_ops;
    tls->link.ends_in_band = true;
    tls->session = take_ptr(own->session);
    *ret = &tls->link;
    return 0;
}

static void tls_handshake_free(struct handshake *handshake)
{
    struct tls_handshake *own = tls_handshake_of(handshake);
    tls_session_destroy(own->session);
    free(own);
}

static const struct handshake_ops tls_handshake_ops = {
    .step = tls_handshake_step,
    .finish = tls_handshake_finish,
    .free = tls_handshake_free,
};

int tls_handshake_create(struct tls_context *context, uint64_t peer, struct handshake **ret)
{
    struct tls_handshake *own = calloc(1, sizeof(*own));
    if (own == NULL)
        return -ENOMEM;
    own->handshake.ops = &tls_handshake_ops;
    int result = tls_session_create(context, peer, &own->session);
    if (result < 0) {
        free(own);
        return result;
    }
    tls_session_set_gate(own->session, tls_handshake_may_begin, &own->handshake);
    *ret = &own->handshake;
    return 0;
}
