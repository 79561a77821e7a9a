#include "proto/proxy.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"

enum {
    SOCKS_VERSION = 5,
    SOCKS_AUTH_VERSION = 1, /* of RFC 1929 */
    SOCKS_CONNECT = 1,
    SOCKS_NO_AUTH = 0,
    SOCKS_USER_AUTH = 2,
    SOCKS_NO_METHOD = 0xff,
    SOCKS_IPV4 = 1,
    SOCKS_NAME = 3,
    SOCKS_IPV6 = 4,
    SOCKS_REPLY_HEAD = 4, /* version, result, reserved, kind of address */
    SOCKS_PORT_SIZE = 2,
    STATUS_AT = 9, /* in "HTTP/1.1 200" */
    STATUS_END = 12,
    STATUS_PROXY_AUTH = 407,
    STATUS_AUTH = 401, /* what tinyproxy says to a wrong password */
    BASE64_CHUNK = 48, /* a multiple of three: only the last chunk is padded */
    BASE64_TEXT = 64 + 1,
};

static const char *const state_names[] = {
    [PROXY_BEGIN] = "begin", [PROXY_METHOD] = "method", [PROXY_AUTH] = "auth",
    [PROXY_REPLY] = "reply", [PROXY_STATUS] = "status", [PROXY_FIELDS] = "fields",
    [PROXY_DONE] = "done",   [PROXY_FAILED] = "failed",
};
static_assert(ARRAY_SIZE(state_names) == PROXY_STATE_COUNT, "a name for each state");

/* edges[from][to]. FAILED may follow every state, itself included: a dialogue that has failed fails
 * again. METHOD to REPLY: the proxy wants no password. STATUS after FIELDS: behind a 1xx answer. */
static const bool edges[PROXY_STATE_COUNT][PROXY_STATE_COUNT] = {
    [PROXY_BEGIN] = {[PROXY_METHOD] = true, [PROXY_STATUS] = true, [PROXY_FAILED] = true},
    [PROXY_METHOD] = {[PROXY_AUTH] = true, [PROXY_REPLY] = true, [PROXY_FAILED] = true},
    [PROXY_AUTH] = {[PROXY_REPLY] = true, [PROXY_FAILED] = true},
    [PROXY_REPLY] = {[PROXY_DONE] = true, [PROXY_FAILED] = true},
    [PROXY_STATUS] = {[PROXY_FIELDS] = true, [PROXY_FAILED] = true},
    [PROXY_FIELDS] = {[PROXY_STATUS] = true, [PROXY_DONE] = true, [PROXY_FAILED] = true},
    [PROXY_FAILED] = {[PROXY_FAILED] = true},
};

static void proxy_set_state(struct proxy *proxy, enum proxy_state state)
{
    assert(proxy->state < PROXY_STATE_COUNT);
    assert(edges[proxy->state][state]);
    proxy->state = state;
    proxy->at = 0;
}

PRINTF_FORMAT(2, 3)
static int fail(struct proxy *proxy, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(proxy->why, sizeof(proxy->why), format, args);
    va_end(args);
    proxy_set_state(proxy, PROXY_FAILED);
    return ERR_PROXY;
}

static bool has_user(const struct proxy_request *request)
{
    return request->user != NULL && request->password != NULL;
}

/* Why a user or password does not help, for both kinds of proxy. */
static int fail_auth(struct proxy *proxy)
{
    return fail(proxy, has_user(proxy->request) ? "the proxy refused the user or the password"
                                                : "the proxy wants a user and a password");
}

/* ---- SOCKS5 ---- */

static void socks_begin(struct proxy *proxy, struct wire_writer *out)
{
    bool offers_user = has_user(proxy->request);
    wire_writer_u8(out, SOCKS_VERSION);
    wire_writer_u8(out, offers_user ? 2 : 1);
    wire_writer_u8(out, SOCKS_NO_AUTH);
    if (offers_user)
        wire_writer_u8(out, SOCKS_USER_AUTH);
    proxy_set_state(proxy, PROXY_METHOD);
}

static void send_counted(struct wire_writer *out, const char *text)
{
    size_t size = strlen(text);
    assert(size <= PROXY_TEXT_MAX);
    wire_writer_u8(out, (uint8_t)size);
    wire_writer_bytes(out, text, size);
}

