#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    LINE_SIZE = 1280,       /* below PIPE_BUF: a write to a pipe is atomic */
    MESSAGE_SIZE = 1024,    /* before escaping */
    SERVICE_SHOWN = 256,    /* of the line, for the service's name, after escaping */
    TAIL_SIZE = 3 + 26 + 3, /* "...", " conn=" and its digits, the closing and the newline */
};

static const struct {
    const char *name;
    const char *column; /* in the text form, padded */
} levels[] = {
    [LOG_ERROR] = {"error", "ERROR"}, [LOG_WARN] = {"warn", "WARN "},
    [LOG_INFO] = {"info", "INFO "},   [LOG_DEBUG] = {"debug", "DEBUG"},
    [LOG_TRACE] = {"trace", "TRACE"},
};
static_assert(ARRAY_SIZE(levels) == LOG_LEVEL_COUNT, "a row for each level");

_Atomic int log_level_now = LOG_INFO;
static _Atomic int format_now = LOG_TEXT;
static _Atomic uint64_t dropped;
/* Held over poll(2) and write(2), neither of which waits. Without it, poll could tell two threads
 * that the last free slot of a pipe is theirs, and one of them would block. */
static pthread_mutex_t write_lock = PTHREAD_MUTEX_INITIALIZER;

/* A line under construction. A piece that would go beyond `end` is left out as a whole, and so is
 * every piece after it (`cut`). */
struct line {
    size_t len, end;
    bool cut;
    bool json;
    char bytes[LINE_SIZE];
};

struct entry {
    enum log_level level;
    const char *service; /* or NULL */
    uint64_t conn_id;    /* or 0 */
    const char *message;
    size_t message_len;
    bool message_cut;
};

void log_configure(enum log_level level, enum log_format format)
{
    assert(level < LOG_LEVEL_COUNT && format < LOG_FORMAT_COUNT);
    atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
    atomic_store_explicit(&format_now, (int)format, memory_order_relaxed);
}

