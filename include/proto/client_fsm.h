/* A control channel as the client sees it, from the connection to its end: a pure state machine.
 * No descriptor, no clock, no allocation, no logging; the caller (tunnel/) connects, reads, writes
 * and keeps the deadlines.
 *
 *     IDLE --start--> HELLO --server hello--> ACK --ack 0--> UP --bad command--> CLOSED
 *                       |                      |
 *                       +--anything else-------+--ack 1, ack 2, anything else--> CLOSED
 *
 * The caller's loop during login: read exactly client_fsm_wanted() bytes, hand them to
 * client_fsm_received(), carry out the action:
 *
 *   SEND   bytes, len; go on reading meanwhile
 *   UP     logged in: from now on everything read goes to client_fsm_commands
 *   CLOSE  close and back off (proto/client_backoff.h); error says why
 *
 * A write that fails is reported with client_fsm_send_failed. It does not end the login while the
 * server's Ack may still be readable: a server that does not know the service answers without
 * reading our Auth and closes, so the Auth fails although the reason waits in the socket.
 *
 * A machine belongs to one connection and its worker, and points to nothing of anybody else's: a
 * configuration may go between two of its messages. It holds the session key, and before that what
 * the token has become (struct keys_auth); client_fsm_finish wipes both and is due in every case.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/keys.h"
#include "proto/message.h"

enum client_fsm_state {
    CLIENT_FSM_IDLE,
    CLIENT_FSM_HELLO, /* our Hello is on its way; wants 37 bytes */
    CLIENT_FSM_ACK,   /* our Auth is on its way; wants 4 bytes */
    CLIENT_FSM_UP,    /* logged in; commands come */
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
    int error; /* CLOSE: ERR_PROTOCOL, ERR_VERSION, ERR_NO_SERVICE, ERR_AUTH, or that of a send */
    size_t len;
    uint8_t bytes[CLIENT_ACTION_BYTES]; /* the Auth is a secret: wipe it once it is sent */
};

/* What one chunk of the command stream asks for. Any complete command, of either kind, shows that
 * the server lives; incomplete ones do not. */
struct client_commands {
    size_t channels; /* to open; the caller has a limit for a server that floods */
    size_t heartbeats;
};

struct client_fsm {
    enum client_fsm_state state;
    int send_error;        /* the first failed send, 0 = none */
    struct keys_auth auth; /* the token, until the nonce comes */
    uint8_t session_key[MESSAGE_DIGEST_SIZE];
    uint8_t partial[MESSAGE_COMMAND_SIZE]; /* the beginning of a command */
    size_t partial_len;
};

void client_fsm_init(struct client_fsm *fsm);
/* From any state; wipes. Accepts a zeroed machine, and may be called twice. */
void client_fsm_finish(struct client_fsm *fsm);

/* The connection is there. -> SEND (our Hello). Nothing is borrowed beyond the call. */
void client_fsm_start(struct client_fsm *fsm, const char *service, size_t service_len,
                      const char *token, size_t token_len, struct client_action *ret);

/* Bytes to read next: 37, then 4; 0 while UP (any number, for client_fsm_commands) and otherwise.
 */
size_t client_fsm_wanted(const struct client_fsm *fsm);
/* Exactly the wanted bytes, whatever they are. */
void client_fsm_received(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                         struct client_action *ret);

/* A send failed with -errno. True: go on reading, an Ack may be there. False: the machine is
 * CLOSED, close and back off. */
MUST_CHECK bool client_fsm_send_failed(struct client_fsm *fsm, int error);
/* The stream ended, with ERR_EOF or -errno. CLOSED; returns what to report: the failed send that
 * came first, if there was one, else `error`. */
int client_fsm_ended(struct client_fsm *fsm, int error);

/* While UP: any bytes in any pieces. ERR_PROTOCOL: an unknown command; the machine is CLOSED and
 * what the chunk held before it is not reported. */
MUST_CHECK int client_fsm_commands(struct client_fsm *fsm, const uint8_t *bytes, size_t len,
                                   struct client_commands *ret);

/* The ticket for this session's data channels, valid while UP. Points into the machine: copy it for
 * a channel that may outlive it, and wipe the copy. */
const uint8_t *client_fsm_session_key(const struct client_fsm *fsm);

const char *client_fsm_state_name(enum client_fsm_state state);
const char *client_action_name(enum client_action_type type);
