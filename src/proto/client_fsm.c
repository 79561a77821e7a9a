#include "proto/client_fsm.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"

static_assert((int)KEYS_DIGEST_SIZE == (int)MESSAGE_DIGEST_SIZE, "digests travel as they are");

static const char *const state_names[] = {
    [CLIENT_FSM_IDLE] = "idle", [CLIENT_FSM_HELLO] = "hello",   [CLIENT_FSM_ACK] = "ack",
    [CLIENT_FSM_UP] = "up",     [CLIENT_FSM_CLOSED] = "closed",
};
static_assert(ARRAY_SIZE(state_names) == CLIENT_FSM_STATE_COUNT, "a name for each state");

static const char *const action_names[] = {
    [CLIENT_ACTION_SEND] = "send",
    [CLIENT_ACTION_UP] = "up",
    [CLIENT_ACTION_CLOSE] = "close",
};
static_assert(ARRAY_SIZE(action_names) == CLIENT_ACTION_COUNT, "a name for each action");

/* edges[from][to]. CLOSED may follow every state, itself included: finish is idempotent. */
static const bool edges[CLIENT_FSM_STATE_COUNT][CLIENT_FSM_STATE_COUNT] = {
    [CLIENT_FSM_IDLE] = {[CLIENT_FSM_HELLO] = true, [CLIENT_FSM_CLOSED] = true},
    [CLIENT_FSM_HELLO] = {[CLIENT_FSM_ACK] = true, [CLIENT_FSM_CLOSED] = true},
    [CLIENT_FSM_ACK] = {[CLIENT_FSM_UP] = true, [CLIENT_FSM_CLOSED] = true},
    [CLIENT_FSM_UP] = {[CLIENT_FSM_CLOSED] = true},
    [CLIENT_FSM_CLOSED] = {[CLIENT_FSM_CLOSED] = true},
};

static const size_t wanted[CLIENT_FSM_STATE_COUNT] = {
    [CLIENT_FSM_HELLO] = MESSAGE_HELLO_SIZE,
    [CLIENT_FSM_ACK] = MESSAGE_ACK_SIZE,
};

enum { ACK_KNOWN_LATER = 31 }; /* a larger number is no Ack of any version */

/* The error for each Ack; the first one is a successful login. */
static const int ack_errors[] = {
    [MESSAGE_ACK_OK] = 0,
    [MESSAGE_ACK_NO_SERVICE] = ERR_NO_SERVICE,
    [MESSAGE_ACK_AUTH_FAILED] = ERR_AUTH,
};
static_assert(ARRAY_SIZE(ack_errors) == MESSAGE_ACK_COUNT, "an error for each ack");

static void client_fsm_set_state(struct client_fsm *fsm, enum client_fsm_state state)
{
    assert(fsm->state < CLIENT_FSM_STATE_COUNT);
    assert(edges[fsm->state][state]);
    fsm->state = state;
}

void client_fsm_init(struct client_fsm *fsm)
{
    *fsm = (struct client_fsm){.state = CLIENT_FSM_IDLE};
}

void client_fsm_finish(struct client_fsm *fsm)
{
    client_fsm_set_state(fsm, CLIENT_FSM_CLOSED);
    keys_wipe(&fsm->auth, sizeof(fsm->auth));
    keys_wipe(fsm->session_key, sizeof(fsm->session_key));
}

void client_fsm_start(struct client_fsm *fsm, const char *service, size_t service_len,
                      const char *token, size_t token_len, struct client_action *ret)
{
    assert(fsm->state == CLIENT_FSM_IDLE);
    uint8_t digest[MESSAGE_DIGEST_SIZE];
    keys_service_digest(service, service_len, digest);
    keys_auth_begin(&fsm->auth, token, token_len);
    client_fsm_set_state(fsm, CLIENT_FSM_HELLO);
    *ret = (struct client_action){.type = CLIENT_ACTION_SEND, .len = MESSAGE_HELLO_SIZE};
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, ret->bytes);
}

size_t client_fsm_wanted(const struct client_fsm *fsm)
{
    assert(fsm->state < CLIENT_FSM_STATE_COUNT);
    return wanted[fsm->state];
}

static void client_fsm_close(struct client_fsm *fsm, int error, struct client_action *ret)
{
    client_fsm_finish(fsm);
    *ret = (struct client_action){.type = CLIENT_ACTION_CLOSE, .error = error};
}

static void client_fsm_received_hello(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                                      struct client_action *ret)
{
    struct message_hello hello;
    int r = message_hello_decode(bytes, len, &hello);
    if (r == 0 && hello.tag != MESSAGE_HELLO_CONTROL)
        r = ERR_PROTOCOL;
    if (r < 0) {
        client_fsm_close(fsm, r, ret);
        return;
    }
    keys_auth_end(&fsm->auth, hello.digest, fsm->session_key);
    client_fsm_set_state(fsm, CLIENT_FSM_ACK);
    *ret = (struct client_action){.type = CLIENT_ACTION_SEND, .len = MESSAGE_AUTH_SIZE};
    message_auth_encode(fsm->session_key, ret->bytes);
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t all = 0;
    for (size_t i = 0; i < len; i++)
        all |= bytes[i];
    return all == 0;
}

