/* The part of --check that needs this machine's network: do the server's addresses conflict with
 * each other, and can they be bound now? */
#pragma once

#include "config/config.h"

/* Looks names up, for at most LIMIT_CHECK_NAMES_MS in all, and tries to bind each address. Appends
 * what it finds to the report. Without a resolver it warns on stderr and checks nothing. Blocks. */
void check_addresses(const char *path, const struct config_peer *server,
                     struct config_report *report);
