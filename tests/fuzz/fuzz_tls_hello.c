/* A server's first bytes, at once and in pieces of the size that the first byte says: the result is
 * the same, what is held is what has come, and no more than a ClientHello may have. */
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "tls_priv.h"

static int take_in_pieces(const uint8_t *data, size_t size, size_t piece)
{
    struct tls_session session = {0};
    int result = CLIENT_HELLO_MORE;
    size_t at = 0;
    while (at < size && result == CLIENT_HELLO_MORE) {
        const void *in = data + at;
        size_t length = MIN(piece, size - at);
        result = tls_hello_take(&session, &in, &length);
        at += MIN(piece, size - at);
        if (result == CLIENT_HELLO_MORE) {
            FUZZ_CHECK(session.held_size == at && memcmp(session.held, data, at) == 0);
            FUZZ_CHECK(at <= LIMIT_TLS_HELLO + 4096);
        } else if (result > 0) {
            FUZZ_CHECK(length == at && memcmp(in, data, at) == 0);
        } else {
            FUZZ_CHECK(result == ERR_HANDSHAKE && session.why != NULL);
        }
    }
    tls_hello_drop(&session);
    free(session.why);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > LIMIT_TLS_HELLO)
        return 0;
    int result = take_in_pieces(data + 1, size - 1, size);
    FUZZ_CHECK(take_in_pieces(data + 1, size - 1, 1 + (size_t)data[0]) == result);
    return 0;
}
