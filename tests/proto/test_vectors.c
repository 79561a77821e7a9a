/* The golden vectors of the wire, byte for byte. generate_vectors.py lists those that are left
 * out. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "proto/client_fsm.h"
#include "proto/message.h"
#include "proto/server_fsm.h"
#include "proto/udp_frame.h"
#include "wire_vectors.h"

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(vectors, .init = set_up);

static void expect_bytes(const uint8_t *bytes, size_t len, struct vector_bytes expected,
                         const char *name)
{
    cr_expect_eq(len, expected.len, "%s", name);
    cr_expect(memcmp(bytes, expected.bytes, MIN(len, expected.len)) == 0, "%s", name);
}

Test(vectors, service_digests)
{
    for (size_t i = 0; i < ARRAY_SIZE(vector_service_digests); i++) {
        const struct vector_digest *vector = &vector_service_digests[i];
        uint8_t digest[KEYS_DIGEST_SIZE];
        keys_service_digest((const char *)vector->input.bytes, vector->input.len, digest);
        expect_bytes(digest, sizeof(digest), vector->digest, vector->name);
    }
}

Test(vectors, session_keys)
{
    for (size_t i = 0; i < ARRAY_SIZE(vector_session_keys); i++) {
        const struct vector_digest *vector = &vector_session_keys[i];
        uint8_t digest[KEYS_DIGEST_SIZE];
        cr_assert_eq(vector->nonce.len, KEYS_NONCE_SIZE);
        keys_auth_digest((const char *)vector->input.bytes, vector->input.len, vector->nonce.bytes,
                         digest);
        expect_bytes(digest, sizeof(digest), vector->digest, vector->name);
    }
}

/* Decodes, compares the fields and encodes again. Returns the decoder's result. */
static int check_message(enum vector_kind kind, const struct vector_message *vector, uint8_t *out)
{
    const struct vector_bytes *wire = &vector->wire;
    struct message_hello hello;
    uint8_t digest[MESSAGE_DIGEST_SIZE];
    enum message_ack ack = MESSAGE_ACK_COUNT;
    enum message_command command = MESSAGE_COMMAND_COUNT;
    enum message_data_command data_command = MESSAGE_DATA_COMMAND_COUNT;
    int r = ERR_PROTOCOL;
    switch (kind) {
    case VECTOR_HELLO:
        r = message_hello_decode(wire->bytes, wire->len, &hello);
        cr_assert_eq(r, 0, "%s", vector->name);
        cr_expect_eq(hello.tag, vector->tag, "%s", vector->name);
        expect_bytes(hello.digest, sizeof(hello.digest), vector->digest, vector->name);
        message_hello_encode((enum message_hello_tag)vector->tag, vector->digest.bytes, out);
        break;
    case VECTOR_AUTH:
        r = message_auth_decode(wire->bytes, wire->len, digest);
        expect_bytes(digest, sizeof(digest), vector->digest, vector->name);
        message_auth_encode(vector->digest.bytes, out);
        break;
    case VECTOR_ACK:
        r = message_ack_decode(wire->bytes, wire->len, &ack);
        cr_expect_eq(ack, vector->tag, "%s", vector->name);
        message_ack_encode((enum message_ack)vector->tag, out);
        break;
    case VECTOR_COMMAND:
        r = message_command_decode(wire->bytes, wire->len, &command);
        cr_expect_eq(command, vector->tag, "%s", vector->name);
        message_command_encode((enum message_command)vector->tag, out);
        break;
    case VECTOR_DATA_COMMAND:
        r = message_data_command_decode(wire->bytes, wire->len, &data_command);
        cr_expect_eq(data_command, vector->tag, "%s", vector->name);
        message_data_command_encode((enum message_data_command)vector->tag, out);
        break;
    }
    return r;
}

Test(vectors, messages)
{
    for (size_t i = 0; i < ARRAY_SIZE(vector_messages); i++) {
        const struct vector_message *vector = &vector_messages[i];
        uint8_t out[MESSAGE_HELLO_SIZE];
        cr_assert_leq(vector->wire.len, sizeof(out));
        cr_expect_eq(check_message(vector->kind, vector, out), 0, "%s", vector->name);
        cr_expect(memcmp(out, vector->wire.bytes, vector->wire.len) == 0, "%s", vector->name);
    }
}

static void reject_at_server(const struct vector_reject *vector)
{
    struct server_fsm fsm;
    struct server_action action;
    server_fsm_init(&fsm);
    cr_assert_eq(vector->wire.len, server_fsm_wanted(&fsm));
    server_fsm_received(&fsm, vector->wire.bytes, vector->wire.len, &action);
    /* "unknown data hello key" is well formed: the machine leaves the check of the key to its
     * caller. */
    bool is_for_caller = strcmp(vector->name, "unknown data hello key") == 0;
    cr_expect_eq(action.type, is_for_caller ? SERVER_ACTION_DATA_CHANNEL : SERVER_ACTION_CLOSE,
                 "%s", vector->name);
    cr_expect_eq(action.len, 0, "%s: nothing is sent", vector->name);
    server_fsm_finish(&fsm);
}

