/* The PROXY protocol, versions 1 and 2: a header in front of a connection's bytes, or of a
 * datagram's payload, that says where the visitor comes from and what address it has connected to
 * (https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt). net/proxy is something else: the
 * proxy between a client and its server.
 *
 *     v1   "PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n"; 107 bytes at most
 *     v2   12 bytes of signature | 0x21 | family, kind | u16 size | addresses | TLVs
 *
 * Pure functions on the caller's memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"

enum proxy_protocol_sizes {
    PROXY_PROTOCOL_MAX = 107,   /* of the headers that we write: the longest of v1 */
    PROXY_PROTOCOL_V2_MAX = 52, /* of those of v2 */
    /* Decoding never needs more than the first bytes of a header: a whole one of v1, or a v2
     * header's addresses. */
    PROXY_PROTOCOL_HEAD = 107,
};

struct proxy_header {
    size_t size;        /* of the whole header; v2: it may go on behind the bytes that were given */
    bool has_addresses; /* false: the connection's own addresses count (UNKNOWN, LOCAL, UNSPEC) */
    uint8_t version;
    struct addr from, to; /* with has_addresses: the visitor, and the address that it knows */
};

/* Writes a header of version 1 or 2 and returns its size. is_datagram: v2 alone knows. An IPv4
 * mapped address is written as IPv4 if both are. If one of them is neither IPv4 nor IPv6 (a unix
 * socket), the header says that they are not known: UNKNOWN, LOCAL. */
size_t proxy_protocol_encode(unsigned int version, bool is_datagram, const struct addr *from,
                             const struct addr *to, uint8_t out[static PROXY_PROTOCOL_MAX]);
/* Decodes the header, of either version, at the start of bytes: 1 with *ret, or 0 if it needs more
 * bytes, which it does not with PROXY_PROTOCOL_HEAD. ERR_PROTOCOL: no header begins like this, and
 * *ret_why says why; it is static and quotes nothing. */
MUST_CHECK int proxy_protocol_decode(const uint8_t *bytes, size_t size, struct proxy_header *ret,
                                     const char **ret_why);
