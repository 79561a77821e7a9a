/* Both state machines against each other, over byte streams in random pieces. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "proto/client_fsm.h"
#include "proto/server_fsm.h"
#include "testing.h"

enum outcome { LOGIN, NO_SERVICE, WRONG_TOKEN, OUTCOME_COUNT };

/* One direction: what was sent and how much of it has been read. */
struct stream {
    uint8_t bytes[4096];
    size_t sent, read;
};

struct pair {
    struct client_fsm client;
    struct server_fsm server;
    struct stream to_client, to_server;
    struct test_random random;
    enum outcome outcome;
    uint8_t registered_key[MESSAGE_DIGEST_SIZE];
    int client_error, server_error;
    bool server_closed;
    struct client_commands commands;
};

static void send_bytes(struct stream *stream, const uint8_t *bytes, size_t len)
{
    cr_assert_leq(stream->sent + len, sizeof(stream->bytes));
    memcpy(stream->bytes + stream->sent, bytes, len);
    stream->sent += len;
}

/* Reads up to `wanted` bytes, often fewer. */
static size_t read_some(struct pair *pair, struct stream *stream, uint8_t *out, size_t wanted)
{
    size_t len = MIN(stream->sent - stream->read, wanted);
    if (len > 0)
        len = 1 + test_random_below(&pair->random, len);
    memcpy(out, stream->bytes + stream->read, len);
    stream->read += len;
    return len;
}

static void server_act(struct pair *pair, struct server_action *action)
{
    uint8_t nonce[MESSAGE_DIGEST_SIZE], web[MESSAGE_DIGEST_SIZE];
    for (;;) {
        switch (action->type) {
        case SERVER_ACTION_FIND_SERVICE:
            test_random_bytes(&pair->random, nonce, sizeof(nonce));
            keys_service_digest("web", 3, web);
            cr_assert_eq(memcmp(action->digest, web, sizeof(web)) == 0,
                         pair->outcome != NO_SERVICE);
            if (pair->outcome == NO_SERVICE)
                server_fsm_service_unknown(&pair->server, nonce, action);
            else
                server_fsm_service_found(&pair->server, "token", 5, nonce, action);
            continue;
        case SERVER_ACTION_LOGIN:
            memcpy(pair->registered_key, action->digest, sizeof(pair->registered_key));
            server_fsm_registered(&pair->server, action);
            continue;
        case SERVER_ACTION_SEND_AND_CLOSE:
            pair->server_closed = true;
            pair->server_error = action->error;
            send_bytes(&pair->to_client, action->bytes, action->len);
            return;
        case SERVER_ACTION_SEND:
            send_bytes(&pair->to_client, action->bytes, action->len);
            return;
        case SERVER_ACTION_DATA_CHANNEL:
        case SERVER_ACTION_CLOSE:
        case SERVER_ACTION_COUNT:
            cr_assert_fail("a well-behaved client causes no %s", server_action_name(action->type));
        }
    }
}

/* Each side keeps its partial message, as server/login.c and client/control.c do. */
static void server_turn(struct pair *pair)
{
    static uint8_t message[MESSAGE_HELLO_SIZE];
    static size_t have;
    if (pair->to_server.read == 0)
        have = 0;
    size_t wanted = server_fsm_wanted(&pair->server);
    if (pair->server_closed || wanted == 0)
        return;
    have += read_some(pair, &pair->to_server, message + have, wanted - have);
    if (have < wanted)
        return;
    struct server_action action;
    server_fsm_received(&pair->server, message, have, &action);
    have = 0;
    server_act(pair, &action);
    if (pair->server.state != SERVER_FSM_UP)
        return;
    uint8_t commands[64];
    size_t len = server_fsm_commands(&pair->server, MESSAGE_COMMAND_CREATE_CHANNEL, 8, commands,
                                     sizeof(commands));
    send_bytes(&pair->to_client, commands, len);
    len = server_fsm_commands(&pair->server, MESSAGE_COMMAND_HEARTBEAT, 1, commands,
                              sizeof(commands));
    send_bytes(&pair->to_client, commands, len);
}

