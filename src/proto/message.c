#include "proto/message.h"

#include "base/error.h"
#include "proto/wire.h"

/* rathole's names, so that the logs of both programs can be compared. */
static const char *const hello_names[] = {
    [MESSAGE_HELLO_CONTROL] = "ControlChannelHello",
    [MESSAGE_HELLO_DATA] = "DataChannelHello",
};
static_assert(ARRAY_SIZE(hello_names) == MESSAGE_HELLO_COUNT, "a name for each hello");

static const char *const ack_names[] = {
    [MESSAGE_ACK_OK] = "Ok",
    [MESSAGE_ACK_NO_SERVICE] = "ServiceNotExist",
    [MESSAGE_ACK_AUTH_FAILED] = "AuthFailed",
};
static_assert(ARRAY_SIZE(ack_names) == MESSAGE_ACK_COUNT, "a name for each ack");

static const char *const command_names[] = {
    [MESSAGE_COMMAND_CREATE_CHANNEL] = "CreateDataChannel",
    [MESSAGE_COMMAND_HEARTBEAT] = "HeartBeat",
};
static_assert(ARRAY_SIZE(command_names) == MESSAGE_COMMAND_COUNT, "a name for each command");

static const char *const data_command_names[] = {
    [MESSAGE_DATA_START_TCP] = "StartForwardTcp",
    [MESSAGE_DATA_START_UDP] = "StartForwardUdp",
    [MESSAGE_DATA_START_SOCKET_STREAM] = "StartForwardSocketStream",
};
static_assert(ARRAY_SIZE(data_command_names) == MESSAGE_DATA_COMMAND_COUNT,
              "a name for each data command");

static const char *name_in(const char *const *names, size_t count, size_t index)
{
    return index < count ? names[index] : "unknown";
}

/* A wrong size is a bug in this file; a peer cannot cause it. */
static void finish_writing(const struct wire_writer *writer, size_t size)
{
    size_t len = 0;
    int r = wire_writer_done(writer, &len);
    assert(r == 0 && len == size);
    (void)r;
    (void)size;
}

static uint32_t read_tag(struct wire_reader *reader, uint32_t count)
{
    uint32_t tag = wire_reader_u32(reader);
    if (tag >= count)
        wire_reader_fail(reader, ERR_PROTOCOL);
    return tag;
}

/* An Ack and both kinds of commands are just a tag. */
static void tag_encode(uint32_t tag, uint32_t count, uint8_t out[static MESSAGE_TAG_SIZE])
{
    assert(tag < count);
    struct wire_writer writer;
    wire_writer_init(&writer, out, MESSAGE_TAG_SIZE);
    wire_writer_u32(&writer, tag);
    finish_writing(&writer, MESSAGE_TAG_SIZE);
}

static int tag_decode(const uint8_t *bytes, size_t len, uint32_t count, uint32_t *ret)
{
    struct wire_reader reader;
    wire_reader_init(&reader, bytes, len);
    uint32_t tag = read_tag(&reader, count);
    int r = wire_reader_done(&reader);
    if (r == 0)
        *ret = tag;
    return r;
}

void message_hello_encode(enum message_hello_tag tag,
                          const uint8_t digest[static MESSAGE_DIGEST_SIZE],
                          uint8_t out[static MESSAGE_HELLO_SIZE])
{
    assert(tag < MESSAGE_HELLO_COUNT);
    struct wire_writer writer;
    wire_writer_init(&writer, out, MESSAGE_HELLO_SIZE);
    wire_writer_u32(&writer, tag);
    wire_writer_u8(&writer, MESSAGE_VERSION);
    wire_writer_bytes(&writer, digest, MESSAGE_DIGEST_SIZE);
    finish_writing(&writer, MESSAGE_HELLO_SIZE);
}

int message_hello_decode(const uint8_t *bytes, size_t len, struct message_hello *ret)
{
    struct message_hello hello;
    struct wire_reader reader;
    wire_reader_init(&reader, bytes, len);
    hello.tag = read_tag(&reader, MESSAGE_HELLO_COUNT);
    uint8_t version = wire_reader_u8(&reader);
    wire_reader_bytes(&reader, hello.digest, sizeof(hello.digest));
    /* Checked last: the version of anything else than a Hello means nothing. */
    int r = wire_reader_done(&reader);
    if (r < 0)
        return r;
    if (version != MESSAGE_VERSION)
        return ERR_VERSION;
    *ret = hello;
    return 0;
}

void message_auth_encode(const uint8_t digest[static MESSAGE_DIGEST_SIZE],
                         uint8_t out[static MESSAGE_AUTH_SIZE])
{
    memcpy(out, digest, MESSAGE_AUTH_SIZE);
}

int message_auth_decode(const uint8_t *bytes, size_t len, uint8_t ret[static MESSAGE_DIGEST_SIZE])
{
    if (len != MESSAGE_AUTH_SIZE)
        return ERR_PROTOCOL;
    memcpy(ret, bytes, MESSAGE_AUTH_SIZE);
    return 0;
}

void message_ack_encode(enum message_ack ack, uint8_t out[static MESSAGE_ACK_SIZE])
{
    tag_encode(ack, MESSAGE_ACK_COUNT, out);
}

int message_ack_decode(const uint8_t *bytes, size_t len, enum message_ack *ret)
{
    uint32_t tag;
    int r = tag_decode(bytes, len, MESSAGE_ACK_COUNT, &tag);
    if (r == 0)
        *ret = (enum message_ack)tag;
    return r;
}

void message_command_encode(enum message_command command, uint8_t out[static MESSAGE_COMMAND_SIZE])
{
    tag_encode(command, MESSAGE_COMMAND_COUNT, out);
}

int message_command_decode(const uint8_t *bytes, size_t len, enum message_command *ret)
{
    uint32_t tag;
    int r = tag_decode(bytes, len, MESSAGE_COMMAND_COUNT, &tag);
    if (r == 0)
        *ret = (enum message_command)tag;
    return r;
}

void message_data_command_encode(enum message_data_command command,
                                 uint8_t out[static MESSAGE_DATA_COMMAND_SIZE])
{
    tag_encode(command, MESSAGE_DATA_COMMAND_COUNT, out);
}

int message_data_command_decode(const uint8_t *bytes, size_t len, enum message_data_command *ret)
{
    uint32_t tag;
    int r = tag_decode(bytes, len, MESSAGE_DATA_COMMAND_COUNT, &tag);
    if (r == 0)
        *ret = (enum message_data_command)tag;
    return r;
}

const char *message_hello_name(enum message_hello_tag tag)
{
    return name_in(hello_names, MESSAGE_HELLO_COUNT, tag);
}

const char *message_ack_name(enum message_ack ack)
{
    return name_in(ack_names, MESSAGE_ACK_COUNT, ack);
}

const char *message_command_name(enum message_command command)
{
    return name_in(command_names, MESSAGE_COMMAND_COUNT, command);
}

const char *message_data_command_name(enum message_data_command command)
{
    return name_in(data_command_names, MESSAGE_DATA_COMMAND_COUNT, command);
}
