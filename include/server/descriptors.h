/* The server's share-out of descriptors (RLIMIT_NOFILE): how many strangers and visitors may hold,
 * and what a worker does when they run out.
 *
 *     fixed        control channels and all that is open without visitors: tunnel/descriptors.h
 *     visitors     two each, from the accept on: the second is for its channel
 *     strangers    an eighth, as long as the gate may have so many
 *     the last 32  for control channels
 *
 * Visitors are counted. The number of a new descriptor tells how many are open only if there are no
 * gaps below it, and whoever leaves makes one: a burst of visitors into such gaps would find its
 * channels in the strangers' part, and keep it. The number is a second bound, for all that nobody
 * counts: parked channels, pipes, the control channels of further clients. */
#pragma once

#include "config/config.h"

struct server;
struct server_worker;
struct timer;

/* Sets how many strangers the gate admits: as configured, but never so many that strangers and
 * visitors together could use up all descriptors. Visitors get the descriptors that remain. Main
 * thread. */
void server_fds_limit_strangers(struct server *server, const struct config_peer *config);
/* Counts what the services have that are registered now. Main thread, at the start and after each
 * reload. */
void server_fds_count_fixed(struct server *server);
/* True if a visitor may have a descriptor with this number. */
bool server_fds_leave_visitor(const struct server *server, int fd);
/* Callback of the worker's resume_timer: accepts again if there are descriptors again, and
 * otherwise frees some. */
void server_fds_resume(struct timer *timer);
/* Whether a service may take descriptors for its sockets: as many as visitors may leave. For the
 * main thread. */
bool server_fds_are_enough_for(const struct server *server, const struct config_service *config);
