#include "proto/server_fsm.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "testing.h"

static const char token[] = "token";
static uint8_t nonce[MESSAGE_DIGEST_SIZE], service_digest[MESSAGE_DIGEST_SIZE];
static uint8_t right_auth[MESSAGE_AUTH_SIZE];
static struct server_fsm fsm;
static struct server_action action;

static void set_up(void)
{
    struct test_random random = {42};
    cr_assert_eq(keys_init(), 0);
    test_random_bytes(&random, nonce, sizeof(nonce));
    keys_service_digest("web", 3, service_digest);
    keys_auth_digest(token, strlen(token), nonce, right_auth);
    server_fsm_init(&fsm);
}

TestSuite(server_fsm, .init = set_up);

static void say_hello(enum message_hello_tag tag, const uint8_t *digest)
{
    uint8_t wire[MESSAGE_HELLO_SIZE];
    message_hello_encode(tag, digest, wire);
    cr_assert_eq(server_fsm_wanted(&fsm), sizeof(wire));
    server_fsm_received(&fsm, wire, sizeof(wire), &action);
}

static void go_to_auth(void)
{
    say_hello(MESSAGE_HELLO_CONTROL, service_digest);
    cr_assert_eq(action.type, SERVER_ACTION_FIND_SERVICE);
    server_fsm_service_found(&fsm, token, strlen(token), nonce, &action);
    cr_assert_eq(fsm.state, SERVER_FSM_AUTH);
}

static void go_to_up(void)
{
    go_to_auth();
    server_fsm_received(&fsm, right_auth, sizeof(right_auth), &action);
    cr_assert_eq(action.type, SERVER_ACTION_LOGIN);
    server_fsm_registered(&fsm, &action);
    cr_assert_eq(fsm.state, SERVER_FSM_UP);
}

static void expect_no_secret(void)
{
    for (size_t i = 0; i < sizeof(fsm.expected); i++)
        cr_assert_eq(fsm.expected[i], 0);
}

Test(server_fsm, login_step_by_step)
{
    uint8_t expected[MESSAGE_HELLO_SIZE];
    say_hello(MESSAGE_HELLO_CONTROL, service_digest);
    cr_expect_eq(action.type, SERVER_ACTION_FIND_SERVICE);
    cr_expect(memcmp(action.digest, service_digest, sizeof(service_digest)) == 0);
    cr_expect_eq(server_fsm_wanted(&fsm), 0, "no reading while the caller owes an answer");

    server_fsm_service_found(&fsm, token, strlen(token), nonce, &action);
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, expected);
    cr_expect_eq(action.type, SERVER_ACTION_SEND);
    cr_expect_eq(action.len, sizeof(expected));
    cr_expect(memcmp(action.bytes, expected, sizeof(expected)) == 0);
    cr_expect_eq(server_fsm_wanted(&fsm), MESSAGE_AUTH_SIZE);

    server_fsm_received(&fsm, right_auth, sizeof(right_auth), &action);
    cr_expect_eq(action.type, SERVER_ACTION_LOGIN);
    cr_expect(memcmp(action.digest, right_auth, sizeof(right_auth)) == 0, "the session key");
    cr_expect_eq(server_fsm_wanted(&fsm), 0);
    expect_no_secret();

    server_fsm_registered(&fsm, &action);
    cr_expect_eq(action.type, SERVER_ACTION_SEND);
    cr_expect_eq(action.len, MESSAGE_ACK_SIZE);
    cr_expect(memcmp(action.bytes, "\0\0\0\0", 4) == 0);
    cr_expect_eq(fsm.state, SERVER_FSM_UP);
    cr_expect_eq(server_fsm_wanted(&fsm), 1);
}

Test(server_fsm, unknown_service_gets_hello_and_ack_at_once)
{
    uint8_t expected[MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE];
    say_hello(MESSAGE_HELLO_CONTROL, service_digest);
    server_fsm_service_unknown(&fsm, nonce, &action);
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, expected);
    message_ack_encode(MESSAGE_ACK_NO_SERVICE, expected + MESSAGE_HELLO_SIZE);
    cr_expect_eq(action.type, SERVER_ACTION_SEND_AND_CLOSE);
    cr_expect_eq(action.error, ERR_NO_SERVICE);
    cr_expect_eq(action.len, sizeof(expected));
    cr_expect(memcmp(action.bytes, expected, sizeof(expected)) == 0);
    cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
    cr_expect_eq(server_fsm_wanted(&fsm), 0);
}

static void expect_auth_refused(const uint8_t *auth)
{
    server_fsm_init(&fsm);
    go_to_auth();
    server_fsm_received(&fsm, auth, MESSAGE_AUTH_SIZE, &action);
    cr_assert_eq(action.type, SERVER_ACTION_SEND_AND_CLOSE);
    cr_assert_eq(action.error, ERR_AUTH);
    cr_assert_eq(action.len, MESSAGE_ACK_SIZE);
    cr_assert(memcmp(action.bytes, "\2\0\0\0", 4) == 0);
    for (size_t i = 0; i < sizeof(action.digest); i++)
        cr_assert_eq(action.digest[i], 0, "a refusal tells nothing");
    cr_assert_eq(fsm.state, SERVER_FSM_CLOSED);
    expect_no_secret();
}

