/* The client on the fake loop, against a server whose bytes the test writes by hand. Linked with
 * --wrap=resolver_ask, --wrap=resolver_abandon and --wrap=socket: the test answers names and
 * refuses sockets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client.h"
#include "proto/message.h"
#include "side.h"

struct rig {
    struct config *config;
    struct client *client;
    struct side side;
    int listener, local; /* the listeners of the server and of the local service */
    struct addr server_addr, local_addr;
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

struct rig_options {
    unsigned int workers, services; /* 0: one */
    const char *server_host;        /* NULL: 127.0.0.1 */
    const char *local_host;
    /* The URL of a proxy, up to its host: the rig's listener is the proxy. NULL: none. */
    const char *proxy;
    uint64_t seed;
};

void rig_init(struct rig *rig, const struct rig_options *options);
/* Nothing may be left: channels, logins, descriptors. */
void rig_finish(struct rig *rig);
void close_listener(int *fd);

/* ---- names ---- */

extern resolver_answered_fn *asked_answered; /* NULL: nobody waits for an answer */
extern unsigned int asked_count;

void answer(const struct resolver_answer *resolver_answer);
void answer_two(struct rig *rig, struct addr first, struct addr second);
/* An address at which nobody listens. */
struct addr nobody(void);

/* ---- sockets ---- */

extern unsigned int refused_count;

/* From now on, with this error; AF_UNSPEC: none. */
void refuse_sockets(int family, int error);

/* An address that drops packets: the accept queue of its listener is full. */
struct hole {
    struct addr addr;
    int fd, filler;
};

void hole_open(struct hole *hole);
void hole_close(struct hole *hole);

/* ---- the other side ---- */

/* Accepts the client's next connection; -1: there is none. */
int accepted(struct rig *rig, int listener);
/* Reads the client's Hello and answers it. Then reads its Auth and, if that is right, makes the
 * connection the rig's. */
bool hear_login(struct rig *rig, int fd, unsigned int service);
void say_ack(struct rig *rig, int fd, enum message_ack ack);
/* The first login's control channel. */
int logged_in(struct rig *rig);
void ask_for(struct rig *rig, int control, unsigned int count);
bool hear_channel(struct rig *rig, int fd);
/* Asks for a data channel over the control channel, and returns it parked. */
int parked(struct rig *rig, int control);
void say_start(int fd);

/* Of the first service. */
uint32_t doubts(const struct rig *rig);
