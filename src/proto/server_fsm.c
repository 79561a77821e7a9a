#include "proto/server_fsm.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"

static_assert((int)KEYS_DIGEST_SIZE == (int)MESSAGE_DIGEST_SIZE, "digests travel as they are");
static_assert((int)KEYS_NONCE_SIZE == (int)MESSAGE_DIGEST_SIZE,
              "a nonce travels where a digest does");

static const char *const state_names[] = {
    [SERVER_FSM_HELLO] = "hello",       [SERVER_FSM_LOOKUP] = "lookup", [SERVER_FSM_AUTH] = "auth",
    [SERVER_FSM_REGISTER] = "register", [SERVER_FSM_UP] = "up",         [SERVER_FSM_DATA] = "data",
    [SERVER_FSM_CLOSED] = "closed",
};
static_assert(ARRAY_SIZE(state_names) == SERVER_FSM_STATE_COUNT, "a name for each state");

static const char *const action_names[] = {
    [SERVER_ACTION_FIND_SERVICE] = "find service",
    [SERVER_ACTION_SEND] = "send",
    [SERVER_ACTION_LOGIN] = "login",
    [SERVER_ACTION_DATA_CHANNEL] = "data channel",
    [SERVER_ACTION_SEND_AND_CLOSE] = "send and close",
    [SERVER_ACTION_CLOSE] = "close",
};
static_assert(ARRAY_SIZE(action_names) == SERVER_ACTION_COUNT, "a name for each action");

