/* Encoding and decoding of the wire's messages, version 1 (rathole v0.5).
 *
 *   client                                        server
 *   hello(CONTROL, service digest)  37 ->
 *                                      <- 37      hello(CONTROL, nonce)
 *   auth(SHA-256(token || nonce))   32 ->
 *                                      <-  4      ack
 *                                      <-  4      command, any number of them
 *
 *   hello(DATA, session key)        37 ->                        (another connection)
 *                                      <-  4      data command; the visitor's bytes follow
 *
 * The numbers are sizes in bytes, which are fixed. Integers are little endian, and nothing is
 * padded. A stream cannot be resynchronised after a bad message. A decoder takes exactly one
 * message; another size is ERR_PROTOCOL, like an unknown tag. Pure functions on the caller's
 * memory. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum message_sizes {
    MESSAGE_TAG_SIZE = 4,
    MESSAGE_VERSION_SIZE = 1,
    MESSAGE_DIGEST_SIZE = 32,
    MESSAGE_HELLO_SIZE = MESSAGE_TAG_SIZE + MESSAGE_VERSION_SIZE + MESSAGE_DIGEST_SIZE,
    MESSAGE_AUTH_SIZE = MESSAGE_DIGEST_SIZE, /* no tag */
    MESSAGE_ACK_SIZE = MESSAGE_TAG_SIZE,
    MESSAGE_COMMAND_SIZE = MESSAGE_TAG_SIZE,
    MESSAGE_DATA_COMMAND_SIZE = MESSAGE_TAG_SIZE,
};
static_assert(MESSAGE_HELLO_SIZE == 37, "the peer reads 37 bytes");
static_assert(MESSAGE_AUTH_SIZE == 32, "the peer reads 32 bytes");
static_assert(MESSAGE_ACK_SIZE == 4, "the peer reads 4 bytes");
static_assert(MESSAGE_COMMAND_SIZE == 4, "the peer reads 4 bytes");
static_assert(MESSAGE_DATA_COMMAND_SIZE == 4, "the peer reads 4 bytes");

enum { MESSAGE_VERSION = 1 };

/* The values of these enums are those on the wire. */
enum message_hello_tag { MESSAGE_HELLO_CONTROL, MESSAGE_HELLO_DATA, MESSAGE_HELLO_COUNT };
enum message_ack {
    MESSAGE_ACK_OK,
    MESSAGE_ACK_NO_SERVICE,
    MESSAGE_ACK_AUTH_FAILED,
    MESSAGE_ACK_COUNT,
};
enum message_command {
    MESSAGE_COMMAND_CREATE_CHANNEL,
    MESSAGE_COMMAND_HEARTBEAT,
    MESSAGE_COMMAND_COUNT,
};
enum message_data_command {
    MESSAGE_DATA_START_TCP,
    MESSAGE_DATA_START_UDP,
    MESSAGE_DATA_START_SOCKET_STREAM, /* rathole 0.6: type = "socket_stream"; as TCP for a client */
    MESSAGE_DATA_COMMAND_COUNT,
};

struct message_hello {
    enum message_hello_tag tag;
    /* CONTROL: from the client the digest of the service's name, from the server the nonce; DATA:
     * the session key */
    uint8_t digest[MESSAGE_DIGEST_SIZE];
};

void message_hello_encode(enum message_hello_tag tag,
                          const uint8_t digest[static MESSAGE_DIGEST_SIZE],
                          uint8_t out[static MESSAGE_HELLO_SIZE]);
/* ERR_PROTOCOL: unknown tag or wrong size. ERR_VERSION: a Hello of another version. */
MUST_CHECK int message_hello_decode(const uint8_t *bytes, size_t len, struct message_hello *ret);

void message_auth_encode(const uint8_t digest[static MESSAGE_DIGEST_SIZE],
                         uint8_t out[static MESSAGE_AUTH_SIZE]);
MUST_CHECK int message_auth_decode(const uint8_t *bytes, size_t len,
                                   uint8_t ret[static MESSAGE_DIGEST_SIZE]);

void message_ack_encode(enum message_ack ack, uint8_t out[static MESSAGE_ACK_SIZE]);
MUST_CHECK int message_ack_decode(const uint8_t *bytes, size_t len, enum message_ack *ret);

void message_command_encode(enum message_command command, uint8_t out[static MESSAGE_COMMAND_SIZE]);
MUST_CHECK int message_command_decode(const uint8_t *bytes, size_t len, enum message_command *ret);

void message_data_command_encode(enum message_data_command command,
                                 uint8_t out[static MESSAGE_DATA_COMMAND_SIZE]);
MUST_CHECK int message_data_command_decode(const uint8_t *bytes, size_t len,
                                           enum message_data_command *ret);

/* rathole's names ("ServiceNotExist"), for logs; never NULL. */
const char *message_hello_name(enum message_hello_tag tag);
const char *message_ack_name(enum message_ack ack);
const char *message_command_name(enum message_command command);
const char *message_data_command_name(enum message_data_command command);
