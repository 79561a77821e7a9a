/* Whether the limits of the process allow what is configured, before anything is opened, and what
 * to tell an administrator when one of them has been met. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

enum { LIMITS_TEXT_SIZE = 400 };

/* At start, before the program has opened anything of its own: descriptors that it was given and
 * knows nothing of are counted, for others can't have them. */
void limits_note_foreign(void);
/* RLIMIT_NOFILE. False: with so few nobody could be served; says why. */
bool limits_allow(enum config_role role, const struct config_peer *peer, unsigned int workers,
                  char out[static LIMITS_TEXT_SIZE]);
/* They do, but services will wait for each other; says so. */
bool limits_are_tight(enum config_role role, const struct config_peer *peer, unsigned int workers,
                      char out[static LIMITS_TEXT_SIZE]);
/* The limits that may be behind an error of a thread's or memory's making, as " (...)"; "" when
 * there is nothing to say. */
const char *limits_hint(int error, char out[static LIMITS_TEXT_SIZE]);
