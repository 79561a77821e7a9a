#include "crypto/client_hello.h"

#include <errno.h>
#include <stdbool.h>

#include "base/limits.h"

enum {
    RECORD_HEADER_SIZE = 5,
    RECORD_MAX = 1 << 14, /* RFC 8446 section 5.1 */
    MESSAGE_HEADER_SIZE = 4,
    CLIENT_HELLO_MESSAGE = 1,
    EXTENSION_SERVER_NAME = 0,
    NAME_TYPE_HOST = 0,
};

static size_t hello_number_at(const uint8_t *bytes, unsigned int count)
{
    size_t number = 0;
    for (unsigned int i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* ---- is it whole? ---- */

enum client_hello client_hello_look(const uint8_t *bytes, size_t size, size_t *ret_needed)
{
    uint8_t header[MESSAGE_HEADER_SIZE];
    size_t have = 0, at = 0; /* bytes of the message; bytes of the stream */
    while (size - at >= RECORD_HEADER_SIZE) {
        size_t length = hello_number_at(bytes + at + 3, 2);
        if (bytes[at] != CLIENT_HELLO_FIRST_BYTE || length == 0 || length > RECORD_MAX)
            return CLIENT_HELLO_NONE;
        at += RECORD_HEADER_SIZE;
        size_t there = MIN(length, size - at);
        for (size_t i = 0; i < there && have + i < MESSAGE_HEADER_SIZE; i++)
            header[have + i] = bytes[at + i];
        have += there;
        at += there;
        size_t needed = have >= MESSAGE_HEADER_SIZE ? hello_number_at(header + 1, 3) : 0;
        if (have >= MESSAGE_HEADER_SIZE && header[0] != CLIENT_HELLO_MESSAGE)
            return CLIENT_HELLO_NONE;
        if (needed > LIMIT_TLS_HELLO)
            return CLIENT_HELLO_TOO_LARGE;
        if (have >= MESSAGE_HEADER_SIZE + needed && have >= MESSAGE_HEADER_SIZE)
            return CLIENT_HELLO_WHOLE;
        if (there < length) {
            size_t rest = MESSAGE_HEADER_SIZE + needed - MIN(have, MESSAGE_HEADER_SIZE + needed);
            *ret_needed = at + MIN(length - there, MAX(rest, (size_t)1));
            return CLIENT_HELLO_MORE;
        }
    }
    *ret_needed = at + RECORD_HEADER_SIZE;
    return CLIENT_HELLO_MORE;
}

/* ---- the name in it ---- */

/* Reads the message and leaves the headers of its records out. A read beyond the end, or beyond
 * `left`, sets has_failed and gives zeros from then on. */
struct hello_reader {
    const uint8_t *at, *end;
    size_t left_in_record;
    size_t left; /* of what is read: the message, then its extensions, then one of these */
    bool has_failed;
};

static uint8_t hello_byte(struct hello_reader *reader)
{
    while (reader->left_in_record == 0 && reader->end - reader->at >= RECORD_HEADER_SIZE) {
        reader->left_in_record = hello_number_at(reader->at + 3, 2);
        reader->at += RECORD_HEADER_SIZE;
    }
    if (reader->left == 0 || reader->left_in_record == 0 || reader->at == reader->end) {
        reader->has_failed = true;
        return 0;
    }
    reader->left--;
    reader->left_in_record--;
    return *reader->at++;
}

static size_t hello_number(struct hello_reader *reader, unsigned int count)
{
    size_t number = 0;
    for (unsigned int i = 0; i < count; i++)
        number = number << 8 | hello_byte(reader);
    return number;
}

static void hello_skip(struct hello_reader *reader, size_t count)
{
    while (count-- > 0 && !reader->has_failed)
        (void)hello_byte(reader);
}

/* Reads a length, which has to fit into what is left, and reads no further than that. */
static size_t hello_enter(struct hello_reader *reader, unsigned int count)
{
    size_t length = hello_number(reader, count), outside = reader->left;
    reader->has_failed |= length > outside;
    reader->left = MIN(length, outside);
    return outside - reader->left;
}

static int hello_name(struct hello_reader *reader, char out[static HOST_NAME_SIZE])
{
    char name[HOST_NAME_SIZE + 1]; /* one may end with a dot */
    (void)hello_enter(reader, 2);
    while (reader->left > 0 && !reader->has_failed) {
        size_t type = hello_number(reader, 1), length = hello_number(reader, 2);
        if (type != NAME_TYPE_HOST) {
            hello_skip(reader, length);
            continue;
        }
        if (length > HOST_NAME_SIZE)
            return -EINVAL;
        for (size_t i = 0; i < length; i++)
            name[i] = (char)hello_byte(reader);
        return reader->has_failed ? -EINVAL : host_name_canonical(name, length, out);
    }
    return reader->has_failed ? -EINVAL : -ENOENT;
}

int client_hello_server_name(const uint8_t *bytes, size_t size, char out[static HOST_NAME_SIZE])
{
    enum { VERSION_AND_RANDOM = 2 + 32 };
    struct hello_reader reader = {.at = bytes, .end = bytes + size, .left = SIZE_MAX};
    hello_skip(&reader, 1);
    (void)hello_enter(&reader, 3);
    hello_skip(&reader, VERSION_AND_RANDOM);
    hello_skip(&reader, hello_number(&reader, 1)); /* session id */
    hello_skip(&reader, hello_number(&reader, 2)); /* cipher suites */
    hello_skip(&reader, hello_number(&reader, 1)); /* compression methods */
    if (reader.has_failed)
        return -EINVAL;
    if (reader.left == 0)
        return -ENOENT; /* TLS 1.2 without extensions */
    (void)hello_enter(&reader, 2);
    while (reader.left > 0 && !reader.has_failed) {
        size_t type = hello_number(&reader, 2), behind = hello_enter(&reader, 2);
        if (type == EXTENSION_SERVER_NAME && !reader.has_failed)
            return hello_name(&reader, out);
        hello_skip(&reader, reader.left);
        reader.left = behind;
    }
    return reader.has_failed ? -EINVAL : -ENOENT;
}
