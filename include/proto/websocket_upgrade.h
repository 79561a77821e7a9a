/* The upgrade from HTTP/1.1 to WebSocket (RFC 6455 section 4), as rathole does it: a request
 * without subprotocol and extensions, and its answer.
 *
 *     client: websocket_upgrade_request --> server: websocket_upgrade_parse
 *     client: websocket_upgrade_parse   <-- server: websocket_upgrade_answer
 *
 * Between the two may be proxies, which add fields: unknown ones are ignored. A field of our own
 * tells our server that this client goes on receiving after its Close and after the server's, which
 * rathole's client does not (proto/websocket.h).
 *
 * Pure: no I/O, and no memory besides the struct. A header has at most WEBSOCKET_HEADER_MAX
 * bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

enum websocket_upgrade_sizes {
    WEBSOCKET_NONCE_SIZE = 16,
    WEBSOCKET_KEY_SIZE = 25,     /* a nonce in base64, with its NUL */
    WEBSOCKET_ACCEPT_SIZE = 29,  /* a SHA-1 in base64, with its NUL */
    WEBSOCKET_HEADER_MAX = 4096, /* of a peer: its request or answer, with the blank line */
    WEBSOCKET_HOST_MAX = 512,
    WEBSOCKET_REQUEST_MAX = WEBSOCKET_HOST_MAX + 256, /* ours */
    WEBSOCKET_ANSWER_MAX = 192,
};

struct websocket_upgrade {
    const char *why; /* after an error, in words; may lie in `line` */
    bool is_server;
    bool keeps_half;    /* server: the client goes on after a Close, it is one of ours */
    uint8_t found;      /* set of fields */
    uint16_t seen;      /* bytes of the header */
    uint16_t line_size; /* bytes of the current line */
    bool has_first_line;
    char key[WEBSOCKET_KEY_SIZE];
    char line[WEBSOCKET_HEADER_MAX];
};

void websocket_upgrade_init(struct websocket_upgrade *upgrade, bool is_server);
/* Makes a client's request. host is the server as the user wrote it, with its port. nonce: random.
 * Returns the request's size. -EINVAL: host is empty, too long, or no host. */
MUST_CHECK ssize_t websocket_upgrade_request(struct websocket_upgrade *upgrade, const char *host,
                                             const uint8_t nonce[static WEBSOCKET_NONCE_SIZE],
                                             char out[static WEBSOCKET_REQUEST_MAX]);
/* Takes bytes of the peer's header; *used: how many, none behind its end. Returns 1: it is whole
 * and right; 0: it is incomplete; ERR_PROTOCOL: see `why`. Not to be called after 1 or an error. */
MUST_CHECK int websocket_upgrade_parse(struct websocket_upgrade *upgrade, const void *bytes,
                                       size_t size, size_t *used);
/* Makes the server's answer to the request that was parsed. Returns its size. */
size_t websocket_upgrade_answer(const struct websocket_upgrade *upgrade,
                                char out[static WEBSOCKET_ANSWER_MAX]);
