/* Copies of parts of a configuration, for whoever keeps a part longer than the whole: each is
 * malloc'ed, read-only from then on, and its owner's to free. Secrets are wiped with it. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

/* -ENOMEM. */
MUST_CHECK int config_service_copy(const struct config_service *service,
                                   const struct config_service **ret);
void config_service_free(const struct config_service *service); /* accepts NULL */

/* All but the services and default_token, which the services have by now. -ENOMEM. */
MUST_CHECK int config_peer_copy(const struct config_peer *peer, const struct config_peer **ret);
void config_peer_free(const struct config_peer *peer); /* accepts NULL */
