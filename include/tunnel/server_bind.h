/* The server's addresses, as the main thread binds them: at the start, where what was inherited is
 * taken first, and for a reload (inherited NULL). */
#pragma once

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/binding.h"
#include "tunnel/service.h"

/* Binds the control port and listens on it: a second server is refused by a port that listens.
 * Nothing is logged. inherited may be NULL, here and below. -errno or ERR_RESOLVE. */
MUST_CHECK int server_bind_control(const struct config_peer *own, unsigned int workers,
                                   struct inherited *inherited, unsigned int wait_ms,
                                   struct binding **ret);
/* Binds what that configuration of a service says. Nothing is logged, save for a hint when it
 * succeeds. -errno or ERR_RESOLVE. */
MUST_CHECK int server_bind_service(const struct service *service,
                                   const struct config_service *config,
                                   const struct config_peer *own, struct inherited *inherited,
                                   unsigned int wait_ms, struct binding **ret);
/* Gives what is accepted from now on the options of TCP that these configurations say. */
void server_update_control_options(const struct binding *binding, const struct config_peer *own);
void server_update_service_options(const struct service *service, const struct config_peer *own);
