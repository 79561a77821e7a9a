/* A connection to the control port, from its first byte to a login or a data channel: a pure state
 * machine. Bytes and answers go in, one action comes out of each. It has no descriptor, no clock,
 * no allocation and no logging; the caller (server/login.c, server/control.c) reads, writes, looks
 * services up and keeps the deadlines.
 *
 *     HELLO --control hello--> LOOKUP --found--> AUTH --right digest--> REGISTER --> UP
 *       |                         |                |                                  |
 *       |                      unknown:          wrong:                           any byte
 *       |                    hello + ack 1       ack 2                                |
 *       |                         v                v                                  v
 *       +--anything else-------> CLOSED <----------+----------------------------------+
 *       |
 *       +--data hello----------> DATA (the machine has nothing more to do)
 *
 * The caller reads exactly server_fsm_wanted() bytes (0: none, because the machine waits for an
 * answer of the caller), passes them to server_fsm_received() and carries out the action:
 *
 *   FIND_SERVICE    digest = that of the service's name; answer with server_fsm_service_found or
 *                   server_fsm_service_unknown
 *   SEND            send bytes, len; go on reading meanwhile
 *   LOGIN           digest = the new session key; register the session first, because data channels
 *                   may come as soon as the Ack is out; answer with server_fsm_registered
 *   DATA_CHANNEL    digest = a session key that nobody has checked yet; take the connection over
 *   SEND_AND_CLOSE  send bytes, len, then close with FIN; error says why
 *   CLOSE           close and send nothing; error says why
 *
 * A machine belongs to one connection and its worker. In AUTH it holds a secret, which
 * server_fsm_finish wipes; call it on every path. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "proto/message.h"

enum server_fsm_state {
    SERVER_FSM_HELLO,    /* wants 37 bytes, the Hello */
    SERVER_FSM_LOOKUP,   /* the caller looks the service up */
    SERVER_FSM_AUTH,     /* our Hello was sent; wants 32 bytes, the Auth */
    SERVER_FSM_REGISTER, /* the caller registers the session */
    SERVER_FSM_UP,       /* logged in; a client sends nothing more on this connection */
    SERVER_FSM_DATA,     /* the connection is a data channel */
    SERVER_FSM_CLOSED,
    SERVER_FSM_STATE_COUNT,
};

enum server_action_type {
    SERVER_ACTION_FIND_SERVICE,
    SERVER_ACTION_SEND,
    SERVER_ACTION_LOGIN,
    SERVER_ACTION_DATA_CHANNEL,
    SERVER_ACTION_SEND_AND_CLOSE,
    SERVER_ACTION_CLOSE,
    SERVER_ACTION_COUNT,
};

enum { SERVER_ACTION_BYTES = MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE };

struct server_action {
    enum server_action_type type;
    int error; /* SEND_AND_CLOSE: ERR_NO_SERVICE, ERR_AUTH; CLOSE: ERR_PROTOCOL, ERR_VERSION */
    size_t len;
    uint8_t bytes[SERVER_ACTION_BYTES];
    uint8_t digest[MESSAGE_DIGEST_SIZE];
};

struct server_fsm {
    enum server_fsm_state state;
    uint8_t expected[MESSAGE_DIGEST_SIZE]; /* the right Auth; zero outside of AUTH */
};

void server_fsm_init(struct server_fsm *fsm);
/* Goes to CLOSED from any state and wipes the secret. Idempotent; accepts a zeroed machine. */
void server_fsm_finish(struct server_fsm *fsm);

/* The bytes to read next: 37 in HELLO, 32 in AUTH, 1 while UP (it ends the session), else 0: do not
 * read. */
size_t server_fsm_wanted(const struct server_fsm *fsm);
/* Takes exactly the wanted bytes, while UP one or more. They may be anything. */
void server_fsm_received(struct server_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct server_action *ret);

/* The two answers to FIND_SERVICE. Both take a nonce of 32 fresh random bytes (keys_random), so
 * only the Ack tells a stranger that the service does not exist. -> SEND (our Hello) */
void server_fsm_service_found(struct server_fsm *fsm, const char *token, size_t token_len,
                              const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                              struct server_action *ret);
/* -> SEND_AND_CLOSE (our Hello and Ack 1 together; rathole does not wait for the Auth either) */
void server_fsm_service_unknown(struct server_fsm *fsm,
                                const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                                struct server_action *ret);
/* The answer to LOGIN. -> SEND (Ack 0); commands may follow in the same write. */
void server_fsm_registered(struct server_fsm *fsm, struct server_action *ret);

/* While UP: writes up to count commands into out, as many as fit, and returns their size in bytes.
 * It never writes a part of a command, which would break the session. */
size_t server_fsm_commands(const struct server_fsm *fsm, enum message_command command, size_t count,
                           uint8_t *out, size_t out_size);

const char *server_fsm_state_name(enum server_fsm_state state);
const char *server_action_name(enum server_action_type type);
