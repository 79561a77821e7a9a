/* The log: one line per event to standard error, as text or JSON.
 *
 * A line is built on the stack and written with one write(2). The process never waits for a reader
 * that is stuck: it drops and counts the line. Control bytes are escaped, so a peer cannot forge a
 * line. Callers never pass keys or tokens.
 *
 * Any thread may log. Level and format are those of the process, set at start and by a reload. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE, LOG_LEVEL_COUNT };
enum log_format { LOG_TEXT, LOG_JSON, LOG_FORMAT_COUNT };

void log_configure(enum log_level level, enum log_format format);
/* "error", "warn", "info", "debug" or "trace"; false, with *ret untouched, for any other word. */
bool log_level_from_name(const char *name, enum log_level *ret);
const char *log_level_name(enum log_level level);
/* Lines dropped since the start because standard error did not take them. */
uint64_t log_dropped(void);

/* Writes the text as it stands inside a JSON string, cut to fit and terminated. Returns out. */
const char *log_escape_json(const char *text, char *out, size_t out_size);

/* The last lines of the levels ERROR and WARN, whether standard error took them or not. */
enum { LOG_RECENT = 50 };
struct log_record {
    int64_t time_ms; /* since 1970 */
    enum log_level level;
    char service[64]; /* both texts as log_escape_json writes them; "": none */
    char text[320];
};
/* Copies them, the oldest first, and returns their number. */
size_t log_recent(struct log_record out[static LOG_RECENT]);

extern _Atomic int log_level_now;

static inline bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

/* service NULL: none; conn_id 0: none. Call it through the macros below: while the level is off
 * they cost one comparison and do not evaluate their arguments. */
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

/* A rate limit for lines that a stranger can cause: one line a second per call site, which has a
 * static, zeroed log_limit. True: log now, and say how many similar lines (*ret_suppressed) were
 * suppressed since the last one. Any thread. */
struct log_limit {
    _Atomic uint64_t next_ns;
    _Atomic uint32_t suppressed;
};
bool log_allowed(struct log_limit *limit, uint32_t *ret_suppressed);
