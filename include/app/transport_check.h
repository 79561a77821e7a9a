/* Can the transport of a configuration be made here? The files that it names are not the
 * configuration's own: they are read at the start, for --check, and on every reload, because a
 * certificate may be new while no key has changed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/macros.h"
#include "config/config.h"

struct recipe;

enum { TRANSPORT_PROBLEM_SIZE = 1024 };

/* 0, with a warning or "" in said and the recipe in *ret (NULL: not wanted); or ERR_CONFIG, with
 * the reason in said. Either is "FILE: KEY: text". */
MUST_CHECK int transport_check(const char *file, enum config_role role,
                               const struct config_peer *peer,
                               char said[static TRANSPORT_PROBLEM_SIZE], struct recipe **ret);
/* Logs which library does TLS, if the transport has it. */
void transport_log_library(const struct config_peer *peer);

/* True, with the words for it, if a certificate that expires at `expiry` (0: there is none) needs
 * the operator's attention `now`: LIMIT_CERTIFICATE_WARNING_S before, and ever after. */
bool transport_warn_of_expiry(time_t expiry, time_t now, char *text, size_t size);
