/* A server or client with one UDP service on the fake loop, with one worker, or with a
 * second one that starts later. The test plays the other side of its control and data channels. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/client.h"
#include "config/config.h"
#include "crypto/keys.h"
#include "proto/udp_frame.h"
#include "server/server.h"

struct udp_rig {
    const struct role *role;
    struct config *config;
    struct server *server;
    struct client *client;
    struct tunnel_workers all;
    union {
        struct tunnel_worker worker; /* the first */
        struct tunnel_worker workers[2];
    };
    unsigned int started; /* of the workers */
    struct mailbox_group *mailboxes;
    struct addr control_addr; /* of the server under test, or of the test's listener */
    struct addr udp_addr;     /* of the service's port, or of the local service */
    int listener, control;    /* the test's */
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

/* more: further lines for the service's section. */
void udp_rig_init_server(struct udp_rig *rig, const char *bind_host, const char *more);
/* For two workers, of which the second is to be started (udp_rig_start_second) by the test. */
void udp_rig_init_server_of_two(struct udp_rig *rig, const char *bind_host, const char *more);
void udp_rig_start_second(struct udp_rig *rig);
void udp_rig_init_client(struct udp_rig *rig, const char *more);
/* local_host: the name of the local service, at the port of udp_addr. */
void udp_rig_init_client_of(struct udp_rig *rig, const char *local_host);
void udp_rig_finish(struct udp_rig *rig);
/* Closes the test's sockets and lets the rig notice it, then finishes. */
void udp_rig_end(struct udp_rig *rig, const int *fds, size_t count);
void udp_rig_settle(struct udp_rig *rig, int turns);
void udp_rig_advance(struct udp_rig *rig, uint64_t ms);
uint64_t udp_rig_count(const struct udp_rig *rig, enum metric metric);

/* Logs in as the client, or answers the client's login. Then rig->control is the control
 * channel. */
void udp_rig_log_in(struct udp_rig *rig);
/* As the client: the number of channels requested since the last call. */
unsigned int udp_rig_requests(struct udp_rig *rig);
/* Opens a data channel, or accepts the client's, up to its StartForwardUdp. */
int udp_rig_channel(struct udp_rig *rig);
/* For a server under test, its two parts: up to the Hello, and the StartForwardUdp. */
int udp_rig_dial_channel(struct udp_rig *rig);
void udp_rig_await_start(struct udp_rig *rig, int fd);

void udp_rig_send_frame(struct udp_rig *rig, int fd, const struct udp_frame_addr *from,
                        const void *payload, size_t size);
/* Reads the next frame of a channel. False: none came, or the channel has ended. The payload is
 * valid until the next call. */
bool udp_rig_get_frame(struct udp_rig *rig, int fd, struct udp_frame *ret);
bool udp_rig_has_ended(struct udp_rig *rig, int fd);

/* A visitor's non-blocking socket, connected to `to`. */
int udp_rig_visitor(const char *own_host, const struct addr *to);
/* The size of the datagram that arrives; -1: none came. */
ssize_t udp_rig_receive(struct udp_rig *rig, int fd, void *out, size_t size);
