/* Binds the server's addresses: at the start (addresses_bind), where inherited sockets are taken
 * first, and for a reload. Only the main thread calls this.
 *
 * Nothing here waits for a name server or a port. Names stand for the addresses that
 * server->resolver has found by now, and app/reload.c tries failed addresses again every second. */
#pragma once

#include "base/macros.h"
#include "config/config.h"
#include "server/binding.h"
#include "server/service.h"

struct inherited;
struct server;

/* Binds the addresses, and listens on the control port. To be called after server_allocate, and
 * again while it returns -EAGAIN; waited_ms: the time since the first call. The sockets for these
 * addresses are taken out of `inherited` (NULL: there are none).
 *
 * 0: the server can start. It starts without the addresses that could not be bound; they are
 * logged, and reloads try them again. -ENOMEM. Another error: the control port can't be bound,
 * which is logged. */
MUST_CHECK int addresses_bind(struct server *server, struct inherited *inherited,
                              uint32_t waited_ms);
/* Binds the control port and listens at once: bind() alone does not exclude a second server that
 * also sets SO_REUSEADDR (socket(7)). -errno, or ERR_RESOLVE: no address of the name is known,
 * perhaps not yet. Logs nothing. The caller owns the binding. *ret_tried: the last address of the
 * name that was tried, which is the one that -errno is about. */
MUST_CHECK int addresses_bind_control(struct server *server, const struct config_peer *own,
                                      struct binding **ret, struct addr *ret_tried);
/* Binds the address of a service as `config` says, which may be newer than the service's own.
 * Returns the same errors, which it does not log; it may log a hint about the receive buffer. The
 * caller owns the binding. */
MUST_CHECK int addresses_bind_service(struct server *server, const struct service *service,
                                      const struct config_service *config,
                                      const struct config_peer *own, struct binding **ret,
                                      struct addr *ret_tried);

/* True if a binding of the same protocol holds one of the addresses, perhaps by a wildcard. binding
 * NULL: false. */
bool addresses_is_held_by(const struct binding *binding, const struct addr *addrs, size_t count,
                          bool is_udp);
/* Whether somebody else holds part of an address that bindings of ours hold in part: then one more
 * socket with SO_REUSEPORT can't join ours there. False also if the others are of this user and
 * have SO_REUSEPORT too, as another server's sockets do; those can't be told from ours. Binds for a
 * moment, so no socket of ours may serve the whole address: a UDP lane would lose datagrams. */
bool addresses_is_held_by_others(const struct addr *addr, bool is_udp);
/* Which of this server's bindings holds the address that a service (config NULL: the control port)
 * wants. */
struct server_holder {
    bool is_control;
    const struct service *service; /* NULL: no service has it */
};
struct server_holder server_find_holder(struct server *server, const struct config_peer *wanted,
                                        const struct config_service *config);
/* An address could not be bound. Logs why, each cause once (*said has the causes that were logged),
 * and looks the name up again. config NULL: the control port. */
void addresses_bind_failed(struct server *server, const struct config_peer *wanted,
                           const struct config_service *config, unsigned int *said, int error);
/* The address is bound now. Logs that if a failure was logged before. */
void addresses_bind_succeeded(const struct config_service *config, const struct binding *binding,
                              unsigned int *said);
/* Updates server->unbound_count, the number of services without an address. */
void server_count_unbound(struct server *server);

/* Sets the configured TCP options on the listeners. Accepted sockets inherit them, so they hold for
 * new connections. */
void server_update_control_options(const struct binding *binding, const struct config_peer *own);
void server_update_service_options(const struct service *service, const struct config_peer *own);
