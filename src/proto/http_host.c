#include "proto/http_host.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum { METHOD_MAX = 32, VERSION_SIZE = 8 /* HTTP/1.1 */ };

/* A host without its port. An IPv6 address has brackets: it is no name. */
static enum http_host host_of(const char *text, size_t size, char out[static HOST_NAME_SIZE])
{
    const char *colon = memchr(text, ':', size);
    size_t length = colon != NULL ? (size_t)(colon - text) : size;
    if (memchr(text, '@', size) != NULL)
        return HTTP_HOST_NAMELESS; /* with a user's name: RFC 9110 section 4.2.4 */
    return host_name_canonical(text, length, out) == 0 ? HTTP_HOST_FOUND : HTTP_HOST_NAMELESS;
}

static bool is_method_byte(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_';
}

/* The size of the method; 0: there is none. *ret_is_cut: it may go on. */
static size_t method_of(const char *bytes, size_t size, bool *ret_is_cut)
{
    size_t length = 0;
    while (length < size && length < METHOD_MAX && is_method_byte(bytes[length]))
        length++;
    *ret_is_cut = length == size;
    return length < size && bytes[length] == ' ' ? length : 0;
}

/* METHOD TARGET HTTP/1.x. HTTP_HOST_MORE: the target has no host. */
static enum http_host request_line(const char *line, size_t size, char out[static HOST_NAME_SIZE])
{
    static const char scheme[] = "http://";
    bool is_cut;
    size_t method = method_of(line, size, &is_cut);
    if (method == 0 || size < method + VERSION_SIZE + 2 ||
        memcmp(line + size - VERSION_SIZE - 1, " HTTP/1.", VERSION_SIZE) != 0)
        return HTTP_HOST_NONE;
    const char *target = line + method + 1;
    size_t length = size - VERSION_SIZE - 1 - (method + 1);
    if (length < sizeof(scheme) || strncasecmp(target, scheme, sizeof(scheme) - 1) != 0)
        return HTTP_HOST_MORE;
    const char *host = target + sizeof(scheme) - 1;
    size_t room = length - (sizeof(scheme) - 1), host_size = 0;
    while (host_size < room && strchr("/?#", host[host_size]) == NULL)
        host_size++;
    return host_of(host, host_size, out);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static enum http_host field_line(const char *line, size_t size, char out[static HOST_NAME_SIZE])
{
    static const char name[] = "host:";
    if (size < sizeof(name) - 1 || strncasecmp(line, name, sizeof(name) - 1) != 0)
        return HTTP_HOST_MORE;
    const char *value = line + sizeof(name) - 1;
    size_t length = size - (sizeof(name) - 1);
    while (length > 0 && is_space(*value)) {
        value++;
        length--;
    }
    while (length > 0 && is_space(value[length - 1]))
        length--;
    return host_of(value, length, out);
}

enum http_host http_host_look(const char *bytes, size_t size, size_t *at,
                              char out[static HOST_NAME_SIZE])
{
    while (*at < size) {
        const char *line = bytes + *at;
        const char *newline = memchr(line, '\n', size - *at);
        bool is_cut;
        if (newline == NULL) {
            bool may_go_on = *at > 0 || method_of(line, size, &is_cut) > 0 || is_cut;
            return may_go_on ? HTTP_HOST_MORE : HTTP_HOST_NONE;
        }
        size_t length = (size_t)(newline - line);
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length == 0) /* the end; or an empty line in front of the request */
            return *at > 0 ? HTTP_HOST_NAMELESS : HTTP_HOST_NONE;
        enum http_host found =
            *at == 0 ? request_line(line, length, out) : field_line(line, length, out);
        if (found != HTTP_HOST_MORE)
            return found;
        *at = (size_t)(newline - bytes) + 1;
    }
    return HTTP_HOST_MORE;
}
