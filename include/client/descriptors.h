/* How a client shares its descriptors (RLIMIT_NOFILE), and who may have the last ones:
 *
 *     fixed            control channels and all that is open without visitors: tunnel/descriptors.h
 *     TCP visitors     two each; the second is reserved as soon as the first is open
 *     UDP visitors     one each; a share of what the fixed ones leave (udp_share.h)
 *     the last 32      for control channels; and some of them for data channels of UDP services
 *
 * They are counted, because the number of a new descriptor tells how many are open only if there
 * are no gaps below it. Two rules keep a crowd from starving others: the first data channel of a
 * TCP service comes before further ones of other services, and a part of UDP's share is never used
 * for TCP.
 *
 * Shared by all workers; every field is atomic or constant. */
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
    int max;                              /* numbers from this one on are for control channels */
    _Atomic int fixed;                    /* with one control channel for each service */
    _Atomic int more_controls;            /* and the others of servers = all */
    _Atomic int tcp_services, tcp_served; /* configured; with at least one data channel */
    _Atomic int tcp_channels;             /* data channels that have a descriptor, or relay */
    _Atomic int half_open;                /* data channels that lack their second descriptor */
    struct udp_share udp;
};

/* -ENOMEM. client_fds_finish accepts a zeroed object, and one whose init failed. */
MUST_CHECK int client_fds_init(struct client_fds *fds, const struct config_peer *config,
                               unsigned int workers);
void client_fds_finish(struct client_fds *fds);
/* Applies a new configuration, also while workers use the counts. */
void client_fds_configure(struct client_fds *fds, const struct config_peer *config,
                          unsigned int workers);

/* hold counts two descriptors for a data channel and its relay, before either is open. False: none
 * are left for this service. release takes that back, when both are closed. Channels of UDP
 * services are not counted. */
MUST_CHECK bool client_fds_hold(struct client_fds *fds, struct client_service *service);
void client_fds_release(struct client_fds *fds, struct client_service *service);
/* A new data channel of the service must have a descriptor below this number. */
int client_fds_channel_max(const struct client_fds *fds, const struct client_service *service);

/* Returns a socket for a connection, numbered below fd_max, as socket_for_dialing does. If there is
 * none, UDP visitors of this worker are closed and it tries once more. -EMFILE also if the number
 * is too high. */
MUST_CHECK int client_fds_dial(struct client_worker *worker, const struct addr *addr,
                               const struct socket_options *options, int fd_max);
