/* Addresses as text and as the kernel takes them. Names are not resolved here (io/resolver.h): a
 * host that is a name stays text. All of it is values without ownership, for any thread. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/macros.h"

enum {
    ADDR_HOST_SIZE = 254, /* a DNS name has at most 253 characters (RFC 1035) */
    ADDR_TEXT_SIZE = 72,  /* "[v6%scope]:port" with its NUL */
    ADDR_UNIX_MAX = 107,  /* bytes of a unix socket's path: sun_path without its NUL (unix(7)) */
};

/* "host:port" as configured. host is a name, an IPv4 address, or an IPv6 address without its
 * brackets. For a unix socket it is the path ("/run/web.sock"), or "@name" in the abstract
 * namespace, and the port is 0. */
struct host_port {
    char host[ADDR_HOST_SIZE];
    uint16_t port;
};

/* Stands for a unix socket in struct addr. A path would make every address four times as large, so
 * there is only its hash, and who binds or connects takes the path from the configuration
 * (io/unix_socket.h). Two paths with one hash of 64 bits would be taken for one address. */
struct addr_unix {
    sa_family_t family;
    uint32_t hash[2];
};

/* A socket address ready for the kernel, save that of a unix socket. len 0 = none. */
struct addr {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct addr_unix unix_id;
    };
    socklen_t len;
};

/* Parses "host:port" or "[v6]:port"; the port is 1 to 65535 in decimal digits. An IPv6 address may
 * lack its brackets, as in rathole: "::1:80" is [::1]:80, although the whole text is an address
 * too. 0 or -EINVAL, which leaves *ret untouched. */
MUST_CHECK int host_port_parse(const char *text, struct host_port *ret);
/* Parses "unix:/path", "unix:@name" (abstract) or "/path". 0; -EINVAL: no such form, or control
 * bytes; -ENAMETOOLONG: more than ADDR_UNIX_MAX bytes. */
MUST_CHECK int host_port_parse_unix(const char *text, struct host_port *ret);
bool host_port_is_unix(const struct host_port *host_port);
/* Writes "host:port" ("[v6]:port" for an IPv6 host, "unix:/path"), cut to fit and terminated.
 * Returns out. */
const char *host_port_format(const struct host_port *host_port, char *out, size_t out_size);

/* The address that stands for the unix socket with this path or "@name". */
struct addr addr_of_unix(const char *path);
static inline bool addr_is_unix(const struct addr *addr)
{
    return addr->len != 0 && addr->any.sa_family == AF_UNIX;
}
/* True, with *ret filled, if host is an address ("%scope" is understood) and needs no resolver.
 * Asks the kernel only for the index of a scope that is the name of an interface. */
bool addr_from_numeric(const struct host_port *host_port, struct addr *ret);
/* Writes "1.2.3.4:80" (v4-mapped addresses too), "[::1]:80", "unix" or "(none)", cut to fit and
 * terminated; ADDR_TEXT_SIZE holds any. Returns out. */
const char *addr_format(const struct addr *addr, char *out, size_t out_size);
/* A v4-mapped address and its IPv4 address are not equal: their sockets differ. */
bool addr_equal(const struct addr *a, const struct addr *b);
/* Whether a listener on `a` serves all that one on `b` would: same port, and the same address or a
 * wildcard. [::] is dual-stack here, so it covers IPv4 as well. */
bool addr_covers(const struct addr *a, const struct addr *b);
/* Whether two listeners would conflict: one covers the other. */
bool addr_overlaps(const struct addr *a, const struct addr *b);
/* In host order; 0 of none. */
uint16_t addr_port(const struct addr *addr);
/* 127.0.0.0/8, ::1 and their mapped forms. */
bool addr_is_loopback(const struct addr *addr);

/* The bits of an address that identify a peer for the limits per address: one customer holds one
 * IPv4 address, but at least a /64 of IPv6. */
struct addr_prefixes {
    uint8_t v4, v6; /* 1 to 32, 1 to 128 */
};

/* The identity of a peer for the limits per address: the first bits of its address, the others
 * zero. A v4-mapped address counts as IPv4. The key of zeros means no address; an address that
 * would become it ("::1" at /64) gets a 1 as its last bit. Keep a key that was counted: a reload
 * may change the prefixes, and then the same address has another key. */
struct addr_key {
    uint8_t bytes[16];
};
struct addr_key addr_key(const struct addr *addr, struct addr_prefixes prefixes);
bool addr_key_equal(const struct addr_key *a, const struct addr_key *b);