static void client_act(struct pair *pair, const struct client_action *action)
{
    switch (action->type) {
    case CLIENT_ACTION_SEND:
        /* If the server has closed, the Auth fails, and the Ack is still readable. */
        if (pair->server_closed)
            cr_assert(client_fsm_send_failed(&pair->client, ERR_EOF));
        else
            send_bytes(&pair->to_server, action->bytes, action->len);
        return;
    case CLIENT_ACTION_UP:
        return;
    case CLIENT_ACTION_CLOSE:
        pair->client_error = action->error;
        return;
    case CLIENT_ACTION_COUNT:
        cr_assert_fail("an action");
    }
}

static void client_turn(struct pair *pair)
{
    static uint8_t message[256];
    static size_t have;
    struct client_action action;
    if (pair->to_client.read == 0)
        have = 0;
    if (pair->client.state == CLIENT_FSM_UP) {
        struct client_commands commands;
        size_t len = read_some(pair, &pair->to_client, message, sizeof(message));
        cr_assert_eq(client_fsm_commands(&pair->client, message, len, &commands), 0);
        pair->commands.channels += commands.channels;
        pair->commands.heartbeats += commands.heartbeats;
        return;
    }
    size_t wanted = client_fsm_wanted(&pair->client);
    have += read_some(pair, &pair->to_client, message + have, wanted - have);
    if (wanted == 0 || have < wanted)
        return;
    client_fsm_received(&pair->client, message, have, &action);
    have = 0;
    client_act(pair, &action);
}

static void run(struct pair *pair, enum outcome outcome, uint64_t seed)
{
    struct client_action action;
    memset(pair, 0, sizeof(*pair));
    pair->outcome = outcome;
    pair->random.state = seed;
    server_fsm_init(&pair->server);
    client_fsm_init(&pair->client);
    const char *service = outcome == NO_SERVICE ? "ssh" : "web";
    const char *token = outcome == WRONG_TOKEN ? "wrong" : "token";
    client_fsm_start(&pair->client, service, 3, token, 5, &action);
    client_act(pair, &action);
    for (int turn = 0; turn < 1000; turn++) {
        if (test_random_below(&pair->random, 2) == 0)
            server_turn(pair);
        else
            client_turn(pair);
    }
}

Test(login, every_outcome_in_random_pieces)
{
    static const int errors[OUTCOME_COUNT] = {
        [LOGIN] = 0, [NO_SERVICE] = ERR_NO_SERVICE, [WRONG_TOKEN] = ERR_AUTH};
    static struct pair pair;
    cr_assert_eq(keys_init(), 0);
    for (uint64_t seed = 0; seed < 600; seed++) {
        enum outcome outcome = (enum outcome)(seed % OUTCOME_COUNT);
        run(&pair, outcome, seed);
        cr_assert_eq(pair.client_error, errors[outcome], "seed %d", (int)seed);
        cr_assert_eq(pair.server_error, errors[outcome], "seed %d", (int)seed);
        cr_assert_eq(pair.to_client.read, pair.to_client.sent, "seed %d", (int)seed);
        if (outcome == LOGIN) {
            cr_assert_eq(pair.client.state, CLIENT_FSM_UP);
            cr_assert_eq(pair.server.state, SERVER_FSM_UP);
            cr_assert(memcmp(client_fsm_session_key(&pair.client), pair.registered_key,
                             sizeof(pair.registered_key)) == 0);
            cr_assert_eq(pair.commands.channels, 8);
            cr_assert_eq(pair.commands.heartbeats, 1);
        } else {
            cr_assert_eq(pair.client.state, CLIENT_FSM_CLOSED);
            cr_assert_eq(pair.server.state, SERVER_FSM_CLOSED);
        }
        client_fsm_finish(&pair.client);
        server_fsm_finish(&pair.server);
    }
}
