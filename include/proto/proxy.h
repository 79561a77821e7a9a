/* What a client says to the proxy between it and its server, before the tunnel: SOCKS5 (RFC 1928,
 * with a user and a password by RFC 1929), or CONNECT of HTTP/1.1 (RFC 9110, section 9.3.6). A pure
 * state machine, as client_fsm is one: no descriptor, no clock, no allocation and no logging.
 *
 *     SOCKS5  BEGIN --> METHOD --> (AUTH) --> REPLY ----> DONE
 *     HTTP    BEGIN --> STATUS --> FIELDS --------------> DONE
 *                  each --anything else--> FAILED
 *
 * The proxy looks up the server's name. An address goes to it as text too, as rathole sends it.
 *
 * The input may come in any pieces: the machine takes it byte by byte, keeps none of it, and leaves
 * what lies behind the proxy's last byte. How a dialogue ends does not depend on the pieces. So
 * an answer that comes before its question is taken as well: it does no harm, because a proxy may
 * answer what it likes at any time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/macros.h"
#include "proto/wire.h"

enum proxy_type { PROXY_SOCKS5, PROXY_HTTP };

enum proxy_state {
    PROXY_BEGIN,
    PROXY_METHOD, /* our methods are sent; wants the one that the proxy has chosen */
    PROXY_AUTH,   /* user and password are sent */
    PROXY_REPLY,  /* the server's name is sent */
    PROXY_STATUS, /* the request is sent; wants the first line of the answer up to its status */
    PROXY_FIELDS, /* wants the rest of the header */
    PROXY_DONE,
    PROXY_FAILED,
    PROXY_STATE_COUNT,
};

enum proxy_sizes {
    PROXY_TEXT_MAX = 255, /* of a name, and with SOCKS5 of a user or password: one byte counts it */
    PROXY_WHY_SIZE = 96,
    /* Room for all that a step may add to its output. */
    PROXY_OUT_MAX = 4 * LIMIT_CONFIG_TEXT,
};

/* The texts are borrowed, and have to outlive the dialogue. */
struct proxy_request {
    enum proxy_type type;
    const char *host; /* the server; an IPv6 address without brackets */
    uint16_t port;
    const char *user, *password; /* NULL: none */
};

struct proxy {
    const struct proxy_request *request;
    enum proxy_state state;
    uint16_t at;          /* bytes of the current answer */
    uint16_t end;         /* of a SOCKS5 reply, or 0: not known yet */
    uint16_t status;      /* of HTTP */
    uint16_t header_size; /* of HTTP, all its answers together */
    bool line_is_new;     /* HTTP: no byte of this line yet */
    bool has_cr;          /* HTTP: the last byte was a CR */
    char why[PROXY_WHY_SIZE];
};

enum proxy_result { PROXY_MORE, PROXY_FINISHED };

void proxy_init(struct proxy *proxy, const struct proxy_request *request);
/* Takes `size` bytes of the proxy, at first none, and adds to `out` what has to be sent, which may
 * hold the password; it needs PROXY_OUT_MAX bytes of room. *ret_used: the bytes that were taken;
 * after PROXY_FINISHED the rest belongs to the tunnel.
 *
 * Returns a proxy_result, or ERR_PROXY: the dialogue has failed, and proxy->why says so in words
 * that hold neither a user, nor a password, nor bytes of the proxy. Not to be called again after
 * PROXY_FINISHED. */
MUST_CHECK int proxy_step(struct proxy *proxy, const uint8_t *in, size_t size, size_t *ret_used,
                          struct wire_writer *out);
const char *proxy_state_name(enum proxy_state state);
