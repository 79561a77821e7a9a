/* The secrets that a server without a configuration file makes once and keeps, so that it has the
 * same ones after a restart: files of mode 0600 in ${XDG_CONFIG_HOME:-$HOME/.config}/rathole-uring.
 * Each has 32 random bytes in base64, which is a private key of X25519 as well. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "base/macros.h"

/* Makes the file if it is not there. path: of the file, or of what can't be made. -errno. keys_init
 * must have been called. */
MUST_CHECK int kept_make(const char *name, char path[static PATH_MAX], bool *ret_is_new);
