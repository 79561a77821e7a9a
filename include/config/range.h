/* Ranges of ports: one section stands for a service at each port.
 *
 *     [server.services."game-{port}"]
 *     bind_addr = 0.0.0.0:6000-6999      game-6000 at port 6000, ..., game-6999 at port 6999
 *
 * "{port}" in the name is replaced by the port of the address; "{port-1000}" and "{port+1000}" by
 * one that is so much lower or higher, for a client whose local ports are not those of the server.
 *
 * A server keeps its ranges as they are (server/range_set.h), because a member costs something only
 * while a client serves it. config_load replaces those of a client by their members: each has a
 * control channel anyway. All functions are pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "config/config.h"

/* Room for "host:FIRST-LAST". */
enum { CONFIG_ADDR_SIZE = ADDR_HOST_SIZE + 16 };

static inline bool config_is_range(const struct config_service *service)
{
    return service->port_last != 0;
}
/* How many services the section stands for: 1 if it is no range. */
static inline unsigned int config_range_count(const struct config_service *service)
{
    return config_is_range(service) ? service->port_last - service->addr.port + 1u : 1;
}
/* Whether a name has {port} in it. */
bool config_range_is_name(const char *name);
/* Whether the names of the range stay within the ports that exist, 1 to 65535. */
bool config_range_names_are_ports(const struct config_service *range);
/* Writes the name of the member at this port; the name itself if the section is no range. */
void config_range_name(const struct config_service *range, uint16_t port,
                       char ret[static LIMIT_SERVICE_NAME + 1]);
/* True if a member, or the service itself if it is no range, has this name. *ret_port: its
 * port (0 of a unix socket). */
bool config_range_find(const struct config_service *range, const char *name, uint16_t *ret_port);
/* True if a section has a name in common with a range. ret: such a name. */
bool config_range_share_name(const struct config_service *a, const struct config_service *b,
                             char ret[static LIMIT_SERVICE_NAME + 1]);
/* Writes the address, of a range as "host:FIRST-LAST", cut to fit. Returns out. */
const char *config_addr_format(const struct config_service *service, char *out, size_t out_size);
