#include "net/http.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

static struct http_request request;

static int parse(const char *text)
{
    return http_request_parse(text, strlen(text), &request);
}

static void assert_text(const struct http_text *text, const char *wanted)
{
    cr_assert(http_text_equals(text, wanted), "\"%.*s\", not \"%s\"", (int)text->len, text->at,
              wanted);
}

Test(http, a_request_of_curl)
{
    cr_assert_eq(parse("GET /status?service=a HTTP/1.1\r\nHost: x:9100\r\n"
                       "User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"),
                 HTTP_OK);
    assert_text(&request.path, "/status");
    assert_text(&request.query, "service=a");
    cr_assert_not(request.is_head);
    cr_assert_not(request.takes_openmetrics);
    cr_assert_eq(request.bearer.at, NULL);
}

Test(http, a_request_of_prometheus)
{
    cr_assert_eq(parse("GET /metrics HTTP/1.1\r\nHost: x\r\n"
                       "accept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n"
                       "AUTHORIZATION:  bearer  secret \r\n\r\n"),
                 HTTP_OK);
    cr_assert(request.takes_openmetrics);
    assert_text(&request.bearer, "secret");
    cr_assert_eq(request.query.at, NULL);
}

Test(http, head_and_version_1_0_and_lone_newlines)
{
    cr_assert_eq(parse("HEAD / HTTP/1.0\n\n"), HTTP_OK);
    cr_assert(request.is_head);
    assert_text(&request.path, "/");
}

Test(http, every_prefix_is_incomplete)
{
    const char text[] = "GET /a HTTP/1.1\r\nHost: x\r\nAccept: y\r\n\r\n";
    for (size_t len = 0; len < sizeof(text) - 1; len++)
        cr_assert_eq(http_request_parse(text, len, &request), 0, "%zu bytes", len);
    cr_assert_eq(parse(text), HTTP_OK);
}

Test(http, what_follows_is_ignored)
{
    cr_assert_eq(parse("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"), HTTP_OK);
    assert_text(&request.path, "/a");
}

Test(http, other_methods)
{
    cr_assert_eq(parse("POST / HTTP/1.1\r\n\r\n"), HTTP_METHOD_NOT_ALLOWED);
    cr_assert_eq(parse("get / HTTP/1.1\r\n\r\n"), HTTP_METHOD_NOT_ALLOWED);
    cr_assert_eq(parse("OPTIONS / HTTP/1.1\r\n\r\n"), HTTP_METHOD_NOT_ALLOWED);
}

Test(http, bad_requests)
{
    static const char *const texts[] = {
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2\r\n\r\n",
        "GET / HTTP/1.1 x\r\n\r\n",
        "GET status HTTP/1.1\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n",
        "G{T / HTTP/1.1\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nA : x\r\n\r\n",
        "GET / HTTP/1.1\r\nA: x\r\n folded: y\r\n\r\n",
        "GET / HTTP/1.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: \x01\r\n",
        "GET /\r/ HTTP/1.1\r\n",
        "\x16\x03\x01\x02",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        cr_assert_eq(parse(texts[i]), HTTP_BAD_REQUEST, "%zu", i);
    cr_assert_eq(http_request_parse("GET /\0", 6, &request), HTTP_BAD_REQUEST);
}

Test(http, other_schemes_are_no_token)
{
    cr_assert_eq(parse("GET / HTTP/1.1\r\nAuthorization: Basic secret\r\n\r\n"), HTTP_OK);
    cr_assert_eq(request.bearer.len, 0);
    cr_assert_eq(parse("GET / HTTP/1.1\r\nAuthorization: Bearer\r\n\r\n"), HTTP_OK);
    cr_assert_eq(request.bearer.len, 0);
}

Test(http, hosts_that_are_names)
{
    static const struct {
        const char *lines;
        bool is_no_name;
    } rows[] = {
        {"", true},
        {"Host:\r\n", true},
        {"Host: localhost\r\n", true},
        {"host: LOCALHOST:9100\r\n", true},
        {"Host: 127.0.0.1:9100\r\n", true},
        {"Host: [::1]:9100\r\n", true},
        {"Host: example.com\r\n", false},
        {"Host: example.com:9100\r\n", false},
        {"Host: localhost.example.com\r\n", false},
        {"Host: 127.0.0.1.example.com:9100\r\n", false},
        {"Host: 127.0.0.1\r\nHost: example.com\r\n", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[128];
        (void)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n%s\r\n", rows[i].lines);
        cr_assert_eq(parse(text), HTTP_OK);
        cr_expect_eq(http_host_is_no_name(&request), rows[i].is_no_name, "%s", rows[i].lines);
    }
}

Test(http, too_large)
{
    static char text[HTTP_REQUEST_MAX + 1];
    int len = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nA: ");
    memset(text + len, 'a', sizeof(text) - 1 - (size_t)len);
    cr_assert_eq(http_request_parse(text, HTTP_REQUEST_MAX - 1, &request), 0);
    cr_assert_eq(http_request_parse(text, HTTP_REQUEST_MAX, &request), HTTP_HEADERS_TOO_LARGE);
}

static const char *query(const char *text, const char *key)
{
    static char out[20];
    request = (struct http_request){.query = {text, strlen(text)}};
    return http_query_find(&request, key, out, sizeof(out)) ? out : NULL;
}

Test(http, queries)
{
    cr_assert_str_eq(query("service=web", "service"), "web");
    cr_assert_str_eq(query("a=b&service=my%20n%C3%A4s&c", "service"), "my n\xc3\xa4s");
    cr_assert_str_eq(query("service=", "service"), "");
    cr_assert_str_eq(query("service=a+b=c", "service"), "a+b=c");
    cr_assert_eq(query("service", "service"), NULL);
    cr_assert_eq(query("services=x", "service"), NULL);
    cr_assert_eq(query("service=%", "service"), NULL);
    cr_assert_eq(query("service=%2", "service"), NULL);
    cr_assert_eq(query("service=%zz", "service"), NULL);
    cr_assert_eq(query("service=a%00b", "service"), NULL);
    cr_assert_str_eq(query("service=0123456789012345678", "service"), "0123456789012345678");
    cr_assert_eq(query("service=01234567890123456789", "service"), NULL);
    cr_assert_eq(query("", "service"), NULL);
}

Test(http, an_answer)
{
    char head[HTTP_HEAD_MAX];
    const struct http_answer answer = {HTTP_NOT_FOUND, "text/plain", 12, "Allow: GET\r\n"};
    size_t len = http_answer_head(&answer, head);
    cr_assert_eq(strlen(head), len);
    cr_assert_eq(strncmp(head, "HTTP/1.1 404 Not Found\r\n", 24), 0);
    cr_assert_not_null(strstr(head, "\r\nContent-Length: 12\r\n"));
    cr_assert_not_null(strstr(head, "\r\nConnection: close\r\n"));
    cr_assert_str_eq(head + len - 16, "\r\nAllow: GET\r\n\r\n");
}
