/* The host that an HTTP/1 request is for (RFC 9112 section 3.2): the one in its target, if that is
 * a whole URL, else that of its Host field. Only the beginning of the request is read. Pure. */
#pragma once

#include <stddef.h>

#include "base/host_name.h"
#include "base/macros.h"

enum http_host {
    HTTP_HOST_MORE, /* so far it is a request, and its host has not come */
    HTTP_HOST_FOUND,
    HTTP_HOST_NAMELESS, /* a request without a host, or with an IP address in brackets */
    HTTP_HOST_NONE,     /* this is no request of HTTP/1 */
};

/* Looks at the beginning of a stream. HTTP_HOST_FOUND: writes the host in its one form, without a
 * port. *at: 0 at the first look; where the next one goes on after HTTP_HOST_MORE. */
enum http_host http_host_look(const char *bytes, size_t size, size_t *at,
                              char out[static HOST_NAME_SIZE]);
