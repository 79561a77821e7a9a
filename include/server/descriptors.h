/* The server's share-out of descriptors: how many strangers and visitors may hold, and what a
 * worker does when they run out. */
#pragma once

#include "config/config.h"

struct server;
struct timer;

/* Sets how many strangers the gate admits: as configured, but never so many that strangers and
 * visitors together could use up all descriptors. Visitors get the descriptors that remain. Main
 * thread. */
void server_fds_limit_strangers(struct server *server, const struct config_peer *config);
/* Callback of the worker's resume_timer: accepts again if there are descriptors again, and
 * otherwise frees some. */
void server_fds_resume(struct timer *timer);
/* Whether a service may take descriptors for its sockets: as many as visitors may leave. For the
 * main thread. */
bool server_fds_are_enough_for(const struct server *server, const struct config_service *config);
