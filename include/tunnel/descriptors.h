/* How many descriptors (RLIMIT_NOFILE) a configuration needs. They are counted before anything is
 * opened, because a process with too few would log in and then serve nobody.
 *
 *     descriptors_fixed()   those that are open without any visitor
 *     descriptors_needed()  the same, the reserve for control channels, and one visitor for each
 *                           service
 *     descriptors_wanted()  the same, and as many parked channels as each TCP service should have
 *
 * One client is counted for each service, since nobody knows how many will come with clients =
 * balance: each further one has channels of its own. The lobby (server/lobby.h) is not counted
 * either, because it takes a part of what is free.
 *
 * Pure functions. tests/e2e/test_limits.py compares them with the running program. */
#pragma once

#include <stddef.h>

#include "config/config.h"

unsigned int descriptors_fixed(enum config_role role, const struct config_peer *peer,
                               unsigned int workers);
/* Of these: without any service; of one service. */
unsigned int descriptors_own(enum config_role role, unsigned int workers);
unsigned int descriptors_fixed_of(enum config_role role, const struct config_service *service,
                                  unsigned int workers);
unsigned int descriptors_needed(enum config_role role, const struct config_peer *peer,
                                unsigned int workers);
unsigned int descriptors_wanted(enum config_role role, const struct config_peer *peer,
                                unsigned int workers);
/* How many of `fds` descriptors may be connections to the server that have not logged in. */
unsigned int descriptors_strangers(const struct config_peer *peer, unsigned int fds);
/* The number of services of UDP, and of all others. */
unsigned int descriptors_udp_services(const struct config_peer *peer);
unsigned int descriptors_tcp_services(const struct config_peer *peer);
/* The number of lanes of a UDP service on the server: each has a socket and a data channel. */
unsigned int descriptors_lanes(const struct config_service *service, unsigned int workers);
