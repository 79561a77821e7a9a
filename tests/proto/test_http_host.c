#include "proto/http_host.h"

#include <criterion/criterion.h>
#include <string.h>

static enum http_host look(const char *text, char out[static HOST_NAME_SIZE])
{
    size_t at = 0;
    out[0] = '\0';
    return http_host_look(text, strlen(text), &at, out);
}

static const struct {
    const char *text, *host; /* NULL: HTTP_HOST_NAMELESS */
} requests[] = {
    {"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n", "a.example.com"},
    {"GET / HTTP/1.1\r\nAccept: */*\r\nhost:A.EXAMPLE.com:8080  \r\n", "a.example.com"},
    {"GET / HTTP/1.1\nHost:\ta.example.com.\n", "a.example.com"},
    {"M-SEARCH * HTTP/1.1\r\nHOST: a\r\n", "a"},
    {"GET http://b.example.com:80/x HTTP/1.1\r\nHost: a.example.com\r\n\r\n", "b.example.com"},
    {"GET HTTP://b.example.com HTTP/1.1\r\n", "b.example.com"},
    {"GET http://b?q HTTP/1.0\r\n", "b"},
    {"A-METHOD-OF-THIRTY-TWO-BYTES-YES / HTTP/1.1\r\nHost: a\r\n", "a"},
    {"GET / HTTP/1.0\r\n\r\n", NULL},
    {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", NULL},
    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", NULL},
    {"GET / HTTP/1.1\r\nX-Host: a\r\n Host: b\r\nHost : c\r\n\r\n", NULL},
    {"GET http:/// HTTP/1.1\r\n", NULL},
    {"GET http://a.example:x@b.example/ HTTP/1.1\r\n", NULL},
};

Test(http_host, requests)
{
    char host[HOST_NAME_SIZE];
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        enum http_host found = look(requests[i].text, host);
        cr_expect_eq(found, requests[i].host != NULL ? HTTP_HOST_FOUND : HTTP_HOST_NAMELESS, "%s",
                     requests[i].text);
        if (found == HTTP_HOST_FOUND)
            cr_expect_str_eq(host, requests[i].host);
    }
}

/* Byte by byte, from where the look before has ended, it says the same, and nothing too early. */
Test(http_host, every_cut)
{
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        char whole[HOST_NAME_SIZE], host[HOST_NAME_SIZE];
        enum http_host expected = look(requests[i].text, whole), found = HTTP_HOST_MORE;
        size_t at = 0, size = 0;
        while (found == HTTP_HOST_MORE && size < strlen(requests[i].text))
            found = http_host_look(requests[i].text, ++size, &at, host);
        cr_expect_eq(found, expected, "%s", requests[i].text);
        cr_expect_eq(requests[i].text[size - 1], '\n', "a name may go on until its line ends");
        if (found == HTTP_HOST_FOUND)
            cr_expect_str_eq(host, whole);
    }
}

Test(http_host, what_is_no_request)
{
    static const char *const others[] = {
        "SSH-2.0-OpenSSH_9.2\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\n\r\n",
        "GET /\r\n",
        "GET  HTTP/1.1",
        "\x16\x03\x01",
        "GET / HTTP/1.1x\r\n",
        "{}",
        "\0\0\0",
    };
    char host[HOST_NAME_SIZE];
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        cr_expect_neq(look(others[i], host), HTTP_HOST_FOUND, "%s", others[i]);
    cr_expect_eq(look(others[0], host), HTTP_HOST_NONE);
    cr_expect_eq(look(others[1], host), HTTP_HOST_NONE);
    cr_expect_eq(look(others[3], host), HTTP_HOST_NONE);
    cr_expect_eq(look("GET", host), HTTP_HOST_MORE);
    cr_expect_eq(look("GET-A-METHOD-THAT-DOES-NOT-END-AT-ALL", host), HTTP_HOST_NONE);
    cr_expect_eq(look("", host), HTTP_HOST_MORE);
}
