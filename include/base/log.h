/* The log: one line per event to standard error, as text or JSON, with the service's name where
 * there is one. Lines are built on the stack and written with one write(2); when the reader is
 * stuck, lines are dropped and counted, the process never waits. All control bytes are escaped, so
 * a peer cannot forge a line. Keys and tokens are never passed in here.
 *
 * Any thread may log. Level and format are process-wide, set at start and on reload. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE, LOG_LEVEL_COUNT };
enum log_format { LOG_TEXT, LOG_JSON, LOG_FORMAT_COUNT };

void log_configure(enum log_level level, enum log_format format);
/* "error", "warn", "info", "debug", "trace" <-> level; false when the word is none of them. */
bool log_level_from_name(const char *name, enum log_level *ret);
const char *log_level_name(enum log_level level);
/* Lines dropped since the start because the log could not be written. */
uint64_t log_dropped(void);

extern _Atomic int log_level_now;

static inline bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

/* service may be NULL; conn_id 0 = no connection. Use the macros: they cost one comparison when the
 * level is off. */
void log_write(enum log_level level, const char *service, uint64_t conn_id, const char *format, ...)
    PRINTF_FORMAT(4, 5);

#define log_at(level, ...) (log_enabled(level) ? log_write(level, NULL, 0, __VA_ARGS__) : (void)0)
#define log_error(...)     log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)      log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)      log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...)     log_at(LOG_DEBUG, __VA_ARGS__)
#define log_service(level, service_name, ...) \
    (log_enabled(level) ? log_write(level, service_name, 0, __VA_ARGS__) : (void)0)
#define log_conn(level, service_name, conn_id, ...) \
    (log_enabled(level) ? log_write(level, service_name, conn_id, __VA_ARGS__) : (void)0)

/* For whatever a stranger can cause: at most one line per second and site; the next line that
 * passes is preceded by "(N similar lines suppressed)" in its own text. Zero-initialised, one
 * static per site. Returns true when the caller may log now, and the number suppressed since the
 * last one. */
struct log_limit {
    _Atomic uint64_t next_ns;
    _Atomic uint32_t suppressed;
};
bool log_allowed(struct log_limit *limit, uint32_t *ret_suppressed);
