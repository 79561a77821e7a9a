/* Can the transport of a configuration be made here? The files that it names are not the
 * configuration's own: they are read at the start, for --check, and on every reload, because a
 * certificate may be new while no key has changed. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

enum { TRANSPORT_PROBLEM_SIZE = 1024 };

/* 0, or ERR_CONFIG with "FILE: KEY: why" in problem. */
MUST_CHECK int transport_check(const char *file, enum config_role role,
                               const struct config_peer *peer,
                               char problem[static TRANSPORT_PROBLEM_SIZE]);
