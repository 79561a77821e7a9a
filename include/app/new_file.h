/* Files that this program makes: secrets, and configurations with secrets in them. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

/* -errno. */
MUST_CHECK int write_all(int fd, const char *text, size_t size);
/* Makes a file of mode 0600, whatever the umask. -EEXIST: there is one already, which stays as it
 * is; another -errno: there is none. */
MUST_CHECK int new_file_write(const char *path, const char *text, size_t size);
