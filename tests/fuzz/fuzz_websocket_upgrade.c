/* A peer's HTTP header in arbitrary pieces. The input is a choice byte, a byte that decides where
 * the header is cut, and the bytes. All ways of cutting them lead to the same result, and what a
 * server accepts has an answer that its client accepts. */
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "fuzz.h"
#include "proto/websocket_upgrade.h"

enum { IS_SERVER = 1 };

static struct websocket_upgrade first, other;

/* Parses the bytes in pieces of at most `most` bytes, in heap blocks of exactly that size. */
static int parse(struct websocket_upgrade *upgrade, bool is_server, const uint8_t *bytes,
                 size_t size, size_t most, uint32_t random, size_t *ret_used)
{
    char request[WEBSOCKET_REQUEST_MAX];
    int result = 0;
    size_t at = 0;
    websocket_upgrade_init(upgrade, is_server);
    if (!is_server)
        FUZZ_CHECK(websocket_upgrade_request(upgrade, "a:1", (const uint8_t *)"the sample nonce",
                                             request) > 0);
    while (at < size && result == 0) {
        random = random * 1664525 + 1013904223;
        size_t count = MIN(1 + (random >> 8) % most, size - at), used = SIZE_MAX;
        uint8_t *piece = malloc(count);
        FUZZ_CHECK(piece != NULL);
        memcpy(piece, bytes + at, count);
        result = websocket_upgrade_parse(upgrade, piece, count, &used);
        free(piece);
        FUZZ_CHECK(used <= count && (result != 0 || used == count));
        at += used;
    }
    *ret_used = at;
    return result;
}

static void check_accepted(bool is_server, const uint8_t *bytes, size_t used)
{
    FUZZ_CHECK(used >= 4 && memcmp(bytes + used - 4, "\r\n\r\n", 4) == 0);
    for (size_t i = 0; i < used; i++)
        FUZZ_CHECK(bytes[i] >= ' ' || bytes[i] == '\t' || bytes[i] == '\r' || bytes[i] == '\n');
    if (!is_server)
        return;
    char answer[WEBSOCKET_ANSWER_MAX];
    size_t size = websocket_upgrade_answer(&first, answer), answer_used;
    FUZZ_CHECK(size < sizeof(answer));
    websocket_upgrade_init(&other, false);
    memcpy(other.key, first.key, sizeof(first.key));
    FUZZ_CHECK(websocket_upgrade_parse(&other, answer, size, &answer_used) == 1);
    FUZZ_CHECK(answer_used == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {SIZE_MAX, 1, 7, 300};
    size_t first_used = 0;
    int result = 0;
    if (size < 2)
        return 0;
    bool is_server = data[0] & IS_SERVER;
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        struct websocket_upgrade *upgrade = i == 0 ? &first : &other;
        size_t used;
        int again = parse(upgrade, is_server, data + 2, size - 2, pieces[i], data[1], &used);
        FUZZ_CHECK(again == 0 || again == 1 || again == ERR_PROTOCOL);
        FUZZ_CHECK(used <= WEBSOCKET_HEADER_MAX);
        FUZZ_CHECK((again == ERR_PROTOCOL) == (upgrade->why != NULL));
        if (i == 0) {
            result = again;
            first_used = used;
            continue;
        }
        FUZZ_CHECK(again == result && used == first_used);
        FUZZ_CHECK(other.keeps_half == first.keeps_half && other.found == first.found);
        if (result == ERR_PROTOCOL)
            FUZZ_CHECK(strcmp(other.why, first.why) == 0);
    }
    if (result == 1)
        check_accepted(is_server, data + 2, first_used);
    return 0;
}