static void received_ack(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct client_action *ret)
{
    enum message_ack ack;
    int r = message_ack_decode(bytes, len, &ack);
    /* A later server has more reasons to refuse: rathole 0.6 says 3 when it is full. */
    if (r < 0 && bytes[0] <= ACK_KNOWN_LATER && is_zero(bytes + 1, len - 1))
        r = ERR_REFUSED;
    if (r == 0)
        r = ack_errors[ack];
    /* An Ack 0 after a failed send is a protocol violation: without our whole Auth, the server
     * cannot have our session key. */
    if (r == 0)
        r = fsm->send_error;
    if (r < 0) {
        client_fsm_close(fsm, r, ret);
        return;
    }
    client_fsm_set_state(fsm, CLIENT_FSM_UP);
    *ret = (struct client_action){.type = CLIENT_ACTION_UP};
}

void client_fsm_received(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct client_action *ret)
{
    assert(len > 0 && len == client_fsm_wanted(fsm));
    switch (fsm->state) {
    case CLIENT_FSM_HELLO:
        client_fsm_received_hello(fsm, bytes, len, ret);
        return;
    case CLIENT_FSM_ACK:
        received_ack(fsm, bytes, len, ret);
        return;
    case CLIENT_FSM_IDLE:
    case CLIENT_FSM_UP:
    case CLIENT_FSM_CLOSED:
    case CLIENT_FSM_STATE_COUNT:
        break;
    }
    assert(!"bytes were read although none were wanted");
    client_fsm_close(fsm, ERR_PROTOCOL, ret); /* without assertions: refuse */
}

bool client_fsm_send_failed(struct client_fsm *fsm, int error)
{
    assert(error < 0);
    if (fsm->send_error == 0)
        fsm->send_error = error;
    /* Only after the Auth may the reason for the failure still be readable. */
    if (fsm->state == CLIENT_FSM_ACK)
        return true;
    client_fsm_finish(fsm);
    return false;
}

int client_fsm_ended(struct client_fsm *fsm, int error)
{
    assert(error < 0);
    client_fsm_finish(fsm);
    return fsm->send_error != 0 ? fsm->send_error : error;
}

/* Completes a command that began in an earlier chunk. Returns the bytes taken from this one. */
static size_t fill_partial(struct client_fsm *fsm, const uint8_t *bytes, size_t len)
{
    size_t taken = MIN(len, sizeof(fsm->partial) - fsm->partial_len);
    if (taken > 0)
        memcpy(fsm->partial + fsm->partial_len, bytes, taken);
    fsm->partial_len += taken;
    return taken;
}

static int count_command(const uint8_t *bytes, struct client_commands *commands)
{
    enum message_command command;
    int r = message_command_decode(bytes, MESSAGE_COMMAND_SIZE, &command);
    if (r < 0)
        return r;
    switch (command) {
    case MESSAGE_COMMAND_CREATE_CHANNEL:
        commands->channels++;
        return 0;
    case MESSAGE_COMMAND_HEARTBEAT:
        commands->heartbeats++;
        return 0;
    case MESSAGE_COMMAND_COUNT:
        break;
    }
    return ERR_PROTOCOL;
}

int client_fsm_commands(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                        struct client_commands *ret)
{
    assert(fsm->state == CLIENT_FSM_UP);
    assert(fsm->partial_len < MESSAGE_COMMAND_SIZE);
    struct client_commands commands = {0};
    int r = 0;

    if (fsm->partial_len > 0) {
        size_t taken = fill_partial(fsm, bytes, len);
        bytes += taken;
        len -= taken;
        if (fsm->partial_len == MESSAGE_COMMAND_SIZE) {
            r = count_command(fsm->partial, &commands);
            fsm->partial_len = 0;
        }
    }
    for (; r == 0 && len >= MESSAGE_COMMAND_SIZE; len -= MESSAGE_COMMAND_SIZE) {
        r = count_command(bytes, &commands);
        bytes += MESSAGE_COMMAND_SIZE;
    }
    if (r < 0) {
        client_fsm_finish(fsm);
        return r;
    }
    if (fsm->partial_len == 0)
        (void)fill_partial(fsm, bytes, len);
    *ret = commands;
    return 0;
}

const uint8_t *client_fsm_session_key(const struct client_fsm *fsm)
{
    assert(fsm->state == CLIENT_FSM_UP);
    return fsm->session_key;
}

const char *client_fsm_state_name(enum client_fsm_state state)
{
    return state < CLIENT_FSM_STATE_COUNT ? state_names[state] : "unknown";
}

const char *client_action_name(enum client_action_type type)
{
    return type < CLIENT_ACTION_COUNT ? action_names[type] : "unknown";
}
