/* One tunnel connection as the server sees it, from its first byte to a login or a data channel: a
 * pure state machine. Bytes and answers go in, one action comes out of each; no descriptor, no
 * clock, no allocation, no logging. The caller (tunnel/) reads, writes, looks services up and keeps
 * the deadlines.
 *
 *     HELLO --control hello--> LOOKUP --found----> AUTH --right digest--> REGISTER --> UP
 *       |                         |                  |                                  |
 *       |                         +-- unknown: hello + ack 1 --+-- ack 2                +-- any
 * byte
 *       +--data hello--> DATA (the machine's work is done)     v                        v
 *       +--anything else--------------------------------> CLOSED <----------------------+
 *
 * The caller's loop: read exactly server_fsm_wanted() bytes (0 = read nothing, an answer of the
 * caller is due), hand them to server_fsm_received(), carry out the action:
 *
 *   FIND_SERVICE    digest = the service's; answer with server_fsm_service_found or _unknown
 *   SEND            bytes, len; go on reading meanwhile
 *   LOGIN           digest = the new session key; register the session (data channels may come from
 *                   the moment the Ack is out), then server_fsm_registered
 *   DATA_CHANNEL    digest = a session key, not yet checked by anyone; take the connection over
 *   SEND_AND_CLOSE  bytes, len, then close with FIN; error says why
 *   CLOSE           close, nothing is sent; error says why
 *
 * A machine belongs to one connection and its worker. It holds a secret between the two Hellos' end
 * and the Auth; server_fsm_finish wipes it and is due in every case. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "proto/message.h"

enum server_fsm_state {
    SERVER_FSM_HELLO,    /* wants 37 bytes */
    SERVER_FSM_LOOKUP,   /* the caller looks the service up */
    SERVER_FSM_AUTH,     /* our Hello is on its way; wants 32 bytes */
    SERVER_FSM_REGISTER, /* the caller registers the session */
    SERVER_FSM_UP,       /* logged in; the client has nothing more to say here */
    SERVER_FSM_DATA,     /* the connection is a data channel now */
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
    uint8_t expected[MESSAGE_DIGEST_SIZE]; /* the only right Auth; zero outside AUTH */
};

void server_fsm_init(struct server_fsm *fsm);
/* From any state; wipes. Accepts a zeroed machine, and may be called twice. */
void server_fsm_finish(struct server_fsm *fsm);

/* Bytes to read next: 37, 32, 1 while UP (they end the session), 0 for "do not read". */
size_t server_fsm_wanted(const struct server_fsm *fsm);
/* Exactly the wanted bytes, whatever they are; while UP any number from 1. */
void server_fsm_received(struct server_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct server_action *ret);

/* The two answers to FIND_SERVICE. The nonce is 32 fresh random bytes (keys_random) in both: a
 * stranger learns from the Ack alone that the service does not exist. -> SEND (our Hello) */
void server_fsm_service_found(struct server_fsm *fsm, const char *token, size_t token_len,
                              const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                              struct server_action *ret);
/* -> SEND_AND_CLOSE (our Hello and Ack 1 together; Auth is not waited for, as upstream) */
void server_fsm_service_unknown(struct server_fsm *fsm,
                                const uint8_t nonce[static MESSAGE_DIGEST_SIZE],
                                struct server_action *ret);
/* The answer to LOGIN. -> SEND (Ack 0); commands may follow it in the same write. */
void server_fsm_registered(struct server_fsm *fsm, struct server_action *ret);

/* While UP: writes up to count commands into out, as many whole ones as fit, and returns their size
 * in bytes. A command is never sent in part: it would cost the session. */
size_t server_fsm_commands(const struct server_fsm *fsm, enum message_command command, size_t count,
                           uint8_t *out, size_t out_size);

const char *server_fsm_state_name(enum server_fsm_state state);
const char *server_action_name(enum server_action_type type);
