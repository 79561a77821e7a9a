/* Addresses as text and as the kernel takes them. No name resolution here (io/resolver.h): a host
 * that is a name stays text. Values without ownership, safe on any thread. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/macros.h"

enum {
    ADDR_HOST_SIZE = 254, /* a DNS name has at most 253 characters (RFC 1035) */
    ADDR_TEXT_SIZE = 72,  /* "[v6%scope]:port" with its NUL */
};

/* "host:port" as configured. host is a name, an IPv4 or an IPv6 address without brackets. */
struct host_port {
    char host[ADDR_HOST_SIZE];
    uint16_t port;
};

/* A socket address ready for the kernel. len 0 = none. */
struct addr {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t len;
};

/* Parses "host:port" or "[v6]:port"; port 1 to 65535, all digits. What stands before the last colon
 * may be an IPv6 address without brackets: "::1:80" is [::1]:80, though it might be an address as a
 * whole. -EINVAL leaves *ret untouched. */
MUST_CHECK int host_port_parse(const char *text, struct host_port *ret);
/* Writes "host:port" ("[v6]:port" for an IPv6 host); always terminated. Returns out. */
const char *host_port_format(const struct host_port *host_port, char *out, size_t out_size);

/* True when host is an address and needs no resolver; fills *ret then ("%scope" is understood). */
bool addr_from_numeric(const struct host_port *host_port, struct addr *ret);
/* "1.2.3.4:80" or "[::1]:80" (v4-mapped shown as IPv4); always terminated. Returns out. */
const char *addr_format(const struct addr *addr, char *out, size_t out_size);
bool addr_equal(const struct addr *a, const struct addr *b);
/* Whether two listeners would be in each other's way: the same address and port, or any address
 * that stands for the other's. [::] is dual-stack here, so it stands for all of IPv4 too. */
bool addr_overlaps(const struct addr *a, const struct addr *b);
uint16_t addr_port(const struct addr *addr);
/* 127.0.0.0/8, ::1 and their mapped forms. */
bool addr_is_loopback(const struct addr *addr);

/* How much of an address says who somebody is. One customer holds an IPv4 address, but at least a
 * /64 of IPv6. Each at least 1. */
struct addr_prefixes {
    uint8_t v4, v6; /* up to 32, up to 128 */
};

/* Who a stranger is for the limits: the first bits of the address, the others zero. A v4-mapped
 * address counts as IPv4. Not all zero, which is nobody: what would be, as "::1" without its last
 * bit, ends with a one. Whoever counts by a key keeps it, for a reload may change the prefixes. */
struct addr_key {
    uint8_t bytes[16];
};
struct addr_key addr_key(const struct addr *addr, struct addr_prefixes prefixes);
bool addr_key_equal(const struct addr_key *a, const struct addr_key *b);
