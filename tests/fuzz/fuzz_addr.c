/* An address or a prefix as text: parsing, formatting and parsing again agree. */
#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "base/cidr.h"
#include "fuzz.h"

static void check_numeric(const struct host_port *host_port, const struct addr *addr)
{
    char text[ADDR_TEXT_SIZE];
    struct host_port again;
    struct addr addr_again;
    (void)addr_format(addr, text, sizeof(text));
    FUZZ_CHECK(strlen(text) < sizeof(text) - 1); /* never cut */
    FUZZ_CHECK(addr_port(addr) == host_port->port);
    FUZZ_CHECK(host_port_parse(text, &again) == 0);
    FUZZ_CHECK(addr_from_numeric(&again, &addr_again));

    static const struct addr_prefixes prefixes = {.v4 = 32, .v6 = 64};
    struct addr_key key = addr_key(addr, prefixes);
    struct addr_key key_again = addr_key(&addr_again, prefixes);
    FUZZ_CHECK(addr_key_equal(&key, &key_again)); /* also if v4-mapped became IPv4 */
    FUZZ_CHECK(addr_is_loopback(addr) == addr_is_loopback(&addr_again));
    if (addr->any.sa_family == addr_again.any.sa_family)
        FUZZ_CHECK(addr_equal(addr, &addr_again));
}

static void check_unix(const char *text)
{
    struct host_port parsed, again;
    char formatted[ADDR_HOST_SIZE + 16];
    if (host_port_parse_unix(text, &parsed) < 0)
        return;
    FUZZ_CHECK(host_port_is_unix(&parsed) && parsed.port == 0);
    FUZZ_CHECK(strlen(parsed.host) <= ADDR_UNIX_MAX);
    (void)host_port_format(&parsed, formatted, sizeof(formatted));
    FUZZ_CHECK(host_port_parse(text, &again) < 0);
    FUZZ_CHECK(host_port_parse_unix(formatted, &again) == 0);
    struct addr addr = addr_of_unix(parsed.host), addr_again = addr_of_unix(again.host);
    FUZZ_CHECK(addr_equal(&addr, &addr_again));
}

static void check_cidr(const uint8_t *data, size_t size)
{
    struct cidr parsed, again;
    char text[CIDR_TEXT_SIZE];
    int result = cidr_parse((const char *)data, size, &parsed);
    if (result == -EINVAL)
        return;
    FUZZ_CHECK(result == 0 || result == -EDOM);
    (void)cidr_format(&parsed, text);
    FUZZ_CHECK(cidr_parse(text, strlen(text), &again) == 0);
    FUZZ_CHECK(again.high == parsed.high && again.low == parsed.low && again.bits == parsed.bits &&
               again.is_v6 == parsed.is_v6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[512];
    if (size >= sizeof(text))
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';

    struct host_port parsed, again;
    struct addr addr;
    check_unix(text);
    check_cidr((const uint8_t *)text, size);
    memset(&parsed, 0xa5, sizeof(parsed));
    if (host_port_parse(text, &parsed) < 0) {
        for (size_t i = 0; i < sizeof(parsed); i++)
            FUZZ_CHECK(((const uint8_t *)&parsed)[i] == 0xa5);
        return 0;
    }
    FUZZ_CHECK(parsed.port != 0);
    FUZZ_CHECK(strnlen(parsed.host, sizeof(parsed.host)) < sizeof(parsed.host));

    char formatted[ADDR_HOST_SIZE + 16];
    (void)host_port_format(&parsed, formatted, sizeof(formatted));
    FUZZ_CHECK(host_port_parse(formatted, &again) == 0);
    FUZZ_CHECK(strcmp(parsed.host, again.host) == 0 && parsed.port == again.port);
    if (addr_from_numeric(&parsed, &addr))
        check_numeric(&parsed, &addr);
    return 0;
}
