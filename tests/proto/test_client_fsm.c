#include "proto/client_fsm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "testing.h"

static uint8_t nonce[MESSAGE_DIGEST_SIZE], right_auth[MESSAGE_AUTH_SIZE];
static struct client_fsm fsm;
static struct client_action action;

static void set_up(void)
{
    struct test_random random = {43};
    cr_assert_eq(keys_init(), 0);
    test_random_bytes(&random, nonce, sizeof(nonce));
    keys_auth_digest("token", 5, nonce, right_auth);
    client_fsm_init(&fsm);
}

TestSuite(client_fsm, .init = set_up);

static void start(void)
{
    client_fsm_start(&fsm, "web", 3, "token", 5, &action);
    cr_assert_eq(action.type, CLIENT_ACTION_SEND);
}

static void go_to_ack(void)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    start();
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    client_fsm_received(&fsm, hello, sizeof(hello), &action);
    cr_assert_eq(fsm.state, CLIENT_FSM_ACK);
}

static void receive_ack(const char *bytes)
{
    cr_assert_eq(client_fsm_wanted(&fsm), MESSAGE_ACK_SIZE);
    client_fsm_received(&fsm, (const uint8_t *)bytes, MESSAGE_ACK_SIZE, &action);
}

static void go_to_up(void)
{
    go_to_ack();
    receive_ack("\0\0\0\0");
    cr_assert_eq(action.type, CLIENT_ACTION_UP);
}

/* The machine holds nothing of the token any more. */
static void expect_no_token(void)
{
    for (size_t i = 0; i < sizeof(fsm.auth); i++)
        cr_assert_eq(fsm.auth.state[i], 0);
}

static void expect_closed_and_wiped(void)
{
    cr_expect_eq(fsm.state, CLIENT_FSM_CLOSED);
    expect_no_token();
    cr_expect_eq(client_fsm_wanted(&fsm), 0);
    for (size_t i = 0; i < sizeof(fsm.session_key); i++)
        cr_assert_eq(fsm.session_key[i], 0);
}

Test(client_fsm, login_step_by_step)
{
    uint8_t digest[MESSAGE_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE];
    cr_expect_eq(client_fsm_wanted(&fsm), 0, "nothing to read before our Hello");
    start();
    keys_service_digest("web", 3, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    cr_expect_eq(action.len, sizeof(hello));
    cr_expect(memcmp(action.bytes, hello, sizeof(hello)) == 0);
    cr_expect_eq(client_fsm_wanted(&fsm), MESSAGE_HELLO_SIZE);

    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    client_fsm_received(&fsm, hello, sizeof(hello), &action);
    cr_expect_eq(action.type, CLIENT_ACTION_SEND);
    cr_expect_eq(action.len, MESSAGE_AUTH_SIZE);
    cr_expect(memcmp(action.bytes, right_auth, sizeof(right_auth)) == 0);

    receive_ack("\0\0\0\0");
    cr_expect_eq(action.type, CLIENT_ACTION_UP);
    cr_expect_eq(fsm.state, CLIENT_FSM_UP);
    cr_expect_eq(client_fsm_wanted(&fsm), 0);
    expect_no_token();
    cr_expect(memcmp(client_fsm_session_key(&fsm), right_auth, sizeof(right_auth)) == 0);

    client_fsm_finish(&fsm);
    client_fsm_finish(&fsm);
    expect_closed_and_wiped();
}

/* The caller may change or free the token while the machine waits for the server's Hello, as a
 * reload does. */
Test(client_fsm, the_token_is_not_borrowed)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    char lent[] = "token";
    client_fsm_start(&fsm, "web", 3, lent, 5, &action);
    memset(lent, 'x', 5);
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    client_fsm_received(&fsm, hello, sizeof(hello), &action);
    cr_expect_arr_eq(action.bytes, right_auth, sizeof(right_auth));
    expect_no_token();
}

