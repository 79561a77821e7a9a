/* The HTTP/1.1 of a small server (RFC 9112): the head of a request, and the head of an answer. One
 * request for each connection, GET or HEAD, without a body. Pure: bytes in, fields out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

enum {
    HTTP_REQUEST_MAX = 4096, /* of the head */
    HTTP_HEAD_MAX = 1024,    /* of an answer */
};

enum http_status {
    HTTP_OK = 200,
    HTTP_BAD_REQUEST = 400,
    HTTP_UNAUTHORIZED = 401,
    HTTP_NOT_FOUND = 404,
    HTTP_METHOD_NOT_ALLOWED = 405,
    HTTP_REQUEST_TIMEOUT = 408,
    HTTP_MISDIRECTED = 421,
    HTTP_HEADERS_TOO_LARGE = 431,
    HTTP_UNAVAILABLE = 503,
};

/* A piece of the request; NULL: it is not there. */
struct http_text {
    const char *at;
    size_t len;
};

struct http_request {
    bool is_head;
    struct http_text path;   /* begins with '/'; escapes are left as they are */
    struct http_text query;  /* behind the '?' */
    struct http_text bearer; /* of Authorization: Bearer */
    struct http_text host;   /* of Host, with its port */
    bool takes_openmetrics;  /* Accept names application/openmetrics-text */
};

/* 0: the head is not complete. HTTP_OK: *ret points into `bytes`. Any other enum http_status: the
 * request is refused with it. */
MUST_CHECK int http_request_parse(const char *bytes, size_t len, struct http_request *ret);
bool http_text_equals(const struct http_text *text, const char *string);
/* Whether Host is missing, "localhost" or an address, not a name. */
bool http_host_is_no_name(const struct http_request *request);
/* Copies the value of a key of the query, with %XX decoded, and terminates it. False: the key is
 * not there, or its value does not fit or has a NUL. */
bool http_query_find(const struct http_request *request, const char *key, char *out,
                     size_t out_size);

struct http_answer {
    enum http_status status;
    const char *content_type;
    size_t length;
    const char *more; /* further lines, each with CRLF; NULL: none */
};
/* Writes the head of an answer, after which the connection is closed. Returns its length. */
size_t http_answer_head(const struct http_answer *answer, char out[static HTTP_HEAD_MAX]);
