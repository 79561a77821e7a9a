/* A request of a stranger, in one piece and in pieces: both must say the same, and every text that
 * is found lies inside the request. */
#include <string.h>

#include "fuzz.h"
#include "net/http.h"

static void check_inside(const struct http_text *text, const char *bytes, size_t size)
{
    FUZZ_CHECK(text->len == 0 || (text->at >= bytes && text->at + text->len <= bytes + size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_request request;
    char service[64];
    char *bytes = calloc(1, size + 1); /* of its own, so that a read beyond it is seen */
    if (bytes == NULL)
        return 0;
    size = size < HTTP_REQUEST_MAX ? size : HTTP_REQUEST_MAX;
    if (size > 0)
        memcpy(bytes, data, size);
    int whole = http_request_parse(bytes, size, &request);
    if (whole == HTTP_OK) {
        check_inside(&request.path, bytes, size);
        check_inside(&request.query, bytes, size);
        check_inside(&request.bearer, bytes, size);
        FUZZ_CHECK(request.path.len > 0 && request.path.at[0] == '/');
        if (http_query_find(&request, "service", service, sizeof(service)))
            FUZZ_CHECK(strlen(service) < sizeof(service));
    }
    /* A request that is complete stays so, whatever follows, save control bytes. */
    for (size_t len = 0; len < size && size < 300; len++) {
        int part = http_request_parse(bytes, len, &request);
        FUZZ_CHECK(part != HTTP_OK || whole == HTTP_OK || whole == HTTP_BAD_REQUEST);
    }
    free(bytes);
    return 0;
}
