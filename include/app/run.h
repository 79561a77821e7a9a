/* The life of the process in its role: starts the workers, answers signals, ends the workers, and
 * undoes the start in reverse order. Runs in the main thread, which does nothing else until the
 * end. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

enum exit_code { EXIT_STOPPED = 0, EXIT_START_ERROR = 1, EXIT_USAGE = 2 };

struct program;
struct recipe;
struct role;
struct source;

/* Serves until a signal asks it to stop, until a successor has taken over and the last relay has
 * ended, or until a worker fails. The cause is logged. peer: the role's half of the file;
 * *recipe: of its transport, taken over by the role; source: of the peer; a file is watched for
 * changes; program: what an upgrade starts. All but the recipe are borrowed. */
MUST_CHECK enum exit_code run_role(const struct role *role, const struct config_peer *peer,
                                   struct recipe **recipe, const struct source *source,
                                   const struct program *program);
