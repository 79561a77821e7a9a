/* The command init: a pair of configuration files with fresh secrets. */
#pragma once

#include "base/macros.h"

/* Goes to the directory and writes server.ini and client.ini there, or neither. -EEXIST: one of
 * them is there already; another -errno. keys_init must have been called. */
MUST_CHECK int init_command(const char *directory);