static void reject_at_client(const struct vector_reject *vector)
{
    struct client_fsm fsm;
    struct client_action action;
    struct client_commands commands;
    uint8_t hello[MESSAGE_HELLO_SIZE], nonce[MESSAGE_DIGEST_SIZE] = {0};
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    client_fsm_init(&fsm);
    client_fsm_start(&fsm, "web", 3, "token", 5, &action);
    if (vector->place != VECTOR_CLIENT_HELLO)
        client_fsm_received(&fsm, hello, sizeof(hello), &action);
    if (vector->place == VECTOR_CLIENT_COMMANDS) {
        client_fsm_received(&fsm, (const uint8_t *)"\0\0\0\0", MESSAGE_ACK_SIZE, &action);
        cr_expect_eq(client_fsm_commands(&fsm, vector->wire.bytes, vector->wire.len, &commands),
                     ERR_PROTOCOL, "%s", vector->name);
    } else {
        cr_assert_eq(vector->wire.len, client_fsm_wanted(&fsm));
        client_fsm_received(&fsm, vector->wire.bytes, vector->wire.len, &action);
        cr_expect_eq(action.type, CLIENT_ACTION_CLOSE, "%s", vector->name);
    }
    cr_expect_eq(fsm.state, CLIENT_FSM_CLOSED, "%s", vector->name);
    client_fsm_finish(&fsm);
}

Test(vectors, rejects)
{
    enum message_data_command command;
    struct udp_frame frame;
    for (size_t i = 0; i < ARRAY_SIZE(vector_rejects); i++) {
        const struct vector_reject *vector = &vector_rejects[i];
        switch (vector->place) {
        case VECTOR_SERVER_HELLO:
            reject_at_server(vector);
            break;
        case VECTOR_CLIENT_HELLO:
        case VECTOR_CLIENT_ACK:
        case VECTOR_CLIENT_COMMANDS:
            reject_at_client(vector);
            break;
        case VECTOR_CLIENT_DATA:
            cr_expect_eq(message_data_command_decode(vector->wire.bytes, vector->wire.len,
                                                     &command),
                         ERR_PROTOCOL, "%s", vector->name);
            break;
        case VECTOR_UDP_CHANNEL:
            cr_expect_eq(udp_frame_decode(vector->wire.bytes, vector->wire.len, &frame),
                         ERR_PROTOCOL, "%s", vector->name);
            break;
        }
    }
}

static void check_udp_frame(const struct vector_udp_frame *vector)
{
    static uint8_t wire[UDP_FRAME_MAX];
    uint8_t head[UDP_FRAME_HEAD_MAX];
    struct udp_frame frame;
    size_t len = vector->head.len;
    memcpy(wire, vector->head.bytes, len);
    if (vector->payload.len == 1)
        memset(wire + len, vector->payload.bytes[0], vector->payload_len);
    else
        memcpy(wire + len, vector->payload.bytes, vector->payload_len);
    len += vector->payload_len;
    cr_assert_eq(udp_frame_decode(wire, len, &frame), (int)len, "%s", vector->name);
    cr_expect_eq(frame.from.is_v6, vector->octets.len == 16, "%s", vector->name);
    cr_expect_eq(frame.from.port, vector->port, "%s", vector->name);
    cr_expect(memcmp(frame.from.octets, vector->octets.bytes, vector->octets.len) == 0, "%s",
              vector->name);
    cr_expect_eq(frame.payload, wire + vector->head.len, "%s", vector->name);
    cr_expect_eq(frame.payload_len, vector->payload_len, "%s", vector->name);
    size_t head_len = udp_frame_encode_head(&frame.from, (uint16_t)frame.payload_len, head);
    if (vector->may_send)
        expect_bytes(head, head_len, vector->head, vector->name);
    else
        cr_expect_neq(head_len, vector->head.len, "%s", vector->name);
}

Test(vectors, udp_frames)
{
    for (size_t i = 0; i < ARRAY_SIZE(vector_udp_frames); i++)
        check_udp_frame(&vector_udp_frames[i]);
}

static const struct vector_step *next_step(const struct vector_session *session, size_t *at,
                                           int from_client)
{
    cr_assert_lt(*at, session->step_count, "%s", session->name);
    const struct vector_step *step = &session->steps[(*at)++];
    cr_assert_eq(step->from_client, from_client, "%s: %s", session->name, step->name);
    return step;
}

/* Our server answers the recorded client like the recorded server, and our client sends the bytes
 * of the recorded client. */
