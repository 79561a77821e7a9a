#include "proto/message.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "testing.h"

/* The same tests for acks and both kinds of commands. */
struct tag_codec {
    const char *what;
    uint32_t count;
    void (*encode)(uint32_t tag, uint8_t *out);
    int (*decode)(const uint8_t *bytes, size_t len, uint32_t *ret);
};

#define TAG_CODEC(name)                                                           \
    static void name##_encode_u32(uint32_t tag, uint8_t *out)                     \
    {                                                                             \
        message_##name##_encode((enum message_##name)tag, out);                   \
    }                                                                             \
    static int name##_decode_u32(const uint8_t *bytes, size_t len, uint32_t *ret) \
    {                                                                             \
        enum message_##name value;                                                \
        int r = message_##name##_decode(bytes, len, &value);                      \
        if (r == 0)                                                               \
            *ret = value;                                                         \
        return r;                                                                 \
    }
TAG_CODEC(ack)
TAG_CODEC(command)
TAG_CODEC(data_command)

static const struct tag_codec codecs[] = {
    {"ack", MESSAGE_ACK_COUNT, ack_encode_u32, ack_decode_u32},
    {"command", MESSAGE_COMMAND_COUNT, command_encode_u32, command_decode_u32},
    {"data command", MESSAGE_DATA_COMMAND_COUNT, data_command_encode_u32, data_command_decode_u32},
};

Test(message, tags_round_trip)
{
    for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
        for (uint32_t tag = 0; tag < codecs[i].count; tag++) {
            uint8_t wire[MESSAGE_TAG_SIZE];
            uint32_t decoded = 77;
            codecs[i].encode(tag, wire);
            cr_expect(wire[0] == tag && wire[1] == 0 && wire[2] == 0 && wire[3] == 0);
            cr_expect_eq(codecs[i].decode(wire, sizeof(wire), &decoded), 0);
            cr_expect_eq(decoded, tag, "%s", codecs[i].what);
        }
    }
}

Test(message, other_tags_are_refused)
{
    static const uint32_t tags[] = {2,           3,           4,           5,
                                    255,         256,         257,         0x100u,
                                    0x10000u,    0x1000000u,  0x1000001u,  0x7fffffffu,
                                    0x80000000u, 0x80000001u, 0xfffffffeu, 0xffffffffu};
    for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(tags); j++) {
            uint32_t tag = tags[j], decoded = 77;
            const uint8_t wire[] = {(uint8_t)tag, (uint8_t)(tag >> 8), (uint8_t)(tag >> 16),
                                    (uint8_t)(tag >> 24)};
            int expected = tag < codecs[i].count ? 0 : ERR_PROTOCOL;
            cr_expect_eq(codecs[i].decode(wire, sizeof(wire), &decoded), expected, "%s %u",
                         codecs[i].what, tag);
            cr_expect_eq(decoded, expected == 0 ? tag : 77);
        }
    }
}

Test(message, tags_of_another_size_are_refused)
{
    static const uint8_t zeros[16];
    for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
        for (size_t len = 0; len <= sizeof(zeros); len++) {
            uint32_t decoded;
            cr_expect_eq(codecs[i].decode(zeros, len, &decoded), len == 4 ? 0 : ERR_PROTOCOL);
        }
    }
}

Test(message, hello_round_trip)
{
    struct test_random random = {1};
    for (int round = 0; round < 1000; round++) {
        uint8_t digest[MESSAGE_DIGEST_SIZE], wire[MESSAGE_HELLO_SIZE];
        struct message_hello hello;
        enum message_hello_tag tag = round % 2 == 0 ? MESSAGE_HELLO_CONTROL : MESSAGE_HELLO_DATA;
        test_random_bytes(&random, digest, sizeof(digest));
        message_hello_encode(tag, digest, wire);
        cr_assert_eq(message_hello_decode(wire, sizeof(wire), &hello), 0);
        cr_assert_eq(hello.tag, tag);
        cr_assert(memcmp(hello.digest, digest, sizeof(digest)) == 0);
    }
}

