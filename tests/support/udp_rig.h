/* A server or a client with one UDP service on the fake loop, and by hand the other side of its
 * control and data channels. One worker each. */
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
    struct tunnel_worker worker;
    struct mailbox_group *mailboxes;
    struct addr control_addr; /* of the server, ours or by hand */
    struct addr udp_addr;     /* of the service's port, or of the local service */
    int listener, control;    /* by hand */
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

/* more: lines for the service's section. */
void udp_rig_init_server(struct udp_rig *rig, const char *bind_host, const char *more);
void udp_rig_init_client(struct udp_rig *rig, const char *more);
/* The local service by this name, with the port of udp_addr. */
void udp_rig_init_client_of(struct udp_rig *rig, const char *local_host);
void udp_rig_finish(struct udp_rig *rig);
/* The same after the test's own sockets have been closed and their ends been seen. */
void udp_rig_end(struct udp_rig *rig, const int *fds, size_t count);
void udp_rig_settle(struct udp_rig *rig, int turns);
void udp_rig_advance(struct udp_rig *rig, uint64_t ms);
uint64_t udp_rig_count(const struct udp_rig *rig, enum metric metric);

/* Logs in as the client, or answers its login; rig->control is the control channel then. */
void udp_rig_log_in(struct udp_rig *rig);
/* As the client: how many channels have been asked for since the last call. */
unsigned int udp_rig_requests(struct udp_rig *rig);
/* A data channel that has been started. */
int udp_rig_channel(struct udp_rig *rig);

void udp_rig_send_frame(struct udp_rig *rig, int fd, const struct udp_frame_addr *from,
                        const void *payload, size_t size);
/* The next frame of a channel within some turns; false: none, or the channel has ended. The payload
 * is valid until the next call. */
bool udp_rig_get_frame(struct udp_rig *rig, int fd, struct udp_frame *ret);
bool udp_rig_has_ended(struct udp_rig *rig, int fd);

/* A visitor's socket, connected to `to`, non-blocking. */
int udp_rig_visitor(const char *own_host, const struct addr *to);
/* What arrives within some turns; -1: nothing. */
ssize_t udp_rig_receive(struct udp_rig *rig, int fd, void *out, size_t size);