Test(client_fsm, acks_that_refuse)
{
    static const struct {
        const char *bytes;
        int error;
    } rows[] = {
        {"\1\0\0\0", ERR_NO_SERVICE},       {"\2\0\0\0", ERR_AUTH},
        {"\3\0\0\0", ERR_REFUSED},          {"\37\0\0\0", ERR_REFUSED},
        {"\40\0\0\0", ERR_PROTOCOL},        {"\3\0\0\1", ERR_PROTOCOL},
        {"\0\0\0\1", ERR_PROTOCOL},         {"\0\1\0\0", ERR_PROTOCOL},
        {"\377\377\377\377", ERR_PROTOCOL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        client_fsm_init(&fsm);
        go_to_ack();
        receive_ack(rows[i].bytes);
        cr_expect_eq(action.type, CLIENT_ACTION_CLOSE, "row %zu", i);
        cr_expect_eq(action.error, rows[i].error, "row %zu", i);
        expect_closed_and_wiped();
    }
}

Test(client_fsm, server_hellos_that_are_none)
{
    static const struct {
        size_t at;
        uint8_t value;
        int error;
    } rows[] = {{0, 1, ERR_PROTOCOL}, {0, 2, ERR_PROTOCOL}, {3, 1, ERR_PROTOCOL},
                {4, 0, ERR_VERSION},  {4, 2, ERR_VERSION},  {4, 255, ERR_VERSION}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint8_t hello[MESSAGE_HELLO_SIZE];
        message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
        hello[rows[i].at] = rows[i].value;
        client_fsm_init(&fsm);
        start();
        client_fsm_received(&fsm, hello, sizeof(hello), &action);
        cr_expect_eq(action.type, CLIENT_ACTION_CLOSE, "row %zu", i);
        cr_expect_eq(action.error, rows[i].error, "row %zu", i);
        expect_closed_and_wiped();
    }
}

Test(client_fsm, ack_is_read_although_the_auth_failed)
{
    go_to_ack();
    cr_expect(client_fsm_send_failed(&fsm, -EPIPE));
    cr_expect_eq(client_fsm_wanted(&fsm), MESSAGE_ACK_SIZE);
    receive_ack("\1\0\0\0");
    cr_expect_eq(action.type, CLIENT_ACTION_CLOSE);
    cr_expect_eq(action.error, ERR_NO_SERVICE, "the reason, not the symptom");
}

Test(client_fsm, failed_auth_and_no_ack)
{
    go_to_ack();
    cr_expect(client_fsm_send_failed(&fsm, -EPIPE));
    cr_expect_eq(client_fsm_ended(&fsm, -ECONNRESET), -EPIPE, "what happened first");
    expect_closed_and_wiped();
}

Test(client_fsm, failed_auth_and_ack_ok_is_no_login)
{
    go_to_ack();
    cr_expect(client_fsm_send_failed(&fsm, -EPIPE));
    receive_ack("\0\0\0\0");
    cr_expect_eq(action.type, CLIENT_ACTION_CLOSE);
    cr_expect_eq(action.error, -EPIPE);
    expect_closed_and_wiped();
}

Test(client_fsm, failed_hello_ends_it)
{
    start();
    cr_expect_not(client_fsm_send_failed(&fsm, -ECONNRESET));
    expect_closed_and_wiped();
    cr_expect_not(client_fsm_send_failed(&fsm, -EPIPE), "a second report is harmless");
    cr_expect_eq(client_fsm_ended(&fsm, ERR_EOF), -ECONNRESET);
}

Test(client_fsm, late_failure_of_the_auth_while_up)
{
    go_to_up();
    cr_expect_not(client_fsm_send_failed(&fsm, -EPIPE));
    expect_closed_and_wiped();
}

Test(client_fsm, end_of_stream)
{
    static void (*const ways[])(void) = {start, go_to_ack, go_to_up};
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        client_fsm_init(&fsm);
        ways[i]();
        cr_expect_eq(client_fsm_ended(&fsm, ERR_EOF), ERR_EOF);
        expect_closed_and_wiped();
    }
}

Test(client_fsm, commands_in_one_piece)
{
    struct client_commands commands;
    go_to_up();
    cr_expect_eq(
        client_fsm_commands(&fsm, (const uint8_t *)"\0\0\0\0\1\0\0\0\0\0\0\0", 12, &commands), 0);
    cr_expect_eq(commands.channels, 2);
    cr_expect_eq(commands.heartbeats, 1);
    cr_expect_eq(client_fsm_commands(&fsm, NULL, 0, &commands), 0);
    cr_expect_eq(commands.channels + commands.heartbeats, 0);
}

