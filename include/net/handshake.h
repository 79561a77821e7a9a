/* A handshake prepares a connection for what it carries, and usually makes its link. It takes bytes
 * and gives bytes; the stream (net/stream.h) owns the socket. A connection may have several, one
 * after the other:
 *
 *     [proxy] --> [Noise | TLS] --> [WebSocket] --> link
 *
 * A handshake is a heap object, freed when its link is made or its stream ends. It belongs to one
 * worker, whose thread alone uses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/link.h"

struct handshake;

enum handshake_result { HANDSHAKE_MORE, HANDSHAKE_DONE };

enum { HANDSHAKE_OUT_MAX = LINK_BATCH_PLAIN };

/* Where a step puts the bytes that are to be sent. */
struct handshake_out {
    unsigned char *data;
    size_t room; /* HANDSHAKE_OUT_MAX, or LINK_REPLY_MAX on top of another link */
    size_t size;
};

struct handshake_ops {
    /* Takes received bytes; 0 bytes at first, for the side that speaks first. *used: how many it
     * has taken: all with HANDSHAKE_MORE. Those of the next handshake or of the link are left. An
     * incomplete message is kept, within bounds. Returns a handshake_result or an error, such as
     * -EPROTO, -EBADMSG or -ENOMEM; with an error there may be an alert in out. */
    int (*step)(struct handshake *handshake, struct link_engine *engine, const unsigned char *in,
                size_t size, size_t *used, struct handshake_out *out);
    /* After HANDSHAKE_DONE: makes the link. inner: the link of the handshakes before, NULL: none;
     * it is taken over, also on failure. *ret is inner if this handshake makes no link. A handshake
     * on top of another link takes all bytes in its steps; here it decodes those behind its
     * messages and keeps them with link_keep_early. -ENOMEM, -EBADMSG. */
    int (*finish)(struct handshake *handshake, struct link_engine *engine, struct link *inner,
                  struct link **ret);
    void (*free)(struct handshake *handshake); /* wipes */
};

/* The first member of each kind's struct. */
struct handshake {
    const struct handshake_ops *ops;
    struct handshake *next; /* owned */
    /* A step asks this once, when a message of the peer is complete and before the costly work for
     * it. False: the step returns ERR_LIMIT. NULL: there is no limit. */
    bool (*may_begin)(void *arg);
    void *may_begin_arg;
    bool has_proved; /* set by a step: only a client of this server could have sent the message */
    int error;       /* what a failure is called, if nothing else fits; 0: ERR_HANDSHAKE */
    const char *why; /* after an error, in words; NULL: none. Valid as long as the handshake. */
};

/* Calls the functions of handshake_ops. */
MUST_CHECK int handshake_step(struct handshake *handshake, struct link_engine *engine,
                              const unsigned char *in, size_t size, size_t *used,
                              struct handshake_out *out);
MUST_CHECK int handshake_finish(struct handshake *handshake, struct link_engine *engine,
                                struct link *inner, struct link **ret);
/* Whether the step may go on: the answer of may_begin. */
MUST_CHECK bool handshake_may_begin(const struct handshake *handshake);
/* Appends bytes to out. -ENOBUFS. */
MUST_CHECK int handshake_put(struct handshake_out *out, const void *bytes, size_t size);
/* Frees the handshake and those after it. Accepts NULL. */
void handshake_free(struct handshake *handshake);