static void socks_send_auth(struct proxy *proxy, struct wire_writer *out)
{
    wire_writer_u8(out, SOCKS_AUTH_VERSION);
    send_counted(out, proxy->request->user);
    send_counted(out, proxy->request->password);
    proxy_set_state(proxy, PROXY_AUTH);
}

static void socks_send_connect(struct proxy *proxy, struct wire_writer *out)
{
    wire_writer_u8(out, SOCKS_VERSION);
    wire_writer_u8(out, SOCKS_CONNECT);
    wire_writer_u8(out, 0);
    wire_writer_u8(out, SOCKS_NAME);
    send_counted(out, proxy->request->host);
    wire_writer_u8(out, (uint8_t)(proxy->request->port >> 8)); /* big endian */
    wire_writer_u8(out, (uint8_t)proxy->request->port);
    proxy_set_state(proxy, PROXY_REPLY);
}

static int socks_check_version(struct proxy *proxy, uint8_t byte)
{
    return byte == SOCKS_VERSION ? PROXY_MORE
                                 : fail(proxy, "the answer is not that of a SOCKS5 proxy");
}

static int socks_method(struct proxy *proxy, uint8_t byte, struct wire_writer *out)
{
    if (proxy->at++ == 0)
        return socks_check_version(proxy, byte);
    if (byte == SOCKS_NO_AUTH)
        socks_send_connect(proxy, out);
    else if (byte == SOCKS_USER_AUTH && has_user(proxy->request))
        socks_send_auth(proxy, out);
    else if (byte == SOCKS_NO_METHOD && has_user(proxy->request))
        return fail(proxy, "the proxy takes neither a user and password, nor goes without");
    else if (byte == SOCKS_NO_METHOD || byte == SOCKS_USER_AUTH)
        return fail_auth(proxy);
    else
        return fail(proxy, "the proxy chose a method (%u) that was not offered", byte);
    return PROXY_MORE;
}

/* The version of the answer is not looked at: some proxies say 5 here, and curl does not look
 * either. */
static int socks_auth(struct proxy *proxy, uint8_t byte, struct wire_writer *out)
{
    if (proxy->at++ == 0)
        return PROXY_MORE;
    if (byte != 0)
        return fail_auth(proxy);
    socks_send_connect(proxy, out);
    return PROXY_MORE;
}

static int socks_refused(struct proxy *proxy, uint8_t result)
{
    static const char *const texts[] = {
        [1] = "general failure",
        [2] = "not allowed by its rules",
        [3] = "network unreachable",
        [4] = "host unreachable",
        [5] = "connection refused",
        [6] = "TTL expired",
        [7] = "it does not know the command",
        [8] = "it does not take names", /* the only kind of address that is sent */
    };
    if (result < ARRAY_SIZE(texts))
        return fail(proxy, "the proxy refused: %s", texts[result]);
    return fail(proxy, "the proxy refused: unknown reason %u", result);
}

/* The address that the proxy has bound is of no use here, only its length. The result is judged
 * before the rest has come, because some proxies leave it out when they refuse. */
static int socks_reply(struct proxy *proxy, uint8_t byte)
{
    uint16_t at = proxy->at++;
    if (at == 0)
        return socks_check_version(proxy, byte);
    if (at == 1 && byte != 0)
        return socks_refused(proxy, byte);
    if (at == SOCKS_REPLY_HEAD - 1) {
        if (byte != SOCKS_IPV4 && byte != SOCKS_NAME && byte != SOCKS_IPV6)
            return fail(proxy, "the proxy's answer has an unknown kind of address (%u)", byte);
        /* That of a name follows with its length. */
        proxy->end = byte == SOCKS_NAME ? 0 : byte == SOCKS_IPV4 ? 4 : 16;
        if (byte != SOCKS_NAME)
            proxy->end += SOCKS_REPLY_HEAD + SOCKS_PORT_SIZE;
    } else if (at == SOCKS_REPLY_HEAD && proxy->end == 0) {
        proxy->end = (uint16_t)(SOCKS_REPLY_HEAD + 1 + byte + SOCKS_PORT_SIZE);
    }
    if (proxy->at != proxy->end)
        return PROXY_MORE;
    proxy_set_state(proxy, PROXY_DONE);
    return PROXY_FINISHED;
}

