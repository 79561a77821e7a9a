/* Decodes a PROXY header. What is accepted depends on no byte behind it, can't be cut, and reads the
 * same when it is written again. What is refused stays refused with more bytes. */
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "proto/proxy_protocol.h"

static int decode(const uint8_t *data, size_t size, struct proxy_header *ret)
{
    const char *why = NULL;
    int result = proxy_protocol_decode(data, size, ret, &why);
    FUZZ_CHECK(result == 0 || result == 1 || result == ERR_PROTOCOL);
    FUZZ_CHECK((result == ERR_PROTOCOL) == (why != NULL));
    FUZZ_CHECK(result != 0 || size < PROXY_PROTOCOL_HEAD);
    return result;
}

static void check_again(const struct proxy_header *header, unsigned int version)
{
    uint8_t out[PROXY_PROTOCOL_MAX];
    struct proxy_header again;
    size_t size = proxy_protocol_encode(version, false, &header->from, &header->to, out);
    FUZZ_CHECK(size <= (version == 1 ? PROXY_PROTOCOL_MAX : PROXY_PROTOCOL_V2_MAX));
    FUZZ_CHECK(decode(out, size, &again) == 1 && again.size == size && again.has_addresses);
    FUZZ_CHECK(again.version == version);
    const struct addr_prefixes all = {32, 128};
    const struct addr_key keys[] = {addr_key(&header->from, all), addr_key(&again.from, all),
                                    addr_key(&header->to, all), addr_key(&again.to, all)};
    FUZZ_CHECK(addr_key_equal(&keys[0], &keys[1]) && addr_key_equal(&keys[2], &keys[3]));
    FUZZ_CHECK(addr_port(&header->from) == addr_port(&again.from));
    FUZZ_CHECK(addr_port(&header->to) == addr_port(&again.to));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header header, other;
    int result = decode(data, size, &header);
    if (result < 0) {
        size_t least = 0;
        while (decode(data, least, &other) == 0)
            least++;
        for (; least <= size; least++)
            FUZZ_CHECK(decode(data, least, &other) == ERR_PROTOCOL);
    }
    if (result <= 0)
        return 0;
    FUZZ_CHECK(header.size > 0 && header.size <= LIMIT_PROXY_PROTOCOL);
    FUZZ_CHECK(header.version == 2 || header.size <= MIN(size, (size_t)PROXY_PROTOCOL_MAX));
    size_t head = MIN(size, MIN(header.size, (size_t)PROXY_PROTOCOL_HEAD));
    FUZZ_CHECK(decode(data, head, &other) == 1 && other.size == header.size);
    FUZZ_CHECK(other.has_addresses == header.has_addresses);
    if (!header.has_addresses)
        return 0;
    FUZZ_CHECK(addr_equal(&header.from, &other.from) && addr_equal(&header.to, &other.to));
    check_again(&header, 1);
    check_again(&header, 2);
    return 0;
}
