/* RUST_LOG, the variable that sets rathole's log level (Rust's tracing_subscriber, EnvFilter):
 * "info", "rathole=debug", "warn,rathole=trace". Pure functions. */
#pragma once

#include "base/log.h"

/* Sets *level to what the filter asks for from this program. A directive for the target "rathole"
 * or "rathole_uring" wins over one for all targets; among equals the last one wins. Without such a
 * directive *level stays as it is. Other directives are ignored: they may be meant for other
 * programs. "off" becomes LOG_ERROR. */
void log_filter_level(const char *filter, enum log_level *level);