static int decode_patched(size_t at, uint8_t value)
{
    uint8_t digest[MESSAGE_DIGEST_SIZE] = {0}, wire[MESSAGE_HELLO_SIZE];
    struct message_hello hello;
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, wire);
    wire[at] = value;
    return message_hello_decode(wire, sizeof(wire), &hello);
}

Test(message, every_version_and_tag_byte)
{
    for (unsigned int value = 0; value < 256; value++) {
        cr_expect_eq(decode_patched(4, (uint8_t)value), value == 1 ? 0 : ERR_VERSION, "%u", value);
        cr_expect_eq(decode_patched(0, (uint8_t)value), value <= 1 ? 0 : ERR_PROTOCOL, "%u", value);
        for (size_t at = 1; at < 4; at++)
            cr_expect_eq(decode_patched(at, (uint8_t)value), value == 0 ? 0 : ERR_PROTOCOL);
        for (size_t at = 5; at < MESSAGE_HELLO_SIZE; at++)
            cr_expect_eq(decode_patched(at, (uint8_t)value), 0);
    }
}

Test(message, hello_bad_tag_outranks_bad_version)
{
    uint8_t wire[MESSAGE_HELLO_SIZE] = {2, 0, 0, 0, 9};
    struct message_hello hello;
    cr_expect_eq(message_hello_decode(wire, sizeof(wire), &hello), ERR_PROTOCOL);
}

Test(message, hello_of_another_size_is_refused)
{
    uint8_t wire[MESSAGE_HELLO_SIZE + 8] = {0};
    struct message_hello hello, before;
    memset(&hello, 0xa5, sizeof(hello));
    before = hello;
    wire[4] = MESSAGE_VERSION;
    for (size_t len = 0; len <= sizeof(wire); len++) {
        if (len == MESSAGE_HELLO_SIZE)
            continue;
        cr_expect_eq(message_hello_decode(wire, len, &hello), ERR_PROTOCOL, "%zu", len);
        cr_expect(memcmp(&hello, &before, sizeof(hello)) == 0, "%zu", len);
    }
    cr_expect_eq(message_hello_decode(wire, MESSAGE_HELLO_SIZE, &hello), 0);
}

Test(message, auth_round_trip_and_sizes)
{
    struct test_random random = {2};
    uint8_t digest[MESSAGE_DIGEST_SIZE], wire[MESSAGE_AUTH_SIZE + 8], decoded[MESSAGE_DIGEST_SIZE];
    test_random_bytes(&random, wire, sizeof(wire));
    test_random_bytes(&random, digest, sizeof(digest));
    message_auth_encode(digest, wire);
    cr_expect_eq(message_auth_decode(wire, MESSAGE_AUTH_SIZE, decoded), 0);
    cr_expect(memcmp(decoded, digest, sizeof(digest)) == 0);
    for (size_t len = 0; len <= sizeof(wire); len++) {
        memset(decoded, 0xa5, sizeof(decoded));
        int r = message_auth_decode(wire, len, decoded);
        cr_expect_eq(r, len == MESSAGE_AUTH_SIZE ? 0 : ERR_PROTOCOL);
        cr_expect(r == 0 || decoded[0] == 0xa5);
    }
}

Test(message, names)
{
    cr_expect_str_eq(message_hello_name(MESSAGE_HELLO_DATA), "DataChannelHello");
    cr_expect_str_eq(message_ack_name(MESSAGE_ACK_NO_SERVICE), "ServiceNotExist");
    cr_expect_str_eq(message_command_name(MESSAGE_COMMAND_HEARTBEAT), "HeartBeat");
    cr_expect_str_eq(message_data_command_name(MESSAGE_DATA_START_UDP), "StartForwardUdp");
    cr_expect_str_eq(message_hello_name(MESSAGE_HELLO_COUNT), "unknown");
    cr_expect_str_eq(message_ack_name(MESSAGE_ACK_COUNT), "unknown");
    cr_expect_str_eq(message_command_name(MESSAGE_COMMAND_COUNT), "unknown");
    cr_expect_str_eq(message_data_command_name(MESSAGE_DATA_START_SOCKET_STREAM),
                     "StartForwardSocketStream");
    cr_expect_str_eq(message_data_command_name(MESSAGE_DATA_COMMAND_COUNT), "unknown");
}
