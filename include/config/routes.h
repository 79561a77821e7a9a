/* Services that share a bind_addr and differ by name: `sni` names the server in a visitor's TLS
 * ClientHello, `host` the host of its HTTP request, and `default` takes the rest.
 *
 *     [server.services.a]  bind_addr = [::]:443  sni = a.example.com
 *     [server.services.b]  bind_addr = [::]:443  sni = *.b.example.com
 *     [server.services.c]  bind_addr = [::]:443  default = true
 *
 * config_load adds a front for each such address, as the last services.
 *
 * A front is a service that has the address, and no client: its name is the address, and its
 * route_set tells which of the others a visitor is for. These have no sockets of their own
 * (config_service.is_routed).
 *
 * Of several patterns that match a name, the longest wins; one without "*" before all others.
 * "*.b.example.com" stands for every name that ends so, at any depth, and not for b.example.com.
 *
 * A set never changes. All copies of a front share one, which its last user frees. Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/keys.h"

struct config_peer;
struct route_set;

enum route_kind { ROUTE_SNI, ROUTE_HOST };

/* Makes the set of the routed services with the address of one of them; the caller is its first
 * user. -ENOMEM. */
MUST_CHECK int route_set_create(const struct config_peer *server, size_t service_index,
                                const struct route_set **ret);
const struct route_set *route_set_use(const struct route_set *set); /* accepts NULL; returns set */
void route_set_drop(const struct route_set *set);                   /* accepts NULL */
bool route_set_equal(const struct route_set *a, const struct route_set *b); /* accepts NULL */

/* The digest of the service (keys_service_digest) for a name in its one form (base/host_name.h);
 * name NULL: the visitor has none. NULL: no service wants it. */
const uint8_t *route_set_find(const struct route_set *set, enum route_kind kind, const char *name);
