/* Ranges of ports (config/range.h). The input is two ranges: ports, and a name that may have {port} in
 * it, up to a zero byte. Each member's name leads back to its port and to no other, and a name that two
 * ranges share is one that both have. */
#include <string.h>

#include "config/range.h"
#include "fuzz.h"
#include "script.h"

enum { MEMBERS = 64 };

struct range {
    struct config_service service;
    char name[LIMIT_SERVICE_NAME - 16]; /* a port is longer than {port} only by an offset */
};

static void take(struct script *script, struct range *range)
{
    memset(range, 0, sizeof(*range));
    range->service.addr.port = (uint16_t)(1 + script_u16(script) % UINT16_MAX);
    unsigned int last = range->service.addr.port + script_below(script, MEMBERS);
    range->service.port_last = (uint16_t)(last > UINT16_MAX ? UINT16_MAX : last);
    for (size_t i = 0; i + 1 < sizeof(range->name); i++) {
        range->name[i] = (char)script_byte(script);
        if (range->name[i] == '\0')
            break;
    }
    range->service.name = range->name;
    /* As the validation refuses it. */
    if (!config_range_is_name(range->name) || !config_range_names_are_ports(&range->service))
        range->service.port_last = 0;
}

static void check_members(const struct range *range)
{
    const struct config_service *service = &range->service;
    char name[LIMIT_SERVICE_NAME + 1], addr[CONFIG_ADDR_SIZE];
    uint16_t port = 0;
    for (unsigned int i = 0; i < config_range_count(service); i++) {
        uint16_t own = (uint16_t)(service->addr.port + i);
        config_range_name(service, own, name);
        FUZZ_CHECK(strlen(name) <= LIMIT_SERVICE_NAME);
        FUZZ_CHECK(config_range_find(service, name, &port) && port == own);
        if (config_is_range(service))
            FUZZ_CHECK(config_range_is_name(service->name));
        size_t size = strlen(name);
        if (size == LIMIT_SERVICE_NAME || !config_is_range(service))
            continue;
        name[size] = '0'; /* a further digit is another port, or none */
        name[size + 1] = '\0';
        FUZZ_CHECK(!config_range_find(service, name, &port) || port != own);
    }
    FUZZ_CHECK(strlen(config_addr_format(service, addr, sizeof(addr))) < sizeof(addr));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, size};
    struct range ranges[2];
    char name[LIMIT_SERVICE_NAME + 1];
    uint16_t port;
    for (size_t i = 0; i < 2; i++) {
        take(&script, &ranges[i]);
        check_members(&ranges[i]);
    }
    const struct config_service *a = &ranges[0].service, *b = &ranges[1].service;
    bool shares = config_range_share_name(a, b, name);
    if (shares)
        FUZZ_CHECK(config_range_find(a, name, &port) && config_range_find(b, name, &port));
    bool has_found = false;
    for (unsigned int i = 0; i < config_range_count(a) && !has_found; i++) {
        config_range_name(a, (uint16_t)(a->addr.port + i), name);
        has_found = config_range_find(b, name, &port);
    }
    FUZZ_CHECK(shares == has_found);
    FUZZ_CHECK(config_range_share_name(b, a, name) == shares);
    return 0;
}
