/* Do the limits of the process (getrlimit(2)) allow what is configured? This is asked before
 * anything is opened. Also the hints that tell an administrator which limit may have been hit. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

enum { LIMITS_TEXT_SIZE = 400 };

/* Counts the descriptors that the process has inherited and has no use for, because they use up the
 * limit too. To be called at the start, before the program opens anything. */
void limits_note_foreign(void);
/* Whether RLIMIT_NOFILE is high enough. False: nobody could be served; out says why and what to
 * do. */
bool limits_allow(enum config_role role, const struct config_peer *peer, unsigned int workers,
                  char out[static LIMITS_TEXT_SIZE]);
/* True: the limit is high enough, but visitors of one service will wait for those of another; out
 * says so. */
bool limits_are_tight(enum config_role role, const struct config_peer *peer, unsigned int workers,
                      char out[static LIMITS_TEXT_SIZE]);
/* The limits that may have caused an error (-errno) of creating a thread, allocating memory or
 * opening a descriptor, as " (...)"; "" if there are none. Returns out. */
const char *limits_hint(int error, char out[static LIMITS_TEXT_SIZE]);
