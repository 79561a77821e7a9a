/* Copies of parts of a configuration, for objects that outlive the whole (a service, a role). The
 * caller owns a copy, which is read-only; freeing it wipes its secrets. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

/* 0 or -ENOMEM. */
MUST_CHECK int config_service_copy(const struct config_service *service,
                                   const struct config_service **ret);
void config_service_free(const struct config_service *service); /* accepts NULL */
/* The same for a struct of the caller's. 0 or -ENOMEM; then there is nothing to finish. */
MUST_CHECK int config_service_copy_to(const struct config_service *service,
                                      struct config_service *ret);
/* Wipes the secret, frees the texts and leaves zeros. */
void config_service_finish(struct config_service *service);

/* Copies all but the services and default_token, which the services have taken over. 0 or
 * -ENOMEM. */
MUST_CHECK int config_peer_copy(const struct config_peer *peer, const struct config_peer **ret);
void config_peer_free(const struct config_peer *peer); /* accepts NULL */

/* A copy for the caller's own struct. 0 or -ENOMEM; then there is nothing to finish. */
MUST_CHECK int config_transport_copy(const struct config_transport *transport,
                                     struct config_transport *ret);
/* Wipes the secrets, frees the texts and leaves zeros. */
void config_transport_finish(struct config_transport *transport);
