/* The ClientHello is made here, field by field; tests/fuzz/corpus/route has those of OpenSSL. */
#include "crypto/client_hello.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/limits.h"

struct bytes {
    uint8_t at[32 << 10];
    size_t size;
};

static void put(struct bytes *out, const void *from, size_t size)
{
    cr_assert_leq(out->size + size, sizeof(out->at));
    memcpy(out->at + out->size, from, size);
    out->size += size;
}

static void put_number(struct bytes *out, size_t number, unsigned int count)
{
    while (count-- > 0)
        put(out, &(uint8_t){(uint8_t)(number >> 8 * count)}, 1);
}

/* One with that server_name (NULL: none), and `more` bytes in another extension. */
static struct bytes message_of(const char *name, size_t more)
{
    struct bytes extensions = {.size = 0}, body = {.size = 0}, message = {.size = 0};
    static const uint8_t zeros[32 << 10];
    put_number(&extensions, 0xfafa, 2);
    put_number(&extensions, more, 2);
    put(&extensions, zeros, more);
    if (name != NULL) {
        size_t size = strlen(name);
        put_number(&extensions, 0, 2);
        put_number(&extensions, size + 5, 2);
        put_number(&extensions, size + 3, 2);
        put_number(&extensions, 0, 1);
        put_number(&extensions, size, 2);
        put(&extensions, name, size);
    }
    put_number(&body, 0x0303, 2);
    put(&body, zeros, 32);
    put_number(&body, 32, 1);
    put(&body, zeros, 32);
    put_number(&body, 4, 2);
    put_number(&body, 0x13011302, 4);
    put_number(&body, 1, 1);
    put_number(&body, 0, 1);
    put_number(&body, extensions.size, 2);
    put(&body, extensions.at, extensions.size);
    put_number(&message, 1, 1);
    put_number(&message, body.size, 3);
    put(&message, body.at, body.size);
    return message;
}

static struct bytes records_of(const struct bytes *message, size_t each)
{
    struct bytes out = {.size = 0};
    for (size_t at = 0; at < message->size; at += each) {
        size_t size = MIN(each, message->size - at);
        put_number(&out, 22, 1);
        put_number(&out, 0x0301, 2);
        put_number(&out, size, 2);
        put(&out, message->at + at, size);
    }
    return out;
}

static void expect_name(const struct bytes *hello, const char *expected)
{
    char name[HOST_NAME_SIZE];
    size_t needed;
    cr_expect_eq(client_hello_look(hello->at, hello->size, &needed), CLIENT_HELLO_WHOLE);
    cr_assert_eq(client_hello_server_name(hello->at, hello->size, name), 0);
    cr_expect_str_eq(name, expected);
}

Test(client_hello, the_name_in_records_of_any_size)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 7, 64, 16384};
    const struct bytes message = message_of("A.Example.com", 40);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct bytes hello = records_of(&message, sizes[i]);
        expect_name(&hello, "a.example.com");
    }
}

/* Who gets what it asks for each time comes to the end, and never asks for what is there. */
Test(client_hello, what_is_needed_is_never_there_already)
{
    static const size_t sizes[] = {1, 3, 64, 16384};
    const struct bytes message = message_of("a.example.com", 500);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct bytes hello = records_of(&message, sizes[i]);
        size_t looks = 0, size = 0, needed = 0;
        while (client_hello_look(hello.at, size, &needed) == CLIENT_HELLO_MORE) {
            cr_assert_gt(needed, size);
            cr_assert_leq(needed, hello.size);
            /* As if it were not there yet, although all before is. */
            cr_assert_eq(client_hello_look(hello.at, needed - 1, &(size_t){0}), CLIENT_HELLO_MORE);
            size = needed;
            looks++;
        }
        cr_expect_eq(size, hello.size);
        cr_expect_leq(looks, sizes[i] == 16384 ? 3 : 2 * hello.size);
    }
}

Test(client_hello, without_a_name)
{
    char name[HOST_NAME_SIZE];
    struct bytes message = message_of(NULL, 0);
    struct bytes hello = records_of(&message, 16384);
    cr_expect_eq(client_hello_server_name(hello.at, hello.size, name), -ENOENT);
    message.size -= 4 + 2; /* TLS 1.2 may have no extensions at all */
    message.at[3] = (uint8_t)(message.size - 4);
    hello = records_of(&message, 16384);
    cr_expect_eq(client_hello_server_name(hello.at, hello.size, name), -ENOENT);
    message = message_of("not/a name", 0);
    hello = records_of(&message, 16384);
    cr_expect_eq(client_hello_server_name(hello.at, hello.size, name), -EINVAL);
}

Test(client_hello, every_length_may_lie)
{
    char name[HOST_NAME_SIZE];
    const struct bytes message = message_of("a.example.com", 3);
    for (size_t i = 4; i < message.size; i++) {
        struct bytes lies = message;
        lies.at[i] = 0xff;
        const struct bytes hello = records_of(&lies, 16384);
        int result = client_hello_server_name(hello.at, hello.size, name);
        cr_expect(result == 0 || result == -EINVAL || result == -ENOENT, "byte %zu: %d", i, result);
    }
}

Test(client_hello, what_is_none)
{
    size_t needed;
    struct bytes hello = {.size = 0};
    cr_expect_eq(client_hello_look((const uint8_t *)"GET /", 5, &needed), CLIENT_HELLO_NONE);
    cr_expect_eq(client_hello_look((const uint8_t *)"SSH-", 4, &needed), CLIENT_HELLO_MORE);
    cr_expect_eq(needed, 5);
    cr_expect_eq(client_hello_look(hello.at, 0, &needed), CLIENT_HELLO_MORE);
    const struct bytes message = message_of("a", 0);
    hello = records_of(&message, 16384);
    hello.at[5] = 2; /* a ServerHello */
    cr_expect_eq(client_hello_look(hello.at, hello.size, &needed), CLIENT_HELLO_NONE);
    hello.at[5] = 1;
    hello.at[6] = 1; /* 64 KiB more */
    cr_expect_eq(client_hello_look(hello.at, hello.size, &needed), CLIENT_HELLO_TOO_LARGE);
    hello.at[3] = 0x7f; /* a record of 32 KiB */
    cr_expect_eq(client_hello_look(hello.at, hello.size, &needed), CLIENT_HELLO_NONE);
}
