/* A control channel on the client, from the connection to its end: a pure state machine. It has no
 * descriptor, no clock, no allocation and no logging; the caller (client/control.c) connects,
 * reads, writes and keeps the deadlines.
 *
 *     IDLE --start--> HELLO --server hello--> ACK --ack 0--> UP --bad command--> CLOSED
 *                       |                      |
 *                       +--anything else-------+--ack 1, ack 2, anything else--> CLOSED
 *
 * During login the caller reads exactly client_fsm_wanted() bytes, passes them to
 * client_fsm_received() and carries out the action:
 *
 *   SEND   send bytes, len; go on reading meanwhile
 *   UP     logged in: from now on, pass everything read to client_fsm_commands
 *   CLOSE  close and back off (proto/client_backoff.h); error says why
 *
 * The caller reports a failed write with client_fsm_send_failed. The write of the Auth may fail
 * although the Ack with the reason waits in the socket: a server that does not know the service
 * sends its Ack and closes without reading the Auth. So that failure does not end the login yet.
 *
 * A machine belongs to one connection and its worker. It points to no other memory, because a
 * reload may free a configuration between two messages. It holds secrets (struct keys_auth, then
 * the session key), which client_fsm_finish wipes; call it on every path. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "proto/message.h"

enum client_fsm_state {
    CLIENT_FSM_IDLE,
    CLIENT_FSM_HELLO, /* our Hello was sent; wants 37 bytes, the server's */
    CLIENT_FSM_ACK,   /* our Auth was sent; wants 4 bytes, the Ack */
    CLIENT_FSM_UP,    /* logged in; reads commands */
    CLIENT_FSM_CLOSED,
    CLIENT_FSM_STATE_COUNT,
};

enum client_action_type {
    CLIENT_ACTION_SEND,
    CLIENT_ACTION_UP,
    CLIENT_ACTION_CLOSE,
    CLIENT_ACTION_COUNT,
};

enum { CLIENT_ACTION_BYTES = MESSAGE_HELLO_SIZE };

struct client_action {
    enum client_action_type type;
    int error; /* CLOSE: ERR_PROTOCOL, _VERSION, _NO_SERVICE, _AUTH, or that of a failed send */
    size_t len;
    uint8_t bytes[CLIENT_ACTION_BYTES]; /* the Auth is a secret: wipe it once it is sent */
};

/* The complete commands in one chunk of the stream. Any of them shows that the server is alive; a
 * part of a command does not. */
struct client_commands {
    size_t channels; /* to open; the caller bounds a server that floods */
    size_t heartbeats;
};

struct client_fsm {
    enum client_fsm_state state;
    int send_error;        /* the first failed send, 0 = none */
    struct keys_auth auth; /* the hashed token, until the nonce comes */
    uint8_t session_key[MESSAGE_DIGEST_SIZE];
    uint8_t partial[MESSAGE_COMMAND_SIZE]; /* of a command whose rest has not come yet */
    size_t partial_len;
};

void client_fsm_init(struct client_fsm *fsm);
/* Goes to CLOSED from any state and wipes the secrets. Idempotent; accepts a zeroed machine. */
void client_fsm_finish(struct client_fsm *fsm);

/* The connection is established. -> SEND (our Hello). Borrows nothing beyond the call. */
void client_fsm_start(struct client_fsm *fsm, const char *service, size_t service_len,
                      const char *token, size_t token_len, struct client_action *ret);

/* The bytes to read next: 37 in HELLO, 4 in ACK, else 0. While UP, any number may be read. */
size_t client_fsm_wanted(const struct client_fsm *fsm);
/* Takes exactly the wanted bytes. They may be anything. */
void client_fsm_received(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct client_action *ret);

/* A send failed with -errno. True: go on reading, because an Ack may be there. False: the machine
 * is CLOSED; close and back off. */
MUST_CHECK bool client_fsm_send_failed(struct client_fsm *fsm, int error);
/* The stream ended, with ERR_EOF or -errno. Goes to CLOSED and returns the error to report: that of
 * an earlier failed send, else `error`. */
int client_fsm_ended(struct client_fsm *fsm, int error);

/* While UP: takes bytes in pieces of any size. ERR_PROTOCOL: an unknown command. Then the machine
 * is CLOSED, and the commands before it are not reported. */
MUST_CHECK int client_fsm_commands(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                                   struct client_commands *ret);

/* The key with which data channels join this session; only while UP. Points into the machine: copy
 * it for a channel that may outlive the machine, and wipe the copy. */
const uint8_t *client_fsm_session_key(const struct client_fsm *fsm);

const char *client_fsm_state_name(enum client_fsm_state state);
const char *client_action_name(enum client_action_type type);
