/* Which of the services that share an address (config/routes.h) a visitor is for, by its first
 * bytes: the server name in a TLS ClientHello, or the host of an HTTP/1 request. What is neither,
 * or has no name, is for the default. Pure; the bytes stay in the socket, so that the service gets
 * all of them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/host_name.h"
#include "config/routes.h"

enum route_answer {
    ROUTE_MORE,  /* the name has not come yet: look again when there are `needed` bytes */
    ROUTE_FOUND, /* `digest` */
    ROUTE_NONE,  /* no service is for it: `why` */
};

struct route_look {
    uint32_t scanned; /* in: 0 at the first look, then what the last one has left */
    uint32_t needed;
    const uint8_t *digest; /* in the set */
    const char *why;
    char name[HOST_NAME_SIZE]; /* "": the visitor has none */
};

/* The same for one that sends no more: it has no name. ROUTE_MORE is no answer. */
enum route_answer route_of_rest(const struct route_set *set, struct route_look *look);
enum route_answer route_look(const struct route_set *set, const uint8_t *bytes, size_t size,
                             struct route_look *look);
