/* RUST_LOG, which is how rathole is told its level: "info", "rathole=debug", "warn,rathole=trace".
 * Pure. */
#pragma once

#include "base/log.h"

/* The level that the filter asks for of this program: under rathole's name, under its own, or for
 * all; the last of those that are the most exact. *level stays where there is none: other programs
 * understand more of it, so nothing in it is an error. "off" leaves errors. */
void log_filter_level(const char *filter, enum log_level *level);
