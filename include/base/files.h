/* The files that the configuration names. A sandbox confines the process to the directories of
 * those that were opened before it (app/sandbox.h), so this remembers them, and tells its refusal
 * from a missing permission. Main thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

/* Opens a file for reading, without waiting for a FIFO or a terminal. A descriptor, -errno, or
 * ERR_SANDBOX. */
MUST_CHECK int files_open(const char *path);
/* -errno of a call on the file or directory that has just failed. ERR_SANDBOX: the file's
 * permissions (mode: R_OK, ...) would have allowed it. */
int files_error(const char *path, int mode);
/* From here on the sandbox may be the reason. */
void files_confine(void);

/* Some files stand for others in their directory. */
size_t files_opened_count(void);
const char *files_opened(size_t index);
