#include "base/addr.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

static_assert(ADDR_TEXT_SIZE > 1 + INET6_ADDRSTRLEN + 1 + IF_NAMESIZE + 2 + 5, "any address fits");

/* Decimal digits alone; strtoul(3) would allow a sign and white space. */
static bool addr_parse_number(const char *text, uint32_t max, uint32_t *ret)
{
    uint64_t value = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > max)
            return false;
    }
    *ret = (uint32_t)value;
    return true;
}

static bool is_host_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
}

static bool is_name(const char *text)
{
    const char *c = text;
    while (is_host_char(*c))
        c++;
    return c != text && *c == '\0';
}

/* An IPv6 address with or without "%scope". The scope need not exist on this machine. */
static bool split_v6(const char *text, struct in6_addr *ret, char scope[static IF_NAMESIZE])
{
    char digits[INET6_ADDRSTRLEN];
    size_t len = strcspn(text, "%");
    if (len >= sizeof(digits))
        return false;
    memcpy(digits, text, len);
    digits[len] = '\0';
    scope[0] = '\0';
    if (text[len] == '%') {
        const char *name = text + len + 1;
        size_t name_len = strlen(name);
        if (name_len >= IF_NAMESIZE || !is_name(name))
            return false;
        memcpy(scope, name, name_len + 1);
    }
    return inet_pton(AF_INET6, digits, ret) == 1;
}

static int unbracket(char *host)
{
    size_t len = strlen(host);
    if (len < 2 || host[0] != '[' || host[len - 1] != ']')
        return -EINVAL;
    memmove(host, host + 1, len - 2);
    host[len - 2] = '\0';
    return 0;
}

int host_port_parse(const char *text, struct host_port *ret)
{
    struct host_port parsed;
    struct in6_addr address;
    char scope[IF_NAMESIZE];
    const char *colon = strrchr(text, ':');
    uint32_t port;
    if (colon == NULL || !addr_parse_number(colon + 1, UINT16_MAX, &port) || port == 0)
        return -EINVAL;
    size_t len = (size_t)(colon - text);
    if (len == 0 || len >= sizeof(parsed.host))
        return -EINVAL;
    memcpy(parsed.host, text, len);
    parsed.host[len] = '\0';
    parsed.port = (uint16_t)port;

    bool is_bracketed = parsed.host[0] == '[';
    if (is_bracketed && unbracket(parsed.host) < 0)
        return -EINVAL;
    /* An IPv6 address may lack its brackets: rathole splits at the last colon, and installers rely
     * on that. */
    bool is_v6 = split_v6(parsed.host, &address, scope);
    if (!is_v6 && (is_bracketed || !is_name(parsed.host)))
        return -EINVAL;
    *ret = parsed;
    return 0;
}

int host_port_parse_unix(const char *text, struct host_port *ret)
{
    static const char prefix[] = "unix:";
    bool has_prefix = strncmp(text, prefix, sizeof(prefix) - 1) == 0;
    const char *path = has_prefix ? text + sizeof(prefix) - 1 : text;
    if (path[0] != '/' && !(has_prefix && path[0] == '@'))
        return -EINVAL;
    size_t len = strlen(path);
    if (len < 2)
        return -EINVAL;
    for (const char *c = path; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) /* they would end up in the log */
            return -EINVAL;
    if (len > ADDR_UNIX_MAX)
        return -ENAMETOOLONG;
    *ret = (struct host_port){.port = 0};
    memcpy(ret->host, path, len + 1);
    return 0;
}

bool host_port_is_unix(const struct host_port *host_port)
{
    return host_port->host[0] == '/' || host_port->host[0] == '@';
}

const char *host_port_format(const struct host_port *host_port, char *out, size_t out_size)
{
    if (host_port_is_unix(host_port)) {
        (void)snprintf(out, out_size, "unix:%s", host_port->host);
        return out;
    }
    bool is_v6 = strchr(host_port->host, ':') != NULL;
    (void)snprintf(out, out_size, is_v6 ? "[%s]:%u" : "%s:%u", host_port->host,
                   (unsigned int)host_port->port);
    return out;
}

struct addr addr_of_unix(const char *path)
{
    struct addr addr = {.unix_id = {.family = AF_UNIX}, .len = sizeof(addr.unix_id)};
    /* FNV-1a; it has no key, because paths come from the configuration and never from a peer. */
    uint64_t hash = 14695981039346656037u;
    for (; *path != '\0'; path++)
        hash = (hash ^ (unsigned char)*path) * 1099511628211u;
    addr.unix_id.hash[0] = (uint32_t)hash;
    addr.unix_id.hash[1] = (uint32_t)(hash >> 32);
    return addr;
}

bool addr_from_numeric(const struct host_port *host_port, struct addr *ret)
{
    struct addr addr = {0};
    char scope[IF_NAMESIZE];
    if (host_port_is_unix(host_port)) {
        *ret = addr_of_unix(host_port->host);
        return true;
    }
    if (inet_pton(AF_INET, host_port->host, &addr.v4.sin_addr) == 1) {
        addr.v4.sin_family = AF_INET;
        addr.v4.sin_port = htons(host_port->port);
        addr.len = sizeof(addr.v4);
        *ret = addr;
        return true;
    }
    if (!split_v6(host_port->host, &addr.v6.sin6_addr, scope))
        return false;
    if (scope[0] != '\0' && !addr_parse_number(scope, UINT32_MAX, &addr.v6.sin6_scope_id)) {
        addr.v6.sin6_scope_id = if_nametoindex(scope);
        if (addr.v6.sin6_scope_id == 0)
            return false;
    }
    addr.v6.sin6_family = AF_INET6;
    addr.v6.sin6_port = htons(host_port->port);
    addr.len = sizeof(addr.v6);
    *ret = addr;
    return true;
}

