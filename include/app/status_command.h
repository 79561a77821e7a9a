/* The command --status: asks the process that runs with a file, by the address and the token in its
 * [status], and prints a table of its services. */
#pragma once

#include <stdbool.h>

#include "config/config.h"

/* Prints the table once, with rates of one second, or again every second until a signal ends the
 * process. Returns the exit code; the cause of a failure is on standard error. file: for
 * messages. */
int status_command(const char *file, const struct config_status *config, bool is_watching);
