/* The limits on the visitors of a service: max_connections, in all, and max_connections_per_ip, for
 * one address (addr_key() says what that is). The counts are the service's: all workers share them,
 * and a reload of the limits holds for whoever comes from then on. */
#pragma once

#include "base/macros.h"
#include "server/addr_table.h"
#include "server/service.h"

/* Counts a visitor from the address *key. ERR_LIMIT, -ENOMEM: it is not counted, and the caller
 * closes it. Without a limit per address *key becomes all zero, so that visitor_limits_leave does
 * not look for a count that was never made. Any thread. */
MUST_CHECK int visitor_limits_enter(struct service *service, struct addr_key *key);
/* The visitor has gone. key: as visitor_limits_enter has left it. Any thread. */
void visitor_limits_leave(struct service *service, const struct addr_key *key);