/* ---- HTTP ---- */

static void send_text(struct wire_writer *out, const char *text)
{
    wire_writer_bytes(out, text, strlen(text));
}

static void send_server(struct wire_writer *out, const struct proxy_request *request)
{
    bool is_ipv6 = strchr(request->host, ':') != NULL;
    char port[sizeof(":65535")];
    (void)snprintf(port, sizeof(port), ":%u", request->port);
    send_text(out, is_ipv6 ? "[" : "");
    send_text(out, request->host);
    send_text(out, is_ipv6 ? "]" : "");
    send_text(out, port);
}

static void send_base64(struct wire_writer *out, const uint8_t *bytes, size_t size)
{
    char text[BASE64_TEXT];
    keys_base64(bytes, size, text, sizeof(text));
    send_text(out, text);
    keys_wipe(text, sizeof(text));
}

static void send_basic(struct wire_writer *out, const struct proxy_request *request)
{
    const char *const parts[] = {request->user, ":", request->password};
    uint8_t chunk[BASE64_CHUNK];
    size_t have = 0;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        for (const char *next = parts[i]; *next != '\0'; next++) {
            chunk[have++] = (uint8_t)*next;
            if (have == sizeof(chunk)) {
                send_base64(out, chunk, have);
                have = 0;
            }
        }
    }
    if (have > 0)
        send_base64(out, chunk, have);
    keys_wipe(chunk, sizeof(chunk));
}

static void http_begin(struct proxy *proxy, struct wire_writer *out)
{
    send_text(out, "CONNECT ");
    send_server(out, proxy->request);
    send_text(out, " HTTP/1.1\r\nHost: ");
    send_server(out, proxy->request);
    if (has_user(proxy->request)) {
        send_text(out, "\r\nProxy-Authorization: Basic ");
        send_basic(out, proxy->request);
    }
    send_text(out, "\r\n\r\n");
    proxy_set_state(proxy, PROXY_STATUS);
}

static int http_refused(struct proxy *proxy)
{
    static const struct {
        uint16_t status;
        const char *text;
    } reasons[] = {
        {400, "bad request"},       {403, "forbidden"},         {404, "not found"},
        {405, "it has no CONNECT"}, {429, "too many requests"}, {500, "internal error"},
        {501, "it has no CONNECT"}, {502, "bad gateway"},       {503, "service unavailable"},
        {504, "gateway timeout"},
    };
    if (proxy->status == STATUS_PROXY_AUTH || proxy->status == STATUS_AUTH)
        return fail_auth(proxy);
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        if (reasons[i].status == proxy->status)
            return fail(proxy, "the proxy refused: %s (status %u)", reasons[i].text, proxy->status);
    }
    return fail(proxy, "the proxy refused: status %u", proxy->status);
}

/* Any 2xx opens the tunnel, and its body is the tunnel, whatever its fields say (RFC 9110, section
 * 9.3.6). rathole takes 200 alone. Other 1xx answers than 101 may come before the answer proper. */
static int http_judge(struct proxy *proxy)
{
    bool is_interim = proxy->status / 100 == 1 && proxy->status != 101;
    return proxy->status / 100 == 2 || is_interim ? PROXY_MORE : http_refused(proxy);
}

static bool status_byte_is_right(struct proxy *proxy, size_t at, uint8_t byte)
{
    static const char head[] = "HTTP/1.";
    bool is_digit = byte >= '0' && byte <= '9';
    if (at < sizeof(head) - 1)
        return byte == (uint8_t)head[at];
    if (at == sizeof(head) - 1)
        return is_digit; /* 1.0 as well */
    if (at < STATUS_AT)
        return byte == ' ';
    if (at == STATUS_END)
        return byte == ' ' || byte == '\r' || byte == '\n';
    proxy->status = (uint16_t)(proxy->status * 10 + (byte - '0'));
    return is_digit;
}

static int http_fields(struct proxy *proxy, uint8_t byte)
{
    if (byte == '\r' && !proxy->has_cr) {
        proxy->has_cr = true;
        return PROXY_MORE;
    }
    bool is_last = byte == '\n' && proxy->line_is_new;
    proxy->has_cr = false;
    proxy->line_is_new = byte == '\n';
    if (!is_last)
        return PROXY_MORE;
    if (proxy->status / 100 == 1) {
        proxy->status = 0;
        proxy_set_state(proxy, PROXY_STATUS);
        return PROXY_MORE;
    }
    proxy_set_state(proxy, PROXY_DONE);
    return PROXY_FINISHED;
}

