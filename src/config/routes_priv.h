/* What the files of config/ share about services that differ by name (config/routes.h). */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "base/host_name.h"
#include "config/config.h"

enum { ROUTE_PATTERN_SIZE = HOST_NAME_SIZE + 2 }; /* with "*." */

/* Takes the next pattern from a service's list, which may be NULL. Returns out; NULL: no more. */
const char *route_next_pattern(const char **list, char out[static ROUTE_PATTERN_SIZE]);

static inline bool route_is_same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}
