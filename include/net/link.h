/* A link codes a connection whose bytes on the wire are not the bytes that it carries: plaintext
 * in, coded bytes out, and back, without the socket. Noise is one kind; TLS and WebSocket are
 * others.
 *
 *     handshake --handshake_finish--> link      lives as long as the connection and goes with it
 *                                               from worker to worker; idle it holds no buffer
 *
 * The coded connections of one worker share an engine: the AEAD's working state and hot buffers,
 * which are valid within one callback. So a connection needs a buffer of its own only for the
 * beginning of a frame whose end has not come yet; the link keeps that.
 *
 * Noise ends a stream as plain TCP does, with a FIN. Other kinds have a message for it
 * (`ends_in_band`). Then the other direction stays open, and a FIN without the message is a
 * truncation.
 *
 * What is received may ask for an answer (a pong, a key update). The link keeps the answer as
 * `reply`. The owner sends it with link_send_reply if no coded bytes wait for the socket; otherwise
 * the next link_seal puts it in front of its own bytes.
 *
 * A link belongs to the owner of its connection and is used by that worker's thread alone. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"
#include "crypto/aead.h"

struct link;

enum link_sizes {
    /* The plaintext bytes that are sealed at a time: docs/decisions.md, "Noise frames of 32 KiB,
     * four at a time". */
    LINK_BATCH_PLAIN = 128 << 10,
    LINK_REPLY_MAX = 4096,
    /* Of any kind, for one batch: TLS towards a peer that wants records of 512 bytes. */
    LINK_OVERHEAD_MAX = 8192,
    /* The room for a coded batch with a reply in front of it, and the most that is received at a
     * time. */
    LINK_BATCH_CODED = LINK_REPLY_MAX + LINK_BATCH_PLAIN + LINK_OVERHEAD_MAX,
    LINK_FRAME_MAX =
        64 << 10, /* the most plaintext that a link opens only when all of it is there */
    LINK_PLAIN_SIZE = LINK_FRAME_MAX + LINK_BATCH_CODED,
    LINK_END_MAX = 256, /* the room for an end of stream */
    LINK_HEAD_MAX = 16, /* in front of plaintext that is spliced */
    /* The largest incomplete frame that is kept for an unauthenticated peer. */
    LINK_DISTRUSTED_FRAME = 4096,
};

struct link_engine {
    struct aead *aead;
    unsigned char *coded; /* LINK_BATCH_CODED bytes */
    unsigned char *plain; /* LINK_PLAIN_SIZE bytes: a large frame and a batch behind it, opened */
};

/* What a link receives next, if it knows: bytes of a frame's head, or plaintext as it is. At most
 * one of them is not 0. */
struct link_next {
    size_t head, plain;
};

/* What a kind of link provides. The functions below describe the calls. */
struct link_ops {
    ssize_t (*seal)(struct link *link, struct link_engine *engine, const void *plain, size_t size,
                    unsigned char *out);
    ssize_t (*open)(struct link *link, struct link_engine *engine, const unsigned char *coded,
                    size_t size);
    ssize_t (*end)(struct link *link, unsigned char *out); /* NULL if the end is a FIN */
    bool (*is_inside_frame)(const struct link *link);
    void (*free)(struct link *link);
    /* NULL, all of them, if coded bytes never are the plaintext as it is. */
    size_t (*splice_max)(const struct link *link);
    size_t (*head)(const struct link *link, size_t size, unsigned char *out);
    struct link_next (*next)(const struct link *link);
    void (*skip)(struct link *link, size_t size);
    size_t read_size; /* bytes to receive at a time; at most LINK_BATCH_CODED */
};

/* The first member of each kind's struct. */
struct link {
    const struct link_ops *ops;
    /* Plaintext that was received before a reader asked for it; malloc'ed, NULL: none. */
    unsigned char *early;
    uint32_t early_begin, early_end;
    unsigned char *reply; /* malloc'ed, NULL: none */
    uint32_t reply_size;
    bool ends_in_band; /* the end of a stream is a message */
    bool holds_end;    /* the peer would drop both directions: say our end after the peer's */
    bool has_ended;    /* the peer's end of stream has come */
    bool end_is_said;  /* link_end was called */
    bool is_distrusted;
    bool is_in_place; /* see link_seal and link_open */
    bool was_skipped; /* link_skip had the last plaintext, not link_open */
    /* Set while a relay that holds our end back moves: what is left of half_close_timeout. */
    uint32_t hold_left_ms;
};

/* -ENOMEM. The buffers are resident only once they are used. */
MUST_CHECK int link_engine_create(struct link_engine **ret);
void link_engine_destroy(struct link_engine *engine); /* accepts NULL */

/* Wipes and frees; accepts NULL. */
void link_free(struct link *link);

/* Codes size bytes, 1 to LINK_BATCH_PLAIN, into out, which has LINK_BATCH_CODED bytes. If the link
 * is_in_place and has no reply, plain may be out + LINK_HEAD_MAX. Returns the number of bytes in
 * out. -EOVERFLOW: the keys are used up. -ENOMEM. */
MUST_CHECK ssize_t link_seal(struct link *link, struct link_engine *engine, const void *plain,
                             size_t size, unsigned char *out);
/* Decodes received bytes, 1 to LINK_BATCH_CODED, into engine->plain, and keeps an incomplete frame.
 * If the link is_in_place, they may be in engine->plain already. Returns the size of the plaintext,
 * which may be 0. -EBADMSG: a frame was forged, damaged or not allowed, so the connection must end.
 * -ENOMEM. */
MUST_CHECK ssize_t link_open(struct link *link, struct link_engine *engine,
                             const unsigned char *coded, size_t size);
/* Puts our end of stream into out, which has LINK_REPLY_MAX + LINK_END_MAX bytes, or nothing if the
 * end is a FIN or was said. Returns the number of bytes in out, or -errno. */
MUST_CHECK ssize_t link_end(struct link *link, unsigned char *out);
/* Says our end of stream, as far as the socket takes it at once. Accepts NULL. */
void link_send_end(struct link *link, int fd);
/* What a FIN of the peer is: ERR_EOF, or ERR_TRUNCATED if a frame is incomplete or if the end had
 * to be said with a message. */
int link_fin(const struct link *link);
/* How many bytes of plaintext may follow a head as they are. 0: plaintext has to be sealed, because
 * the link changes it or has a reply to send before. */
size_t link_splice_max(const struct link *link);
/* Writes the head of so many bytes; out has LINK_HEAD_MAX bytes. Returns the number of bytes in
 * out, which depend on nothing but size. */
size_t link_head(const struct link *link, size_t size, unsigned char *out);
/* What comes next. Both 0: only link_open can tell. */
struct link_next link_next(const struct link *link);
/* So many bytes of link_next(link).plain have gone past the link. */
void link_skip(struct link *link, size_t size);
/* Bytes to receive at a time. */
size_t link_read_size(const struct link *link);

/* Keeps a copy of plaintext for the next reader. There must be none kept already. -ENOMEM. */
MUST_CHECK int link_keep_early(struct link *link, const void *plain, size_t size);
/* Moves up to size bytes of that plaintext to out. Returns their number. */
size_t link_take_early(struct link *link, void *out, size_t size);

/* For link_ops: adds coded bytes to the reply. -ENOBUFS: more than LINK_REPLY_MAX. -ENOMEM. */
MUST_CHECK int link_add_reply(struct link *link, const void *coded, size_t size);
/* Sends as much of the reply as the socket takes at once, and keeps the rest; nothing after our end
 * of stream. To be called only if no coded bytes wait for the socket. */
void link_send_reply(struct link *link, int fd);