Test(client_fsm, half_a_command_is_none)
{
    struct client_commands commands;
    go_to_up();
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(client_fsm_commands(&fsm, (const uint8_t *)"\1\0\0" + i, 1, &commands), 0);
        cr_expect_eq(commands.channels + commands.heartbeats, 0, "shows no life yet");
    }
    cr_expect_eq(client_fsm_commands(&fsm, (const uint8_t *)"\0\0", 2, &commands), 0);
    cr_expect_eq(commands.heartbeats, 1);
    cr_expect_eq(commands.channels, 0);
    cr_expect_eq(fsm.partial_len, 1);
}

/* A random stream in random pieces gives the same sums as the whole stream. */
Test(client_fsm, commands_in_any_pieces)
{
    struct test_random random = {44};
    for (int round = 0; round < 500; round++) {
        uint8_t stream[4 * 200] = {0};
        size_t count = test_random_below(&random, 200), heartbeats = 0;
        struct client_commands sum = {0};
        for (size_t i = 0; i < count; i++) {
            stream[4 * i] = (uint8_t)test_random_below(&random, 2);
            heartbeats += stream[4 * i];
        }
        client_fsm_init(&fsm);
        go_to_up();
        for (size_t at = 0, len; at < 4 * count; at += len) {
            struct client_commands commands;
            len = test_random_below(&random, round % 2 == 0 ? 4 : 60);
            len = MIN(4 * count - at, len);
            cr_assert_eq(client_fsm_commands(&fsm, stream + at, len, &commands), 0);
            sum.channels += commands.channels;
            sum.heartbeats += commands.heartbeats;
        }
        cr_assert_eq(sum.heartbeats, heartbeats);
        cr_assert_eq(sum.channels, count - heartbeats);
        client_fsm_finish(&fsm);
    }
}

Test(client_fsm, a_flood_is_only_a_number)
{
    static uint8_t flood[4 << 20];
    struct client_commands commands;
    go_to_up();
    cr_expect_eq(client_fsm_commands(&fsm, flood, sizeof(flood), &commands), 0);
    cr_expect_eq(commands.channels, 1 << 20);
    cr_expect_eq(fsm.state, CLIENT_FSM_UP);
}

Test(client_fsm, unknown_commands_end_it_in_any_pieces)
{
    static const uint8_t bad[][4] = {
        {2, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 0, 1}, {1, 0, 0, 128}, {255, 255, 255, 255}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        for (size_t chunk = 1; chunk <= 12; chunk++) {
            uint8_t stream[12] = {0};
            struct client_commands commands = {77, 77}, before = commands;
            int r = 0;
            memcpy(stream + 4, bad[i], 4);
            client_fsm_init(&fsm);
            go_to_up();
            for (size_t at = 0; at < sizeof(stream) && r == 0; at += chunk) {
                before = commands;
                r = client_fsm_commands(&fsm, stream + at, MIN(chunk, sizeof(stream) - at),
                                        &commands);
            }
            cr_expect_eq(r, ERR_PROTOCOL, "row %zu in pieces of %zu", i, chunk);
            cr_expect_eq(commands.channels, before.channels, "no result with an error");
            expect_closed_and_wiped();
        }
    }
}

Test(client_fsm, commands_before_login_assert, .signal = SIGABRT)
{
    struct client_commands commands;
    go_to_ack();
    cr_expect_eq(client_fsm_commands(&fsm, nonce, 4, &commands), 0);
}

Test(client_fsm, another_number_of_bytes_asserts, .signal = SIGABRT)
{
    start();
    client_fsm_received(&fsm, nonce, 4, &action);
}

Test(client_fsm, second_start_asserts, .signal = SIGABRT)
{
    start();
    start();
}

Test(client_fsm, session_key_before_login_asserts, .signal = SIGABRT)
{
    go_to_ack();
    (void)client_fsm_session_key(&fsm);
}

Test(client_fsm, names)
{
    for (int i = 0; i <= CLIENT_FSM_STATE_COUNT; i++)
        cr_expect_eq(strcmp(client_fsm_state_name((enum client_fsm_state)i), "unknown") == 0,
                     i == CLIENT_FSM_STATE_COUNT);
    for (int i = 0; i <= CLIENT_ACTION_COUNT; i++)
        cr_expect_eq(strcmp(client_action_name((enum client_action_type)i), "unknown") == 0,
                     i == CLIENT_ACTION_COUNT);
}
