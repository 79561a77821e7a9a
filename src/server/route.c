#include "server/route.h"

#include "crypto/client_hello.h"
#include "proto/http_host.h"

static const char no_name[] = "it has sent neither a server name (TLS) nor a host (HTTP/1)";

static enum route_answer route_by_name(const struct route_set *set, enum route_kind kind,
                                       struct route_look *look)
{
    look->digest = route_set_find(set, kind, look->name[0] != '\0' ? look->name : NULL);
    look->why = look->name[0] != '\0' ? "no service has this name" : no_name;
    return look->digest != NULL ? ROUTE_FOUND : ROUTE_NONE;
}

static enum route_answer route_by_hello(const struct route_set *set, const uint8_t *bytes,
                                        size_t size, struct route_look *look)
{
    if (client_hello_server_name(bytes, size, look->name) < 0)
        look->name[0] = '\0';
    return route_by_name(set, ROUTE_SNI, look);
}

static enum route_answer route_by_request(const struct route_set *set, const uint8_t *bytes,
                                          size_t size, struct route_look *look)
{
    size_t at = look->scanned;
    enum http_host found = http_host_look((const char *)bytes, size, &at, look->name);
    if (found == HTTP_HOST_MORE) {
        look->scanned = (uint32_t)at;
        look->needed = (uint32_t)size + 1;
        return ROUTE_MORE;
    }
    if (found != HTTP_HOST_FOUND)
        look->name[0] = '\0';
    return route_by_name(set, ROUTE_HOST, look);
}

enum route_answer route_of_rest(const struct route_set *set, struct route_look *look)
{
    look->name[0] = '\0';
    return route_by_name(set, ROUTE_HOST, look);
}

enum route_answer route_look(const struct route_set *set, const uint8_t *bytes, size_t size,
                             struct route_look *look)
{
    size_t needed = 0;
    look->name[0] = '\0';
    if (size == 0) {
        look->needed = 1;
        return ROUTE_MORE;
    }
    if (bytes[0] != CLIENT_HELLO_FIRST_BYTE)
        return route_by_request(set, bytes, size, look); /* which may be short */
    switch (client_hello_look(bytes, size, &needed)) {
    case CLIENT_HELLO_MORE:
        look->needed = (uint32_t)needed;
        return ROUTE_MORE;
    case CLIENT_HELLO_WHOLE:
        return route_by_hello(set, bytes, size, look);
    case CLIENT_HELLO_TOO_LARGE:
        look->why = "its ClientHello is too large";
        return ROUTE_NONE;
    case CLIENT_HELLO_NONE:
        break;
    }
    return route_by_request(set, bytes, size, look);
}