static void replay_control(const struct vector_session *session)
{
    struct server_fsm server;
    struct client_fsm client;
    struct server_action action;
    struct client_action reaction;
    const char *token = (const char *)session->token.bytes;
    size_t at = 0;
    server_fsm_init(&server);
    client_fsm_init(&client);

    const struct vector_step *step = next_step(session, &at, 1);
    client_fsm_start(&client, (const char *)session->service.bytes, session->service.len, token,
                     session->token.len, &reaction);
    expect_bytes(reaction.bytes, reaction.len, step->wire, step->name);
    server_fsm_received(&server, step->wire.bytes, step->wire.len, &action);
    server_fsm_service_found(&server, token, session->token.len, session->nonce.bytes, &action);

    step = next_step(session, &at, 0);
    expect_bytes(action.bytes, action.len, step->wire, step->name);
    client_fsm_received(&client, step->wire.bytes, step->wire.len, &reaction);

    step = next_step(session, &at, 1);
    expect_bytes(reaction.bytes, reaction.len, step->wire, step->name);
    server_fsm_received(&server, step->wire.bytes, step->wire.len, &action);
    cr_assert_eq(action.type, SERVER_ACTION_LOGIN, "%s", session->name);
    expect_bytes(action.digest, sizeof(action.digest), session->session_key, session->name);
    server_fsm_registered(&server, &action);

    step = next_step(session, &at, 0);
    expect_bytes(action.bytes, action.len, step->wire, step->name);
    client_fsm_received(&client, step->wire.bytes, step->wire.len, &reaction);
    cr_assert_eq(reaction.type, CLIENT_ACTION_UP, "%s", session->name);
    expect_bytes(client_fsm_session_key(&client), MESSAGE_DIGEST_SIZE, session->session_key,
                 session->name);

    while (at < session->step_count) {
        struct client_commands commands;
        uint8_t out[MESSAGE_COMMAND_SIZE];
        step = next_step(session, &at, 0);
        bool is_heartbeat = strcmp(step->name, "HeartBeat") == 0;
        size_t len = server_fsm_commands(&server,
                                         is_heartbeat ? MESSAGE_COMMAND_HEARTBEAT
                                                      : MESSAGE_COMMAND_CREATE_CHANNEL,
                                         1, out, sizeof(out));
        expect_bytes(out, len, step->wire, step->name);
        cr_expect_eq(client_fsm_commands(&client, step->wire.bytes, step->wire.len, &commands), 0);
        cr_expect_eq(commands.heartbeats, is_heartbeat);
        cr_expect_eq(commands.channels, !is_heartbeat);
    }
    server_fsm_finish(&server);
    client_fsm_finish(&client);
}

/* Decodes each frame and encodes it again to the same bytes. */
static void replay_frames(const struct vector_session *session, size_t at)
{
    for (; at < session->step_count; at++) {
        const struct vector_bytes *wire = &session->steps[at].wire;
        struct udp_frame frame;
        uint8_t again[128];
        cr_assert_eq(udp_frame_decode(wire->bytes, wire->len, &frame), (int)wire->len, "%s",
                     session->steps[at].name);
        size_t len = udp_frame_encode_head(&frame.from, (uint16_t)frame.payload_len, again);
        cr_assert_leq(len + frame.payload_len, sizeof(again));
        memcpy(again + len, frame.payload, frame.payload_len);
        expect_bytes(again, len + frame.payload_len, *wire, session->steps[at].name);
    }
}

static void replay_data(const struct vector_session *session, enum message_data_command expected)
{
    struct server_fsm server;
    struct server_action action;
    enum message_data_command command = MESSAGE_DATA_COMMAND_COUNT;
    uint8_t out[MESSAGE_HELLO_SIZE];
    size_t at = 0;
    const struct vector_step *step = next_step(session, &at, 1);
    message_hello_encode(MESSAGE_HELLO_DATA, session->session_key.bytes, out);
    expect_bytes(out, MESSAGE_HELLO_SIZE, step->wire, step->name);
    server_fsm_init(&server);
    server_fsm_received(&server, step->wire.bytes, step->wire.len, &action);
    cr_expect_eq(action.type, SERVER_ACTION_DATA_CHANNEL);
    expect_bytes(action.digest, sizeof(action.digest), session->session_key, session->name);
    server_fsm_finish(&server);

    step = next_step(session, &at, 0);
    message_data_command_encode(expected, out);
    expect_bytes(out, MESSAGE_DATA_COMMAND_SIZE, step->wire, step->name);
    cr_expect_eq(message_data_command_decode(step->wire.bytes, step->wire.len, &command), 0);
    cr_expect_eq(command, expected);
    if (expected == MESSAGE_DATA_START_UDP)
        replay_frames(session, at);
}

Test(vectors, recorded_sessions)
{
    size_t replayed = 0;
    for (size_t i = 0; i < ARRAY_SIZE(vector_sessions); i++) {
        const struct vector_session *session = &vector_sessions[i];
        if (strstr(session->name, "_control") != NULL)
            replay_control(session);
        else if (strcmp(session->name, "tcp_data_channel") == 0)
            replay_data(session, MESSAGE_DATA_START_TCP);
        else if (strcmp(session->name, "udp_data_channel") == 0)
            replay_data(session, MESSAGE_DATA_START_UDP);
        else
            cr_assert_fail("%s: an unknown recording", session->name);
        replayed++;
    }
    cr_expect_eq(replayed, 4);
}
