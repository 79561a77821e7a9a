/* The server's addresses, as the main thread binds them: at the start (addresses_bind),
 * where what was inherited is taken first, and for a reload. Nothing here waits, for a name server
 * or for a port: names are what server->resolver has found by now, and what fails is tried again
 * every second by app/reload.c. */
#pragma once

#include "base/macros.h"
#include "config/config.h"
#include "server/binding.h"
#include "server/service.h"

struct inherited;
struct server;

/* After server_allocate, until it does not return -EAGAIN, with the time since the first call:
 * binds what it can, and listens on the control port. What inherited (NULL: nothing) has for the
 * configured addresses is taken out of it. 0: a service whose address can't be had is without it
 * from here on, which is logged, and reloads try it again. Another error: the control port can't be
 * had, which is logged. */
MUST_CHECK int addresses_bind(struct server *server, struct inherited *inherited,
                              uint32_t waited_ms);
/* Binds the control port and listens on it: a second server is refused by a port that listens.
 * Nothing is logged. -errno, or ERR_RESOLVE: no address of the name is known, not yet perhaps. */
MUST_CHECK int addresses_bind_control(struct server *server, const struct config_peer *own,
                                      struct binding **ret);
/* Binds what that configuration of a service says. Nothing is logged, save for a hint when it
 * succeeds. The same errors. */
MUST_CHECK int addresses_bind_service(struct server *server, const struct service *service,
                                      const struct config_service *config,
                                      const struct config_peer *own, struct binding **ret);

/* Whether what is bound is in the way of one of the addresses. binding NULL: it is not. */
bool addresses_is_held_by(const struct binding *binding, const struct addr *addrs, size_t count,
                          bool is_udp);
/* Who of this server has the address that a service (NULL: the control port) wants. */
struct server_holder {
    bool is_control;
    const struct service *service; /* NULL: nobody, unless is_control */
};
struct server_holder server_find_holder(struct server *server, const struct config_peer *wanted,
                                        const struct config_service *config);
/* Says why the address can't be had, each cause once: *said keeps which were. config NULL: the
 * control port. And looks its name up anew. */
void addresses_bind_failed(struct server *server, const struct config_peer *wanted,
                           const struct config_service *config, unsigned int *said, int error);
/* Says that it is bound now, if a failure was said before. */
void addresses_bind_succeeded(const struct config_service *config, const struct binding *binding,
                              unsigned int *said);
/* Counts the services without an address (server->unbound_count). */
void server_count_unbound(struct server *server);

/* Gives what is accepted from now on the options of TCP that these configurations say. */
void server_update_control_options(const struct binding *binding, const struct config_peer *own);
void server_update_service_options(const struct service *service, const struct config_peer *own);
