#include "net/http.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    enum http_status status;
    const char *reason;
} reasons[] = {
    {HTTP_OK, "OK"},
    {HTTP_BAD_REQUEST, "Bad Request"},
    {HTTP_UNAUTHORIZED, "Unauthorized"},
    {HTTP_NOT_FOUND, "Not Found"},
    {HTTP_METHOD_NOT_ALLOWED, "Method Not Allowed"},
    {HTTP_REQUEST_TIMEOUT, "Request Timeout"},
    {HTTP_MISDIRECTED, "Misdirected Request"},
    {HTTP_HEADERS_TOO_LARGE, "Request Header Fields Too Large"},
    {HTTP_UNAVAILABLE, "Service Unavailable"},
};

bool http_text_equals(const struct http_text *text, const char *string)
{
    return text->len == strlen(string) && memcmp(text->at, string, text->len) == 0;
}

static bool equals_ignoring_case(const struct http_text *text, const char *string)
{
    return text->len == strlen(string) && strncasecmp(text->at, string, text->len) == 0;
}

/* RFC 9110, section 5.6.2. */
static bool is_token(const struct http_text *text)
{
    for (size_t i = 0; i < text->len; i++) {
        unsigned char byte = (unsigned char)text->at[i];
        if (!isalnum(byte) && (byte == 0 || strchr("!#$%&'*+-.^_`|~", byte) == NULL))
            return false;
    }
    return text->len > 0;
}

/* Takes the text up to the first `end`, which it skips. False: there is none. */
static bool take_until(struct http_text *from, char end, struct http_text *ret)
{
    const char *at = memchr(from->at, end, from->len);
    if (at == NULL)
        return false;
    *ret = (struct http_text){from->at, (size_t)(at - from->at)};
    from->at = at + 1;
    from->len -= ret->len + 1;
    return true;
}

/* A line without its CRLF, or lone LF. */
static bool http_take_line(struct http_text *from, struct http_text *ret)
{
    if (!take_until(from, '\n', ret))
        return false;
    if (ret->len > 0 && ret->at[ret->len - 1] == '\r')
        ret->len--;
    return true;
}

static bool http_is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static struct http_text strip(struct http_text text)
{
    while (text.len > 0 && http_is_blank(text.at[0])) {
        text.at++;
        text.len--;
    }
    while (text.len > 0 && http_is_blank(text.at[text.len - 1]))
        text.len--;
    return text;
}

/* No control byte is right anywhere: a TLS handshake or other binary is refused at once. */
static bool has_control_bytes(const struct http_text *text)
{
    for (size_t i = 0; i < text->len; i++) {
        unsigned char byte = (unsigned char)text->at[i];
        if ((byte < ' ' && byte != '\t') || byte == 0x7f)
            return true;
    }
    return false;
}

static int parse_request_line(struct http_text line, struct http_request *ret)
{
    struct http_text method, target;
    if (!take_until(&line, ' ', &method) || !take_until(&line, ' ', &target) ||
        !is_token(&method) || target.len == 0 || target.at[0] != '/' ||
        (!http_text_equals(&line, "HTTP/1.1") && !http_text_equals(&line, "HTTP/1.0")))
        return HTTP_BAD_REQUEST;
    ret->is_head = http_text_equals(&method, "HEAD");
    if (!ret->is_head && !http_text_equals(&method, "GET"))
        return HTTP_METHOD_NOT_ALLOWED;
    ret->path = target;
    if (take_until(&target, '?', &ret->path))
        ret->query = target;
    return HTTP_OK;
}

static bool contains_ignoring_case(struct http_text text, const char *word)
{
    size_t len = strlen(word);
    for (; text.len >= len; text.at++, text.len--) {
        if (strncasecmp(text.at, word, len) == 0)
            return true;
    }
    return false;
}

static int parse_authorization(struct http_text value, struct http_request *ret)
{
    struct http_text scheme;
    if (ret->bearer.at != NULL)
        return HTTP_BAD_REQUEST;
    ret->bearer.at = "";
    if (take_until(&value, ' ', &scheme) && equals_ignoring_case(&scheme, "Bearer"))
        ret->bearer = strip(value);
    return HTTP_OK;
}

