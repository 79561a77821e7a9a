/* The life of the process as a server or a client: starts the workers, answers signals, ends them,
 * in symmetric order. Belongs to the main thread, which does nothing else until the end. */
#pragma once

#include "base/macros.h"
#include "config/config.h"

enum exit_code { EXIT_STOPPED = 0, EXIT_START_ERROR = 1, EXIT_USAGE = 2 };

struct program;

/* Serves until asked to stop, until a successor has taken over and the last relay has ended, or
 * until a worker fails; the cause is logged. path: the file that config came from, watched from
 * here on. program is what an upgrade starts. */
MUST_CHECK enum exit_code run_role(enum config_role role, const struct config *config,
                                   const char *path, const struct program *program);
