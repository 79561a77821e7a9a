#include "config/range.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "options_priv.h"
#include "report_priv.h"
#include "text_priv.h"

/* ---- names ---- */

/* A name with {port}: "prefix", the number, "suffix". */
struct pattern {
    size_t prefix_size;
    const char *suffix;
    int offset; /* from the port of the address to the number in the name */
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads "}", "+1000}" or "-1000}" behind "{port". */
static bool read_offset(const char *at, struct pattern *ret)
{
    int sign = *at == '-' ? -1 : 1, offset = 0;
    if (*at == '+' || *at == '-') {
        at++;
        if (!is_digit(*at))
            return false;
        for (; is_digit(*at) && offset <= UINT16_MAX; at++)
            offset = offset * 10 + (*at - '0');
    }
    ret->offset = sign * offset;
    ret->suffix = at + 1;
    return *at == '}' && offset <= UINT16_MAX;
}

static bool find_pattern(const char *name, struct pattern *ret)
{
    static const char mark[] = "{port";
    for (const char *at = name; (at = strstr(at, mark)) != NULL; at++) {
        ret->prefix_size = (size_t)(at - name);
        if (read_offset(at + sizeof mark - 1, ret))
            return true;
    }
    return false;
}

bool config_range_is_name(const char *name)
{
    struct pattern pattern;
    return find_pattern(name, &pattern);
}

bool config_range_names_are_ports(const struct config_service *range)
{
    struct pattern pattern;
    return !find_pattern(range->name, &pattern) ||
           (range->addr.port + pattern.offset >= 1 &&
            range->port_last + pattern.offset <= UINT16_MAX);
}

void config_range_name(const struct config_service *range, uint16_t port,
                       char ret[static LIMIT_SERVICE_NAME + 1])
{
    struct pattern pattern;
    if (config_is_range(range) && find_pattern(range->name, &pattern))
        (void)snprintf(ret, LIMIT_SERVICE_NAME + 1, "%.*s%d%s", (int)pattern.prefix_size,
                       range->name, port + pattern.offset, pattern.suffix);
    else
        (void)snprintf(ret, LIMIT_SERVICE_NAME + 1, "%s", range->name);
}

/* A number as config_range_name writes it, from `text` up to `end`; -1: none. */
static int read_number(const char *text, const char *end)
{
    int number = 0;
    if (end <= text || end - text > 5 || *text == '0')
        return -1;
    for (; text < end; text++) {
        if (!is_digit(*text))
            return -1;
        number = number * 10 + (*text - '0');
    }
    return number;
}

bool config_range_find(const struct config_service *range, const char *name, uint16_t *ret_port)
{
    struct pattern pattern;
    if (!config_is_range(range) || !find_pattern(range->name, &pattern)) {
        *ret_port = range->addr.port;
        return strcmp(range->name, name) == 0;
    }
    size_t size = strlen(name), suffix_size = strlen(pattern.suffix);
    if (size < pattern.prefix_size + suffix_size ||
        memcmp(name, range->name, pattern.prefix_size) != 0 ||
        strcmp(name + size - suffix_size, pattern.suffix) != 0)
        return false;
    int number = read_number(name + pattern.prefix_size, name + size - suffix_size);
    int port = number - pattern.offset;
    if (number < 0 || port < range->addr.port || port > range->port_last)
        return false;
    *ret_port = (uint16_t)port;
    return true;
}

/* Whether both patterns, or a name and a pattern, begin and end alike. */
static bool may_share(const struct config_service *a, const struct config_service *b)
{
    struct pattern left = {.prefix_size = strlen(a->name), .suffix = a->name};
    struct pattern right = {.prefix_size = strlen(b->name), .suffix = b->name};
    (void)find_pattern(a->name, &left);
    (void)find_pattern(b->name, &right);
    size_t left_size = strlen(left.suffix), right_size = strlen(right.suffix);
    size_t common = MIN(left_size, right_size);
    return memcmp(a->name, b->name, MIN(left.prefix_size, right.prefix_size)) == 0 &&
           memcmp(left.suffix + left_size - common, right.suffix + right_size - common, common) ==
               0;
}

bool config_range_share_name(const struct config_service *a, const struct config_service *b,
                             char ret[static LIMIT_SERVICE_NAME + 1])
{
    const struct config_service *few = config_range_count(a) <= config_range_count(b) ? a : b;
    const struct config_service *many = few == a ? b : a;
    uint16_t unused;
    for (unsigned int i = 0; may_share(a, b) && i < config_range_count(few); i++) {
        config_range_name(few, (uint16_t)(few->addr.port + i), ret);
        if (config_range_find(many, ret, &unused))
            return true;
    }
    return false;
}

/* ---- addresses ---- */

const char *config_addr_format(const struct config_service *service, char *out, size_t out_size)
{
    (void)host_port_format(&service->addr, out, out_size);
    size_t used = strlen(out);
    if (config_is_range(service))
        (void)snprintf(out + used, out_size - used, "-%u", (unsigned int)service->port_last);
    return out;
}

/* host:FIRST-LAST, or what value_addr_or_path takes. The target is the field `addr` of a service;
 * the last port goes beside it. */
int value_addr_or_range(struct option_value *value, void *target)
{
    struct config_service *service = container_of(target, struct config_service, addr);
    const char *text = value->text, *colon = strrchr(text, ':');
    const char *dash = colon != NULL ? strchr(colon, '-') : NULL;
    char first[REPORT_ECHO_SIZE + ADDR_HOST_SIZE], last[sizeof first], echo[REPORT_ECHO_SIZE];
    struct host_port end;
    service->port_last = 0;
    if (dash == NULL || *text == '/' || strncmp(text, "unix:", 5) == 0 ||
        strlen(text) >= sizeof first)
        return value_addr_or_path(value, target);
    (void)snprintf(first, sizeof first, "%.*s", (int)(dash - text), text);
    (void)snprintf(last, sizeof last, "%.*s:%s", (int)(colon - text), text, dash + 1);
    if (host_port_parse(first, &service->addr) < 0 || host_port_parse(last, &end) < 0 ||
        end.port < service->addr.port) {
        (void)snprintf(value->problem, value->problem_size,
                       "expected host:FIRST-LAST, two ports with the lower one first, got \"%s\"",
                       text_escape(text, echo, sizeof echo));
        service->addr = (struct host_port){0};
        return ERR_CONFIG;
    }
    service->port_last = end.port;
    return 0;
}