/* The address of an IPv4 or v4-mapped address. */
static bool get_v4(const struct addr *addr, struct in_addr *ret)
{
    if (addr->len == 0)
        return false;
    if (addr->any.sa_family == AF_INET) {
        *ret = addr->v4.sin_addr;
        return true;
    }
    if (addr->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->v6.sin6_addr))
        return false;
    memcpy(ret, &addr->v6.sin6_addr.s6_addr[12], sizeof(*ret));
    return true;
}

const char *addr_format(const struct addr *addr, char *out, size_t out_size)
{
    char digits[INET6_ADDRSTRLEN];
    struct in_addr v4;
    unsigned int port = addr_port(addr);
    if (get_v4(addr, &v4)) {
        (void)inet_ntop(AF_INET, &v4, digits, sizeof(digits));
        (void)snprintf(out, out_size, "%s:%u", digits, port);
    } else if (addr->len != 0 && addr->any.sa_family == AF_INET6) {
        (void)inet_ntop(AF_INET6, &addr->v6.sin6_addr, digits, sizeof(digits));
        /* The scope is shown as a number: its name would cost a system call for each log line. */
        if (addr->v6.sin6_scope_id != 0)
            (void)snprintf(out, out_size, "[%s%%%u]:%u", digits, addr->v6.sin6_scope_id, port);
        else
            (void)snprintf(out, out_size, "[%s]:%u", digits, port);
    } else {
        (void)snprintf(out, out_size, addr_is_unix(addr) ? "unix" : "(none)");
    }
    return out;
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
    if (a->len == 0 || b->len == 0)
        return a->len == b->len;
    if (a->any.sa_family != b->any.sa_family)
        return false;
    if (a->any.sa_family == AF_UNIX)
        return a->unix_id.hash[0] == b->unix_id.hash[0] && a->unix_id.hash[1] == b->unix_id.hash[1];
    if (a->any.sa_family == AF_INET)
        return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
           IN6_ARE_ADDR_EQUAL(&a->v6.sin6_addr, &b->v6.sin6_addr);
}

static bool is_any_v6(const struct addr *addr)
{
    return addr->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr->v6.sin6_addr);
}

bool addr_covers(const struct addr *a, const struct addr *b)
{
    struct in_addr v4_a, v4_b;
    if (a->len == 0 || b->len == 0 || addr_port(a) != addr_port(b))
        return false;
    if (addr_is_unix(a) || addr_is_unix(b))
        return addr_equal(a, b);
    if (is_any_v6(a) || is_any_v6(b))
        return is_any_v6(a);
    bool is_v4_a = get_v4(a, &v4_a), is_v4_b = get_v4(b, &v4_b);
    if (is_v4_a != is_v4_b)
        return false;
    if (!is_v4_a)
        return IN6_ARE_ADDR_EQUAL(&a->v6.sin6_addr, &b->v6.sin6_addr) &&
               a->v6.sin6_scope_id == b->v6.sin6_scope_id;
    return v4_a.s_addr == v4_b.s_addr || v4_a.s_addr == htonl(INADDR_ANY);
}

bool addr_overlaps(const struct addr *a, const struct addr *b)
{
    return addr_covers(a, b) || addr_covers(b, a);
}

uint16_t addr_port(const struct addr *addr)
{
    if (addr->len == 0 || addr->any.sa_family == AF_UNIX)
        return 0;
    return ntohs(addr->any.sa_family == AF_INET ? addr->v4.sin_port : addr->v6.sin6_port);
}

bool addr_is_loopback(const struct addr *addr)
{
    struct in_addr v4;
    if (get_v4(addr, &v4))
        return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
    return addr->len != 0 && addr->any.sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&addr->v6.sin6_addr);
}

struct addr_key addr_key(const struct addr *addr, struct addr_prefixes prefixes)
{
    enum { V4_AT = 96 };
    static const struct addr_key nobody;
    struct addr_key key = {{0}};
    struct in_addr v4;
    size_t bits;
    if (get_v4(addr, &v4)) {
        key.bytes[10] = key.bytes[11] = 0xff; /* as in a v4-mapped address */
        memcpy(&key.bytes[12], &v4, sizeof(v4));
        bits = V4_AT + prefixes.v4;
    } else if (addr->len != 0 && addr->any.sa_family == AF_INET6) {
        memcpy(key.bytes, &addr->v6.sin6_addr, sizeof(key.bytes));
        bits = prefixes.v6;
    } else {
        return nobody;
    }
    for (size_t i = bits / 8; i < sizeof(key.bytes); i++)
        key.bytes[i] &= i == bits / 8 ? (uint8_t)(0xff00u >> bits % 8) : 0;
    if (addr_key_equal(&key, &nobody))
        key.bytes[sizeof(key.bytes) - 1] = 1;
    return key;
}

bool addr_key_equal(const struct addr_key *a, const struct addr_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
