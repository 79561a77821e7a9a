/* Who may come, by address: visitors of a service (server.services.NAME.allow, .deny) and strangers
 * on the control port (server.allow, .deny). The lists are read when they are needed, so a reload
 * holds for whoever comes from then on. Any thread. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "config/config.h"

struct server;
struct service;

/* Whether anything that decides about a visitor needs its address, which costs a system call. */
static inline bool access_needs_address(const struct config_service *config)
{
    return config->access.set != NULL || config->max_new_per_second_per_ip != 0 ||
           config->max_connections_per_ip != 0;
}
/* from NULL: not known, so the visitor may come only if everybody may. The visitor of a unix socket
 * has no address, and may come. */
bool access_allows_visitor(const struct service *service, const struct addr *from);
bool access_allows_stranger(const struct server *server, const struct addr *from);
/* Whether a reload has changed the server's mind about a connection to the control port that it has
 * let in. */
bool access_denies_now(const struct server *server, int fd);
