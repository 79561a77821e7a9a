/* Every decoder gets the same bytes. An accepted message encodes to the same bytes, a refused one
 * leaves the result untouched, and only the exact size is accepted. */
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "proto/message.h"

enum { UNTOUCHED = 77 };

static void check_hello(const uint8_t *data, size_t size)
{
    struct message_hello hello = {.tag = MESSAGE_HELLO_COUNT};
    uint8_t again[MESSAGE_HELLO_SIZE];
    int r = message_hello_decode(data, size, &hello);
    if (r < 0) {
        FUZZ_CHECK(r == ERR_PROTOCOL || (r == ERR_VERSION && size == MESSAGE_HELLO_SIZE));
        FUZZ_CHECK(hello.tag == MESSAGE_HELLO_COUNT);
        return;
    }
    FUZZ_CHECK(size == sizeof(again));
    message_hello_encode(hello.tag, hello.digest, again);
    FUZZ_CHECK(memcmp(data, again, sizeof(again)) == 0);
}

static void check_auth(const uint8_t *data, size_t size)
{
    uint8_t digest[MESSAGE_DIGEST_SIZE], again[MESSAGE_AUTH_SIZE];
    if (message_auth_decode(data, size, digest) < 0) {
        FUZZ_CHECK(size != MESSAGE_AUTH_SIZE);
        return;
    }
    FUZZ_CHECK(size == MESSAGE_AUTH_SIZE);
    message_auth_encode(digest, again);
    FUZZ_CHECK(memcmp(data, again, sizeof(again)) == 0);
}

static void check_tag(int result, int decoded, const uint8_t *data, size_t size,
                      const uint8_t again[static MESSAGE_TAG_SIZE])
{
    if (result < 0) {
        FUZZ_CHECK(result == ERR_PROTOCOL && decoded == UNTOUCHED);
        return;
    }
    FUZZ_CHECK(size == MESSAGE_TAG_SIZE && memcmp(data, again, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[MESSAGE_TAG_SIZE];
    check_hello(data, size);
    check_auth(data, size);

    enum message_ack ack = (enum message_ack)UNTOUCHED;
    int r = message_ack_decode(data, size, &ack);
    if (r == 0)
        message_ack_encode(ack, again);
    check_tag(r, (int)ack, data, size, again);

    enum message_command command = (enum message_command)UNTOUCHED;
    r = message_command_decode(data, size, &command);
    if (r == 0)
        message_command_encode(command, again);
    check_tag(r, (int)command, data, size, again);

    enum message_data_command data_command = (enum message_data_command)UNTOUCHED;
    r = message_data_command_decode(data, size, &data_command);
    if (r == 0)
        message_data_command_encode(data_command, again);
    check_tag(r, (int)data_command, data, size, again);
    return 0;
}