bool log_level_from_name(const char *name, enum log_level *ret)
{
    for (size_t i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (strcmp(name, levels[i].name) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

const char *log_level_name(enum log_level level)
{
    return level < LOG_LEVEL_COUNT ? levels[level].name : "unknown";
}

uint64_t log_dropped(void)
{
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}

/* Leaves the bytes uninitialised: most lines use a tenth of them. */
static void line_init(struct line *line)
{
    line->len = 0;
    line->end = LINE_SIZE - TAIL_SIZE;
    line->cut = false;
    line->json = atomic_load_explicit(&format_now, memory_order_relaxed) == LOG_JSON;
}

static void put(struct line *line, const char *text, size_t len)
{
    if (line->cut || line->end - line->len < len) {
        line->cut = true;
        return;
    }
    memcpy(line->bytes + line->len, text, len);
    line->len += len;
}

static void put_text(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

PRINTF_FORMAT(2, 3) static void put_format(struct line *line, const char *format, ...)
{
    char text[64];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    put_text(line, text);
}

/* The length of the UTF-8 character at `text`, which has `left` bytes. 0: no valid character (a
 * stray or missing continuation byte, an overlong form, a surrogate, a code beyond Unicode). */
static size_t decode_utf8(const unsigned char *text, size_t left, uint32_t *ret)
{
    static const struct {
        unsigned char mask, lead;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

    for (size_t extra = 0; extra < ARRAY_SIZE(forms); extra++) {
        if ((text[0] & forms[extra].mask) != forms[extra].lead)
            continue;
        if (left < extra + 1)
            return 0;
        uint32_t code = text[0] & (unsigned char)~forms[extra].mask;
        for (size_t i = 1; i <= extra; i++) {
            if ((text[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (text[i] & 0x3f);
        }
        if (code < forms[extra].least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return 0;
        *ret = code;
        return extra + 1;
    }
    return 0;
}

/* Control characters, and those that let text pose as another line or change its direction: zero
 * width, line separators, bidirectional overrides, byte order mark. */
static bool is_hidden(uint32_t code)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0x00, 0x1f},     {0x7f, 0x9f},     {0x200b, 0x200f},
        {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        if (code >= ranges[i].first && code <= ranges[i].last)
            return true;
    }
    return false;
}

static void put_hidden(struct line *line, uint32_t code)
{
    if (code == '\n')
        put_text(line, "\\n");
    else if (code == '\r')
        put_text(line, "\\r");
    else if (code == '\t')
        put_text(line, "\\t");
    else if (line->json || code > 0x7f)
        put_format(line, "\\u%04x", code);
    else
        put_format(line, "\\x%02x", code);
}

/* The text may hold bytes of a stranger. The result is printable UTF-8 that ends neither the line
 * nor a JSON string. */
static void put_escaped(struct line *line, const char *text, size_t len)
{
    while (len > 0 && !line->cut) {
        uint32_t code = 0;
        size_t size = decode_utf8((const unsigned char *)text, len, &code);
        if (size == 0) {
            size = 1;
            put_text(line, line->json ? "\\\\" : "\\");
            put_format(line, "x%02x", (unsigned char)*text);
        } else if (is_hidden(code)) {
            put_hidden(line, code);
        } else if (code == '\\') {
            put_text(line, "\\\\");
        } else if (code == '"' && line->json) {
            put_text(line, "\\\"");
        } else {
            put(line, text, size);
        }
        text += size;
        len -= size;
    }
}

/* Lets the line continue up to `end`, with "..." in the place of what was cut. */
static void show_cut(struct line *line, size_t end)
{
    line->end = end;
    if (line->cut) {
        line->cut = false;
        put_text(line, "...");
    }
}

static void put_service(struct line *line, const char *service)
{
    line->end = line->len + SERVICE_SHOWN;
    put_escaped(line, service, strlen(service));
    show_cut(line, LINE_SIZE - TAIL_SIZE);
}

static void put_message(struct line *line, const struct entry *entry)
{
    put_escaped(line, entry->message, entry->message_len);
    line->cut = line->cut || entry->message_cut;
    show_cut(line, LINE_SIZE);
}

static void put_timestamp(struct line *line)
{
    struct timespec now;
    struct tm tm;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &tm) == NULL)
        tm = (struct tm){.tm_year = 70, .tm_mday = 1};
    put_format(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900, tm.tm_mon + 1,
               tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / NS_PER_MS);
}

static void build_text(struct line *line, const struct entry *entry)
{
    put_timestamp(line);
    put_text(line, " ");
    put_text(line, levels[entry->level].column);
    if (entry->service != NULL) {
        put_text(line, " [");
        put_service(line, entry->service);
        put_text(line, "]");
    }
    put_text(line, " ");
    put_message(line, entry);
    if (entry->conn_id != 0)
        put_format(line, " conn=%llu", (unsigned long long)entry->conn_id);
    put_text(line, "\n");
}

static void build_json(struct line *line, const struct entry *entry)
{
    put_text(line, "{\"ts\":\"");
    put_timestamp(line);
    put_text(line, "\",\"level\":\"");
    put_text(line, levels[entry->level].name);
    put_text(line, "\"");
    if (entry->service != NULL) {
        put_text(line, ",\"service\":\"");
        put_service(line, entry->service);
        put_text(line, "\"");
    }
    if (entry->conn_id != 0)
        put_format(line, ",\"conn\":%llu", (unsigned long long)entry->conn_id);
    put_text(line, ",\"msg\":\"");
    put_message(line, entry);
    put_text(line, "\"}\n");
}

/* ---- the last lines ---- */

static pthread_mutex_t recent_lock = PTHREAD_MUTEX_INITIALIZER; /* protects the two below */
static struct log_record recent[LOG_RECENT];
static uint64_t recent_count; /* ever; the next one is recent[recent_count % LOG_RECENT] */

static void escape(const char *text, size_t len, bool is_cut, char *out, size_t out_size)
{
    struct line line;
    enum { DOTS = 3 };
    line_init(&line);
    line.json = true;
    line.end = MIN(out_size, (size_t)LINE_SIZE) - DOTS - 1;
    put_escaped(&line, text, len);
    line.cut |= is_cut;
    show_cut(&line, line.end + DOTS);
    memcpy(out, line.bytes, line.len);
    out[line.len] = '\0';
}

const char *log_escape_json(const char *text, char *out, size_t out_size)
{
    escape(text, strlen(text), false, out, out_size);
    return out;
}

static void remember(const struct entry *entry)
{
    struct timespec now;
    struct log_record record = {.level = entry->level};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    record.time_ms = (int64_t)now.tv_sec * MS_PER_S + now.tv_nsec / NS_PER_MS;
    if (entry->service != NULL)
        (void)log_escape_json(entry->service, record.service, sizeof(record.service));
    escape(entry->message, entry->message_len, entry->message_cut, record.text,
           sizeof(record.text));
    pthread_mutex_lock(&recent_lock);
    recent[recent_count++ % LOG_RECENT] = record;
    pthread_mutex_unlock(&recent_lock);
}

size_t log_recent(struct log_record out[static LOG_RECENT])
{
    pthread_mutex_lock(&recent_lock);
    size_t count = (size_t)MIN(recent_count, (uint64_t)LOG_RECENT);
    for (size_t i = 0; i < count; i++)
        out[i] = recent[(recent_count - count + i) % LOG_RECENT];
    pthread_mutex_unlock(&recent_lock);
    return count;
}

/* True if the whole line was written. POLLOUT means room for PIPE_BUF bytes in a pipe, and for a
 * socket or a terminal at least that a write does not wait. Another process may fill the same pipe
 * between the two calls. O_NONBLOCK would help, but it would also apply to that process: the flag
 * belongs to the open file that both share. */
static bool write_line(const char *bytes, size_t len)
{
    struct pollfd poll_fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&poll_fd, 1, 0) != 1 || poll_fd.revents != POLLOUT)
        return false;
    ssize_t written;
    do
        written = write(STDERR_FILENO, bytes, len);
    while (written < 0 && errno == EINTR);
    return written == (ssize_t)len;
}

/* The length of `text` up to its last whole character: vsnprintf cuts between any two bytes. */
static size_t without_half_character(const char *text, size_t len)
{
    while (len > 0 && ((unsigned char)text[len - 1] & 0xc0) == 0x80)
        len--;
    if (len > 0 && (unsigned char)text[len - 1] >= 0xc0)
        len--;
    return len;
}

void log_write(enum log_level level, const char *service, uint64_t conn_id, const char *format, ...)
{
    int saved_errno = errno; /* so that a caller may log before it looks at errno */
    char message[MESSAGE_SIZE] = "";
    va_list args;
    va_start(args, format);
    int message_len = vsnprintf(message, sizeof(message), format, args);
    va_end(args);

    assert(level < LOG_LEVEL_COUNT);
    struct entry entry = {.level = level, .service = service, .conn_id = conn_id};
    entry.message = message;
    entry.message_cut = message_len >= MESSAGE_SIZE;
    entry.message_len = strlen(message);
    if (entry.message_cut)
        entry.message_len = without_half_character(message, entry.message_len);

    if (level <= LOG_WARN)
        remember(&entry);

    struct line line;
    line_init(&line);
    (line.json ? build_json : build_text)(&line, &entry);

    pthread_mutex_lock(&write_lock);
    bool written = write_line(line.bytes, line.len);
    pthread_mutex_unlock(&write_lock);
    if (!written)
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
    errno = saved_errno;
}

bool log_allowed(struct log_limit *limit, uint32_t *ret_suppressed)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t next_ns = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);

    /* Of several threads at the same moment one wins the exchange. */
    if (now_ns >= next_ns &&
        atomic_compare_exchange_strong_explicit(&limit->next_ns, &next_ns, now_ns + NS_PER_S,
                                                memory_order_relaxed, memory_order_relaxed)) {
        *ret_suppressed = atomic_exchange_explicit(&limit->suppressed, 0, memory_order_relaxed);
        return true;
    }
    atomic_fetch_add_explicit(&limit->suppressed, 1, memory_order_relaxed);
    return false;
}