Test(server_fsm, every_flipped_bit_of_the_auth_is_refused)
{
    for (size_t bit = 0; bit < 8 * MESSAGE_AUTH_SIZE; bit++) {
        uint8_t auth[MESSAGE_AUTH_SIZE];
        memcpy(auth, right_auth, sizeof(auth));
        auth[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_auth_refused(auth);
    }
}

Test(server_fsm, auths_of_others_are_refused)
{
    uint8_t auth[MESSAGE_AUTH_SIZE] = {0}, other_nonce[MESSAGE_DIGEST_SIZE];
    expect_auth_refused(auth);
    keys_auth_digest("Token", 5, nonce, auth);
    expect_auth_refused(auth);
    memcpy(other_nonce, nonce, sizeof(nonce));
    other_nonce[0] ^= 1;
    keys_auth_digest(token, strlen(token), other_nonce, auth); /* replayed from another login */
    expect_auth_refused(auth);
    expect_auth_refused(service_digest);
    expect_auth_refused(nonce);
}

Test(server_fsm, data_channel)
{
    say_hello(MESSAGE_HELLO_DATA, right_auth);
    cr_expect_eq(action.type, SERVER_ACTION_DATA_CHANNEL);
    cr_expect(memcmp(action.digest, right_auth, sizeof(right_auth)) == 0);
    cr_expect_eq(fsm.state, SERVER_FSM_DATA);
    cr_expect_eq(server_fsm_wanted(&fsm), 0, "what follows is the visitor's");
}

Test(server_fsm, bad_hellos_close_without_an_answer)
{
    static const struct {
        size_t at;
        uint8_t value;
        int error;
    } rows[] = {{0, 2, ERR_PROTOCOL}, {0, 255, ERR_PROTOCOL}, {1, 1, ERR_PROTOCOL},
                {3, 1, ERR_PROTOCOL}, {3, 128, ERR_PROTOCOL}, {4, 0, ERR_VERSION},
                {4, 2, ERR_VERSION},  {4, 255, ERR_VERSION}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint8_t wire[MESSAGE_HELLO_SIZE];
        message_hello_encode(MESSAGE_HELLO_CONTROL, service_digest, wire);
        wire[rows[i].at] = rows[i].value;
        server_fsm_init(&fsm);
        server_fsm_received(&fsm, wire, sizeof(wire), &action);
        cr_expect_eq(action.type, SERVER_ACTION_CLOSE, "row %zu", i);
        cr_expect_eq(action.error, rows[i].error, "row %zu", i);
        cr_expect_eq(action.len, 0);
        cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
    }
}

Test(server_fsm, any_byte_ends_a_session)
{
    for (size_t len = 1; len <= 100; len += 33) {
        uint8_t bytes[100] = {0};
        server_fsm_init(&fsm);
        go_to_up();
        server_fsm_received(&fsm, bytes, len, &action);
        cr_expect_eq(action.type, SERVER_ACTION_CLOSE);
        cr_expect_eq(action.error, ERR_PROTOCOL);
        cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
    }
}

Test(server_fsm, commands)
{
    uint8_t out[20];
    go_to_up();
    memset(out, 0xa5, sizeof(out));
    cr_expect_eq(server_fsm_commands(&fsm, MESSAGE_COMMAND_CREATE_CHANNEL, 3, out, sizeof(out)),
                 12);
    cr_expect(memcmp(out, "\0\0\0\0\0\0\0\0\0\0\0\0\xa5", 13) == 0);
    cr_expect_eq(server_fsm_commands(&fsm, MESSAGE_COMMAND_HEARTBEAT, 1, out, sizeof(out)), 4);
    cr_expect(memcmp(out, "\1\0\0\0", 4) == 0);
    cr_expect_eq(server_fsm_commands(&fsm, MESSAGE_COMMAND_CREATE_CHANNEL, 0, out, sizeof(out)), 0);
    cr_expect_eq(server_fsm_commands(&fsm, MESSAGE_COMMAND_CREATE_CHANNEL, SIZE_MAX, out, 20), 20);
    /* Only whole commands. */
    for (size_t size = 0; size <= 20; size++)
        cr_expect_eq(server_fsm_commands(&fsm, MESSAGE_COMMAND_HEARTBEAT, 100, out, size),
                     size / 4 * 4);
}

Test(server_fsm, finish_wipes_in_every_state)
{
    static void (*const ways[])(void) = {go_to_auth, go_to_up};
    server_fsm_finish(&fsm);
    cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        server_fsm_init(&fsm);
        ways[i]();
        server_fsm_finish(&fsm);
        server_fsm_finish(&fsm);
        cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
        expect_no_secret();
    }
    memset(&fsm, 0, sizeof(fsm));
    server_fsm_finish(&fsm);
    cr_expect_eq(fsm.state, SERVER_FSM_CLOSED);
}

/* Assertions catch wrong use by our own code. */
Test(server_fsm, answer_without_a_question_asserts, .signal = SIGABRT)
{
    server_fsm_registered(&fsm, &action);
}

Test(server_fsm, another_number_of_bytes_asserts, .signal = SIGABRT)
{
    server_fsm_received(&fsm, nonce, sizeof(nonce), &action);
}

Test(server_fsm, bytes_that_nobody_wanted_assert, .signal = SIGABRT)
{
    say_hello(MESSAGE_HELLO_DATA, right_auth);
    server_fsm_received(&fsm, nonce, 1, &action);
}

Test(server_fsm, commands_before_login_assert, .signal = SIGABRT)
{
    uint8_t out[4];
    (void)server_fsm_commands(&fsm, MESSAGE_COMMAND_HEARTBEAT, 1, out, sizeof(out));
}

Test(server_fsm, names)
{
    for (int i = 0; i <= SERVER_FSM_STATE_COUNT; i++)
        cr_expect_eq(strcmp(server_fsm_state_name((enum server_fsm_state)i), "unknown") == 0,
                     i == SERVER_FSM_STATE_COUNT);
    for (int i = 0; i <= SERVER_ACTION_COUNT; i++)
        cr_expect_eq(strcmp(server_action_name((enum server_action_type)i), "unknown") == 0,
                     i == SERVER_ACTION_COUNT);
}
