/* The part of --check that needs this machine's network: whether the server's addresses are in each
 * other's way, and whether they could be had now. */
#pragma once

#include "config/config.h"

/* Looks names up, for at most LIMIT_CHECK_NAMES_MS in all, and tries the ports. Appends to the
 * report. */
void check_addresses(const char *path, const struct config_peer *server,
                     struct config_report *report);