static int http_status(struct proxy *proxy, uint8_t byte)
{
    size_t at = proxy->at++;
    if (!status_byte_is_right(proxy, at, byte))
        return fail(proxy, "the answer is not that of an HTTP proxy");
    if (at < STATUS_END)
        return PROXY_MORE;
    int result = http_judge(proxy);
    if (result < 0)
        return result;
    proxy_set_state(proxy, PROXY_FIELDS);
    proxy->line_is_new = proxy->has_cr = false;
    return http_fields(proxy, byte);
}

/* ---- both ---- */

void proxy_init(struct proxy *proxy, const struct proxy_request *request)
{
    *proxy = (struct proxy){.request = request, .state = PROXY_BEGIN};
}

/* In a request each of these would end the name, or the line. */
static bool host_is_clean(const char *host)
{
    for (; *host != '\0'; host++) {
        if ((unsigned char)*host <= ' ' || *host == 0x7f)
            return false;
    }
    return true;
}

static int proxy_begin(struct proxy *proxy, struct wire_writer *out)
{
    const struct proxy_request *request = proxy->request;
    size_t size = strlen(request->host);
    size_t user = has_user(request) ? strlen(request->user) : 0;
    size_t password = has_user(request) ? strlen(request->password) : 0;
    if (size == 0 || size > PROXY_TEXT_MAX || !host_is_clean(request->host))
        return fail(proxy, "no proxy takes this name of a server");
    if (request->type == PROXY_SOCKS5 && (user > PROXY_TEXT_MAX || password > PROXY_TEXT_MAX))
        return fail(proxy, "a user and a password for SOCKS5 have at most 255 bytes each");
    if (user > LIMIT_CONFIG_TEXT || password > LIMIT_CONFIG_TEXT)
        return fail(proxy, "the user or the password is too long");
    /* In Basic the first colon ends the user (RFC 7617). */
    if (request->type == PROXY_HTTP && user > 0 && strchr(request->user, ':') != NULL)
        return fail(proxy, "a user for HTTP has no colon");
    if (request->type == PROXY_SOCKS5)
        socks_begin(proxy, out);
    else
        http_begin(proxy, out);
    return PROXY_MORE;
}

static int proxy_take(struct proxy *proxy, uint8_t byte, struct wire_writer *out)
{
    switch (proxy->state) {
    case PROXY_METHOD:
        return socks_method(proxy, byte, out);
    case PROXY_AUTH:
        return socks_auth(proxy, byte, out);
    case PROXY_REPLY:
        return socks_reply(proxy, byte);
    case PROXY_STATUS:
        return http_status(proxy, byte);
    case PROXY_FIELDS:
        return http_fields(proxy, byte);
    case PROXY_BEGIN:
    case PROXY_DONE:
    case PROXY_FAILED:
    case PROXY_STATE_COUNT:
        break;
    }
    return ERR_PROXY;
}

int proxy_step(struct proxy *proxy, const uint8_t *in, size_t size, size_t *ret_used,
               struct wire_writer *out)
{
    int result = PROXY_MORE;
    size_t used = 0;
    assert(proxy->state != PROXY_DONE);
    if (proxy->state == PROXY_FAILED)
        result = ERR_PROXY;
    else if (proxy->state == PROXY_BEGIN)
        result = proxy_begin(proxy, out);
    while (result == PROXY_MORE && used < size) {
        bool is_http = proxy->state == PROXY_STATUS || proxy->state == PROXY_FIELDS;
        if (is_http && proxy->header_size++ == LIMIT_PROXY_HEADER)
            result = fail(proxy, "the proxy's answer is longer than %d bytes", LIMIT_PROXY_HEADER);
        else
            result = proxy_take(proxy, in[used++], out);
    }
    assert(out->error == 0); /* there were PROXY_OUT_MAX bytes of room */
    *ret_used = used;
    return result;
}

const char *proxy_state_name(enum proxy_state state)
{
    return state < PROXY_STATE_COUNT ? state_names[state] : "unknown";
}
