/* WebSocket frames (RFC 6455 section 5) as a byte stream: what is in binary messages counts, and
 * where messages and frames begin does not.
 *
 *     FIN, reserved bits, opcode | mask bit, size: 7, 16 or 64 bits | 4 bytes of key | payload
 *
 * A client's frames are masked and a server's are not. rathole sends a binary message of one frame
 * for each write, and an empty Close at its end of stream. It drops both directions when a Ping, a
 * Pong or a text comes, so send none of them without being asked. On a Close its server goes on
 * reading, and its client drops both directions.
 *
 * The end of the stream is a Close without a status or with 1000. With another status a proxy or a
 * peer gives up, so that the stream is not whole; the same is true in the middle of a message.
 *
 * Pure: no I/O, and no memory besides the struct and what the owner gives for a control frame.
 * Nothing else is kept of a frame but its header, so a peer can't make us hold its payload. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

enum websocket_sizes {
    WEBSOCKET_MASK_SIZE = 4,
    WEBSOCKET_FRAME_HEADER_MAX = 14,
    WEBSOCKET_CONTROL_MAX = 125, /* payload of a Ping, Pong or Close */
    WEBSOCKET_CONTROL_FRAME_MAX = 2 + WEBSOCKET_MASK_SIZE + WEBSOCKET_CONTROL_MAX,
    /* Of a peer; rathole's limits. */
    WEBSOCKET_FRAME_PAYLOAD_MAX = 16 << 20,
    WEBSOCKET_MESSAGE_MAX = 64 << 20,
};

enum websocket_opcode {
    WEBSOCKET_CONTINUATION = 0,
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_CLOSE = 8,
    WEBSOCKET_PING = 9,
    WEBSOCKET_PONG = 10,
};

/* Writes the header of a whole message's frame, with a mask key if there is one (of
 * WEBSOCKET_MASK_SIZE unpredictable bytes). Returns its size. */
size_t websocket_encode_header(enum websocket_opcode opcode, const uint8_t *mask, size_t size,
                               uint8_t out[static WEBSOCKET_FRAME_HEADER_MAX]);
/* Writes a whole message's frame: its header and the payload, masked if there is a key. out has
 * WEBSOCKET_FRAME_HEADER_MAX + size bytes. The payload may lie in it, at
 * out + WEBSOCKET_FRAME_HEADER_MAX or later. Returns the frame's size. */
size_t websocket_encode(enum websocket_opcode opcode, const uint8_t *mask, const void *payload,
                        size_t size, uint8_t *out);

struct websocket_decoder {
    uint32_t payload_left; /* of the current frame */
    uint32_t message_size; /* of the current message's frames */
    bool is_masked;        /* the peer is a client */
    bool in_message;       /* the message goes on in the next frame */
    uint8_t opcode;        /* of the current frame; only valid with payload_left */
    uint8_t header_have;   /* bytes of an incomplete header */
    uint8_t control_size;
    uint8_t mask[WEBSOCKET_MASK_SIZE]; /* turned, so that it begins with the next byte's part */
    uint8_t header[WEBSOCKET_FRAME_HEADER_MAX];
    uint8_t *control; /* the owner's, WEBSOCKET_CONTROL_MAX bytes; NULL: not given yet */
};

enum websocket_event {
    WEBSOCKET_NOTHING,    /* all bytes are taken */
    WEBSOCKET_NEEDS_ROOM, /* give `control`, and decode the rest */
    WEBSOCKET_PINGED,     /* send a Pong with control_size bytes of it, and decode the rest */
    WEBSOCKET_ENDED,      /* a Close has come; do not decode what follows */
};

void websocket_decoder_init(struct websocket_decoder *decoder, bool peer_is_client);
/* Takes received bytes and adds the payload in them to out, which has room for size bytes and may
 * be the same memory or begin before it. *used: bytes taken, *ret_size: bytes in out. Returns an
 * event, or ERR_PROTOCOL: the connection must end. */
MUST_CHECK int websocket_decode(struct websocket_decoder *decoder, const uint8_t *bytes,
                                size_t size, size_t *used, uint8_t *out, size_t *ret_size);
/* Whether what is in `control` is still needed: its frame is incomplete. */
bool websocket_decoder_needs_control(const struct websocket_decoder *decoder);
/* Whether a frame is incomplete. */
bool websocket_decoder_is_inside_frame(const struct websocket_decoder *decoder);
/* The next bytes that belong to a header, as far as it is known. 0: a payload comes next. */
size_t websocket_decoder_header_left(const struct websocket_decoder *decoder);
/* The next bytes that are payload of the stream as they are. 0: they are something else. */
size_t websocket_decoder_payload_left(const struct websocket_decoder *decoder);
/* Takes so many of these without seeing them. */
void websocket_decoder_skip(struct websocket_decoder *decoder, size_t size);