static int parse_header(struct http_text line, struct http_request *ret)
{
    struct http_text name;
    if (!take_until(&line, ':', &name) || !is_token(&name))
        return HTTP_BAD_REQUEST; /* a folded line, too */
    struct http_text value = strip(line);
    if (equals_ignoring_case(&name, "Authorization"))
        return parse_authorization(value, ret);
    if (equals_ignoring_case(&name, "Host"))
        ret->host = value;
    if (equals_ignoring_case(&name, "Accept"))
        ret->takes_openmetrics |= contains_ignoring_case(value, "application/openmetrics-text");
    return HTTP_OK;
}

bool http_host_is_no_name(const struct http_request *request)
{
    struct http_text host = request->host, name;
    if (host.len == 0 || host.at[0] == '[')
        return true;
    if (take_until(&host, ':', &name))
        host = name;
    if (equals_ignoring_case(&host, "localhost"))
        return true;
    for (size_t i = 0; i < host.len; i++)
        if (!isdigit((unsigned char)host.at[i]) && host.at[i] != '.')
            return false;
    return true;
}

int http_request_parse(const char *bytes, size_t len, struct http_request *ret)
{
    struct http_text left = {bytes, len}, line;
    *ret = (struct http_request){.is_head = false};
    int result = 0;
    while (http_take_line(&left, &line)) {
        if (has_control_bytes(&line))
            return HTTP_BAD_REQUEST;
        if (result == 0)
            result = parse_request_line(line, ret);
        else if (line.len > 0)
            result = parse_header(line, ret);
        else
            return result;
        if (result != HTTP_OK)
            return result;
    }
    if (left.len > 0 && left.at[left.len - 1] == '\r')
        left.len--; /* half a CRLF */
    if (has_control_bytes(&left))
        return HTTP_BAD_REQUEST;
    return len >= HTTP_REQUEST_MAX ? HTTP_HEADERS_TOO_LARGE : 0;
}

/* ---- the query ---- */

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool decode(struct http_text from, char *out, size_t out_size)
{
    size_t used = 0;
    while (from.len > 0) {
        int byte = (unsigned char)from.at[0];
        size_t taken = 1;
        if (byte == '%') {
            int high = from.len > 2 ? hex_digit(from.at[1]) : -1;
            int low = from.len > 2 ? hex_digit(from.at[2]) : -1;
            byte = high < 0 || low < 0 ? 0 : high << 4 | low;
            taken = 3;
        }
        if (byte == 0 || used + 1 >= out_size)
            return false;
        out[used++] = (char)byte;
        from.at += taken;
        from.len -= taken;
    }
    out[used] = '\0';
    return true;
}

bool http_query_find(const struct http_request *request, const char *key, char *out,
                     size_t out_size)
{
    struct http_text left = request->query, pair, name;
    while (left.len > 0) {
        if (!take_until(&left, '&', &pair)) {
            pair = left;
            left.len = 0;
        }
        if (take_until(&pair, '=', &name) && http_text_equals(&name, key))
            return decode(pair, out, out_size);
    }
    return false;
}

/* ---- the answer ---- */

size_t http_answer_head(const struct http_answer *answer, char out[static HTTP_HEAD_MAX])
{
    const char *reason = "";
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        if (reasons[i].status == answer->status)
            reason = reasons[i].reason;
    }
    int len = snprintf(out, HTTP_HEAD_MAX,
                       "HTTP/1.1 %d %s\r\n"
                       "Content-Type: %s\r\n"
                       "Content-Length: %zu\r\n"
                       "Connection: close\r\n"
                       "Cache-Control: no-store\r\n"
                       "X-Content-Type-Options: nosniff\r\n"
                       "Referrer-Policy: no-referrer\r\n"
                       "%s\r\n",
                       answer->status, reason, answer->content_type, answer->length,
                       answer->more != NULL ? answer->more : "");
    return MIN((size_t)len, (size_t)HTTP_HEAD_MAX - 1);
}
