/* The dialogue with a proxy. The input is a choice byte (HTTP, a user, the kind of name), a size of
 * pieces, and what the proxy sends. It goes in whole, in pieces and byte by byte: all agree. The
 * tunnel opens exactly with the last byte that was taken, and never before our whole request. */
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "fuzz.h"
#include "proto/proxy.h"

enum { IS_HTTP = 1, HAS_USER = 2, IS_IPV6 = 4 };

struct outcome {
    int result;
    size_t used, out_size;
    uint8_t out[PROXY_OUT_MAX];
    char why[PROXY_WHY_SIZE];
};

static int step(struct proxy *proxy, const uint8_t *data, size_t size, struct outcome *outcome)
{
    static uint8_t room[PROXY_OUT_MAX];
    struct wire_writer out;
    size_t used, sent = 0;
    wire_writer_init(&out, room, sizeof(room));
    int result = proxy_step(proxy, data, size, &used, &out);
    FUZZ_CHECK(used <= size && (result != PROXY_MORE || used == size));
    FUZZ_CHECK(result == PROXY_MORE || result == PROXY_FINISHED || result == ERR_PROXY);
    FUZZ_CHECK((result == PROXY_FINISHED) == (proxy->state == PROXY_DONE));
    FUZZ_CHECK((result == ERR_PROXY) == (proxy->state == PROXY_FAILED));
    FUZZ_CHECK((result == ERR_PROXY) == (proxy->why[0] != '\0'));
    FUZZ_CHECK(wire_writer_done(&out, &sent) == 0);
    FUZZ_CHECK(outcome->out_size + sent <= sizeof(outcome->out));
    memcpy(outcome->out + outcome->out_size, room, sent);
    outcome->out_size += sent;
    outcome->used += used;
    return result;
}

static struct outcome run(const struct proxy_request *request, const uint8_t *data, size_t size,
                          size_t piece)
{
    struct outcome outcome = {0};
    struct proxy proxy;
    proxy_init(&proxy, request);
    outcome.result = step(&proxy, NULL, 0, &outcome);
    FUZZ_CHECK(outcome.result == PROXY_MORE);
    for (size_t at = 0; at < size && outcome.result == PROXY_MORE; at += piece)
        outcome.result = step(&proxy, data + at, MIN(piece, size - at), &outcome);
    memcpy(outcome.why, proxy.why, sizeof(outcome.why));
    return outcome;
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
    FUZZ_CHECK(a->result == b->result && a->used == b->used && a->out_size == b->out_size);
    FUZZ_CHECK(memcmp(a->out, b->out, a->out_size) == 0);
    FUZZ_CHECK(strcmp(a->why, b->why) == 0);
}

/* The request is complete: it ends with the port, or with an empty line. */
static void check_request(const struct outcome *outcome, bool is_http)
{
    const char *end = is_http ? "\r\n\r\n" : "\x09\x1d"; /* 2333 */
    size_t size = strlen(end);
    FUZZ_CHECK(outcome->out_size > size);
    FUZZ_CHECK(memcmp(outcome->out + outcome->out_size - size, end, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    bool is_http = (data[0] & IS_HTTP) != 0, has_user = (data[0] & HAS_USER) != 0;
    size_t piece = (size_t)data[1] + 1;
    const struct proxy_request request = {
        .type = is_http ? PROXY_HTTP : PROXY_SOCKS5,
        .host = (data[0] & IS_IPV6) != 0 ? "2001:db8::1" : "example.org",
        .port = 2333,
        .user = has_user ? "user" : NULL,
        .password = has_user ? "HUSHHUSH" : NULL,
    };
    data += 2;
    size -= 2;
    FUZZ_CHECK(keys_init() == 0);
    struct outcome whole = run(&request, data, size, size + 1);
    struct outcome other = run(&request, data, size, piece);
    check_same(&whole, &other);
    other = run(&request, data, size, 1);
    check_same(&whole, &other);
    FUZZ_CHECK(strstr(whole.why, "HUSH") == NULL);
    FUZZ_CHECK(whole.used <= (is_http ? LIMIT_PROXY_HEADER : 2 + 2 + 4 + 1 + 255 + 2));
    if (whole.result != PROXY_FINISHED)
        return 0;
    check_request(&whole, is_http);
    other = run(&request, data, whole.used, whole.used);
    check_same(&whole, &other);
    other = run(&request, data, whole.used - 1, whole.used);
    FUZZ_CHECK(other.result == PROXY_MORE);
    return 0;
}
