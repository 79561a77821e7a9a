/* What the files of config/ share about services that differ by name (config/routes.h). */
#pragma once

#include "base/host_name.h"
#include "config/config.h"

enum { ROUTE_PATTERN_SIZE = HOST_NAME_SIZE + 2 }; /* with "*." */

/* Takes the next pattern from a service's list, which may be NULL. Returns out; NULL: no more. */
const char *route_next_pattern(const char **list, char out[static ROUTE_PATTERN_SIZE]);
