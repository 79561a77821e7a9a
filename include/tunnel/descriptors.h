/* How many descriptors a configuration takes, counted before anything is opened: a process with
 * fewer would log in and serve nobody.
 *
 *     descriptors_fixed()   what is open when nobody visits
 *     descriptors_needed()  the same, what is kept for control channels, and one visitor for each
 *                           service
 *     descriptors_wanted()  the same with as many channels waiting for visitors as there should be
 *
 * Pure functions. tests/e2e/test_limits.py holds them against the real program. */
#pragma once

#include <stddef.h>

#include "config/config.h"

unsigned int descriptors_fixed(enum config_role role, const struct config_peer *peer,
                               unsigned int workers);
unsigned int descriptors_needed(enum config_role role, const struct config_peer *peer,
                                unsigned int workers);
unsigned int descriptors_wanted(enum config_role role, const struct config_peer *peer,
                                unsigned int workers);
/* How many of these may be connections to the server that have not logged in. */
unsigned int descriptors_strangers(const struct config_peer *peer, unsigned int fds);
/* Services of that type. */
unsigned int descriptors_services(const struct config_peer *peer, enum config_service_type type);
/* The sockets, and so the data channels, of a UDP service on the server. */
unsigned int descriptors_lanes(const struct config_service *service, unsigned int workers);