/* edges[from][to]. CLOSED may follow every state, itself included: finish is idempotent. */
static const bool edges[SERVER_FSM_STATE_COUNT][SERVER_FSM_STATE_COUNT] = {
    [SERVER_FSM_HELLO] =
        {[SERVER_FSM_LOOKUP] = true, [SERVER_FSM_DATA] = true, [SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_LOOKUP] = {[SERVER_FSM_AUTH] = true, [SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_AUTH] = {[SERVER_FSM_REGISTER] = true, [SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_REGISTER] = {[SERVER_FSM_UP] = true, [SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_UP] = {[SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_DATA] = {[SERVER_FSM_CLOSED] = true},
    [SERVER_FSM_CLOSED] = {[SERVER_FSM_CLOSED] = true},
};

static const size_t wanted[SERVER_FSM_STATE_COUNT] = {
    [SERVER_FSM_HELLO] = MESSAGE_HELLO_SIZE,
    [SERVER_FSM_AUTH] = MESSAGE_AUTH_SIZE,
    [SERVER_FSM_UP] = 1,
};

static void server_fsm_set_state(struct server_fsm *fsm, enum server_fsm_state state)
{
    assert(fsm->state < SERVER_FSM_STATE_COUNT);
    assert(edges[fsm->state][state]);
    fsm->state = state;
}

void server_fsm_init(struct server_fsm *fsm)
{
    *fsm = (struct server_fsm){.state = SERVER_FSM_HELLO};
}

void server_fsm_finish(struct server_fsm *fsm)
{
    server_fsm_set_state(fsm, SERVER_FSM_CLOSED);
    keys_wipe(fsm->expected, sizeof(fsm->expected));
}

size_t server_fsm_wanted(const struct server_fsm *fsm)
{
    assert(fsm->state < SERVER_FSM_STATE_COUNT);
    return wanted[fsm->state];
}

static void server_fsm_close(struct server_fsm *fsm, int error, struct server_action *ret)
{
    server_fsm_finish(fsm);
    *ret = (struct server_action){.type = SERVER_ACTION_CLOSE, .error = error};
}

static void server_fsm_received_hello(struct server_fsm *fsm, const uint8_t *bytes, size_t len,
                                      struct server_action *ret)
{
    struct message_hello hello;
    int r = message_hello_decode(bytes, len, &hello);
    if (r < 0) {
        server_fsm_close(fsm, r, ret);
        return;
    }
    bool control = hello.tag == MESSAGE_HELLO_CONTROL;
    server_fsm_set_state(fsm, control ? SERVER_FSM_LOOKUP : SERVER_FSM_DATA);
    *ret = (struct server_action){
        .type = control ? SERVER_ACTION_FIND_SERVICE : SERVER_ACTION_DATA_CHANNEL,
    };
    memcpy(ret->digest, hello.digest, sizeof(ret->digest));
    keys_wipe(&hello, sizeof(hello)); /* in a data channel's Hello the digest is a session key */
}

static void received_auth(struct server_fsm *fsm, const uint8_t *bytes, size_t len,
                          struct server_action *ret)
{
    assert(len == MESSAGE_AUTH_SIZE);
    *ret = (struct server_action){0};
    /* Compared in place: message_auth_decode would make a copy that has to be wiped. */
    if (!keys_equal(bytes, fsm->expected, len)) {
        server_fsm_finish(fsm);
        ret->type = SERVER_ACTION_SEND_AND_CLOSE;
        ret->error = ERR_AUTH;
        ret->len = MESSAGE_ACK_SIZE;
        message_ack_encode(MESSAGE_ACK_AUTH_FAILED, ret->bytes);
        return;
    }
    server_fsm_set_state(fsm, SERVER_FSM_REGISTER);
    ret->type = SERVER_ACTION_LOGIN;
    memcpy(ret->digest, fsm->expected, sizeof(ret->digest));
    keys_wipe(fsm->expected, sizeof(fsm->expected));
}

void server_fsm_received(struct server_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct server_action *ret)
{
    assert(len > 0);
    assert(len == server_fsm_wanted(fsm) || fsm->state == SERVER_FSM_UP);
    switch (fsm->state) {
    case SERVER_FSM_HELLO:
        server_fsm_received_hello(fsm, bytes, len, ret);
        return;
    case SERVER_FSM_AUTH:
        received_auth(fsm, bytes, len, ret);
        return;
    case SERVER_FSM_UP:
        /* A client never sends anything here. rathole's server would not read it, and nobody would
         * notice that the two sides disagree about this connection. */
        server_fsm_close(fsm, ERR_PROTOCOL, ret);
        return;
    case SERVER_FSM_LOOKUP:
    case SERVER_FSM_REGISTER:
    case SERVER_FSM_DATA:
    case SERVER_FSM_CLOSED:
    case SERVER_FSM_STATE_COUNT:
        break;
    }
    assert(!"bytes were read although none were wanted");
    server_fsm_close(fsm, ERR_PROTOCOL, ret); /* without assertions: refuse */
}

void server_fsm_service_found(struct server_fsm *fsm, const char *token, size_t token_len,
                              const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                              struct server_action *ret)
{
    assert(fsm->state == SERVER_FSM_LOOKUP);
    keys_auth_digest(token, token_len, nonce, fsm->expected);
    server_fsm_set_state(fsm, SERVER_FSM_AUTH);
    *ret = (struct server_action){.type = SERVER_ACTION_SEND, .len = MESSAGE_HELLO_SIZE};
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, ret->bytes);
}

void server_fsm_service_unknown(struct server_fsm *fsm,
                                const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                                struct server_action *ret)
{
    assert(fsm->state == SERVER_FSM_LOOKUP);
    server_fsm_finish(fsm);
    *ret = (struct server_action){
        .type = SERVER_ACTION_SEND_AND_CLOSE,
        .error = ERR_NO_SERVICE,
        .len = MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE,
    };
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, ret->bytes);
    message_ack_encode(MESSAGE_ACK_NO_SERVICE, ret->bytes + MESSAGE_HELLO_SIZE);
}

void server_fsm_registered(struct server_fsm *fsm, struct server_action *ret)
{
    assert(fsm->state == SERVER_FSM_REGISTER);
    server_fsm_set_state(fsm, SERVER_FSM_UP);
    *ret = (struct server_action){.type = SERVER_ACTION_SEND, .len = MESSAGE_ACK_SIZE};
    message_ack_encode(MESSAGE_ACK_OK, ret->bytes);
}

size_t server_fsm_commands(const struct server_fsm *fsm, enum message_command command, size_t count,
                           uint8_t *out, size_t out_size)
{
    assert(fsm->state == SERVER_FSM_UP);
    (void)fsm;
    size_t fitting = MIN(count, out_size / MESSAGE_COMMAND_SIZE);
    for (size_t i = 0; i < fitting; i++)
        message_command_encode(command, out + i * MESSAGE_COMMAND_SIZE);
    return fitting * MESSAGE_COMMAND_SIZE;
}

const char *server_fsm_state_name(enum server_fsm_state state)
{
    return state < SERVER_FSM_STATE_COUNT ? state_names[state] : "unknown";
}

const char *server_action_name(enum server_action_type type)
{
    return type < SERVER_ACTION_COUNT ? action_names[type] : "unknown";
}
