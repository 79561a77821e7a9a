/* The descriptors of a client, and who may have the last ones:
 *
 *     fixed            control channels and all that is open without visitors (descriptors.h)
 *     TCP visitors     two each, the second counted from the moment the first is there
 *     UDP visitors     one each; a share of what the fixed ones leave (udp_share.h)
 *     the last 32      for control channels; and some of them for data channels of UDP services
 *
 * Numbers of descriptors say how many there are only while there are no holes among them, so they
 * are counted. A TCP service that has no data channel comes before one that has some, and a part of
 * UDP's share stays UDP's: neither a crowd nor what waits for one keeps the others out.
 *
 * Shared by the workers; all of it is atomic. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/macros.h"
#include "client/udp_share.h"
#include "config/config.h"

struct addr;
struct client_service;
struct client_worker;
struct socket_options;

struct client_fds {
    int max; /* descriptors from this number on are kept for control channels */
    _Atomic int fixed;
    _Atomic int tcp_services, tcp_served; /* configured; and with a data channel at least */
    _Atomic int tcp_channels;             /* data channels with a descriptor, relays too */
    _Atomic int half_open;                /* of them, those that lack the second one */
    struct udp_share udp;
};

/* -ENOMEM. A zeroed one may be finished. */
MUST_CHECK int client_fds_init(struct client_fds *fds, const struct config_peer *config,
                               unsigned int workers);
void client_fds_finish(struct client_fds *fds);
/* Takes what depends on the configuration from it. */
void client_fds_configure(struct client_fds *fds, const struct config_peer *config,
                          unsigned int workers);

/* Counts a data channel and its relay, before it has a descriptor; false: there is no room for one
 * more of that service. And when it has given up all of its own. UDP channels are not counted. */
MUST_CHECK bool client_fds_hold(struct client_fds *fds, struct client_service *service);
void client_fds_release(struct client_fds *fds, struct client_service *service);
/* Numbers from this one on are not for a new data channel of that service. */
int client_fds_channel_max(const struct client_fds *fds, const struct client_service *service);

/* A socket for a connection, with a number below fd_max. Where there is none, UDP visitors give
 * some up. As socket_for_dialing; -EMFILE also when there are higher numbers alone. */
MUST_CHECK int client_fds_dial(struct client_worker *worker, const struct addr *addr,
                               const struct socket_options *options, int fd_max);
