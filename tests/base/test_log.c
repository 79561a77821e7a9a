#include "base/log.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_MAX_SIZE = 1280, /* no line is longer */
    STAMP_LEN = 24,       /* "2026-11-22T16:45:39.123Z" */
};

/* Each test runs in a process of its own, whose stderr is replaced by a pipe. */
static int read_fd = -1, write_fd = -1;
static char captured[1 << 20];

static void capture_stderr(void)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    read_fd = fds[0];
    write_fd = STDERR_FILENO;
    cr_assert_geq(dup2(fds[1], STDERR_FILENO), 0);
    (void)close(fds[1]);
}

TestSuite(log, .init = capture_stderr, .timeout = 20);

/* Everything logged since the last call. */
static const char *drain(void)
{
    size_t len = 0;
    struct pollfd poll_fd = {.fd = read_fd, .events = POLLIN};
    while (poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN)) {
        ssize_t n = read(read_fd, captured + len, sizeof(captured) - 1 - len);
        cr_assert_gt(n, 0);
        len += (size_t)n;
    }
    captured[len] = '\0';
    cr_assert_eq(strlen(captured), len, "a NUL in the log");
    return captured;
}

/* The one line logged since the last call, without its timestamp. */
static const char *drain_line(void)
{
    const char *line = drain();
    cr_assert_gt(strlen(line), STAMP_LEN + 1);
    cr_assert_eq(strchr(line, '\n'), line + strlen(line) - 1, "one event, one line: %s", line);
    return line + STAMP_LEN + 1;
}

/* A parser for exactly our form of JSON line; anything else aborts the test. It undoes escapes, and
 * turns escaped code points beyond ASCII into '?'. */
static void skip_text(const char **at, const char *text)
{
    cr_assert(strncmp(*at, text, strlen(text)) == 0, "expected %s at %s", text, *at);
    *at += strlen(text);
}

static void skip_json_string(const char **at, char *out)
{
    skip_text(at, "\"");
    while (**at != '"') {
        unsigned char c = (unsigned char)*(*at)++;
        cr_assert(c >= 0x20 && c != 0x7f, "raw control byte %02x", c);
        if (c == '\\') {
            c = (unsigned char)*(*at)++;
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char *found = strchr(from, c);
            if (c == 'u') {
                unsigned int code;
                for (int i = 0; i < 4; i++)
                    cr_assert(isxdigit((unsigned char)(*at)[i]));
                cr_assert_eq(sscanf(*at, "%4x", &code), 1);
                *at += 4;
                c = code < 0x80 ? (unsigned char)code : '?';
            } else {
                cr_assert(c != '\0' && found != NULL, "escape \\%c", c);
                c = (unsigned char)to[found - from];
            }
        }
        *out++ = (char)c;
    }
    *out = '\0';
    (*at)++;
}

static void parse_json_line(const char *line, char *service, unsigned long long *conn,
                            char *message)
{
    char text[LINE_MAX_SIZE + 1];
    char *end;
    const char *at = line;
    *conn = 0;
    *service = '\0';
    skip_text(&at, "{\"ts\":");
    skip_json_string(&at, text);
    cr_assert_eq(strlen(text), STAMP_LEN);
    skip_text(&at, ",\"level\":");
    skip_json_string(&at, text);
    if (strncmp(at, ",\"service\":", 11) == 0) {
        at += 11;
        skip_json_string(&at, service);
    }
    if (strncmp(at, ",\"conn\":", 8) == 0) {
        *conn = strtoull(at + 8, &end, 10);
        at = end;
    }
    skip_text(&at, ",\"msg\":");
    skip_json_string(&at, message);
    skip_text(&at, "}\n");
    cr_assert_eq(*at, '\0');
}

Test(log, text_form)
{
    log_write(LOG_INFO, "web", 17, "visitor %s", "here");
    cr_expect_str_eq(drain_line(), "INFO  [web] visitor here conn=17\n");
    log_write(LOG_WARN, "web", 0, "no connection");
    cr_expect_str_eq(drain_line(), "WARN  [web] no connection\n");
    log_write(LOG_ERROR, NULL, UINT64_MAX, "no service");
    cr_expect_str_eq(drain_line(), "ERROR no service conn=18446744073709551615\n");
    log_write(LOG_TRACE, NULL, 0, "%s", "");
    cr_expect_str_eq(drain_line(), "TRACE \n");
}

Test(log, timestamp_is_utc_and_now)
{
    time_t before = time(NULL);
    log_info("x");
    struct tm tm = {0};
    const char *line = drain();
    const char *rest = strptime(line, "%Y-%m-%dT%H:%M:%S", &tm);
    cr_assert_not_null(rest);
    cr_expect_eq(rest[0], '.');
    cr_expect(isdigit(rest[1]) && isdigit(rest[2]) && isdigit(rest[3]));
    cr_expect_eq(rest[4], 'Z');
    time_t logged = timegm(&tm);
    cr_expect(logged >= before - 1 && logged <= time(NULL) + 1);
}

Test(log, json_form)
{
    char service[LINE_MAX_SIZE], message[LINE_MAX_SIZE];
    unsigned long long conn;
    log_configure(LOG_TRACE, LOG_JSON);
    log_write(LOG_DEBUG, "web", 17, "say \"%s\"", "hi\\");
    const char *line = drain();
    cr_expect_not_null(strstr(line, "Z\",\"level\":\"debug\",\"service\":\"web\",\"conn\":17,"
                                    "\"msg\":\"say \\\"hi\\\\\\\"\"}\n"));
    parse_json_line(line, service, &conn, message);
    cr_expect_str_eq(message, "say \"hi\\\"");

    log_write(LOG_INFO, NULL, 0, "plain");
    line = drain();
    cr_expect_not_null(strstr(line, "\"level\":\"info\",\"msg\":\"plain\"}\n"));
}

Test(log, text_escapes)
{
    static const struct {
        const char *raw, *shown;
    } rows[] = {
        {"a\nb\rc\td", "a\\nb\\rc\\td"},
        {"\x1b[31mred", "\\x1b[31mred"},
        {"\x01\x7f", "\\x01\\x7f"},
        {"back\\slash", "back\\\\slash"},
        {"\"quoted\"", "\"quoted\""},
        {"gr\xc3\xb6\xc3\x9f"
         "e \xe5\xaf\x86 \xf0\x9f\x98\x80",
         "gr\xc3\xb6\xc3\x9f"
         "e \xe5\xaf\x86 \xf0\x9f\x98\x80"},
        {"\xff\xfe", "\\xff\\xfe"},
        {"cut\xc3", "cut\\xc3"},
        {"cut\xe5\xaf", "cut\\xe5\\xaf"},
        {"\xc0\xaf", "\\xc0\\xaf"},                   /* overlong '/' */
        {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},          /* overlong again */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* a surrogate */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* beyond Unicode */
        {"\x80", "\\x80"},
        {"\xc2\x9b", "\\u009b"},     /* an 8-bit CSI */
        {"\xe2\x80\xa8", "\\u2028"}, /* a line separator */
        {"\xe2\x80\xae", "\\u202e"}, /* right-to-left override */
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char expected[256];
        log_info("%s", rows[i].raw);
        (void)snprintf(expected, sizeof(expected), "INFO  %s\n", rows[i].shown);
        cr_expect_str_eq(drain_line(), expected, "row %zu", i);
        log_write(LOG_INFO, rows[i].raw, 0, "m");
        (void)snprintf(expected, sizeof(expected), "INFO  [%s] m\n", rows[i].shown);
        cr_expect_str_eq(drain_line(), expected, "row %zu", i);
    }
}

/* Any bytes give one printable line of bounded length, which is valid JSON in that format. */
Test(log, random_bytes_stay_inside_their_line)
{
    uint32_t random = 1;
    for (int round = 0; round < 2000; round++) {
        char raw[1500], service[LINE_MAX_SIZE], message[LINE_MAX_SIZE];
        unsigned long long conn;
        size_t len = 0;
        for (size_t size = random % sizeof(raw); len < size; len++) {
            random = random * 1664525 + 1013904223;
            raw[len] = (char)(random >> 24 == 0 ? 1 : random >> 24);
        }
        raw[len] = '\0';
        random = random * 1664525 + 1013904223;

        log_configure(LOG_INFO, round % 2 == 0 ? LOG_JSON : LOG_TEXT);
        log_write(LOG_INFO, round % 3 == 0 ? raw : NULL, 1, "%s", raw);
        const char *line = drain();
        size_t line_len = strlen(line);
        cr_assert_leq(line_len, LINE_MAX_SIZE);
        cr_assert_eq(strchr(line, '\n'), line + line_len - 1);
        for (size_t i = 0; i + 1 < line_len; i++)
            cr_assert((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
        if (round % 2 == 0)
            parse_json_line(line, service, &conn, message);
    }
    cr_expect_eq(log_dropped(), 0);
}

Test(log, long_lines_are_cut_visibly)
{
    char big[5000];
    memset(big, 'a', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    log_write(LOG_INFO, "web", 17, "%s", big);
    const char *line = drain_line();
    cr_expect_leq(strlen(line) + STAMP_LEN + 1, LINE_MAX_SIZE);
    cr_expect_geq(strlen(line), 1000);
    cr_expect_not_null(strstr(line, "aaa... conn=17\n"));

    /* A long service name leaves room for the message. */
    log_write(LOG_INFO, big, 0, "message");
    line = drain_line();
    cr_expect_not_null(strstr(line, "aaa...] message\n"));

    /* Wherever the limit falls, the cut is between two characters. */
    for (size_t shift = 0; shift < 4; shift++) {
        memset(big, 'a', shift);
        for (size_t i = shift; i + 2 < sizeof(big); i += 2)
            memcpy(big + i, "\xc3\xb6", 2);
        big[sizeof(big) - 2] = 'a';
        log_info("%s", big);
        line = drain_line();
        cr_expect_null(strstr(line, "\\x"), "shift %zu", shift);
        cr_expect_not_null(strstr(line, "...\n"));
    }
}

Test(log, longest_json_line_is_whole)
{
    char big[2000], service[LINE_MAX_SIZE], message[LINE_MAX_SIZE];
    unsigned long long conn;
    memset(big, '"', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    log_configure(LOG_INFO, LOG_JSON);
    log_write(LOG_WARN, big, UINT64_MAX, "%s", big);
    parse_json_line(drain(), service, &conn, message);
    cr_expect_eq(conn, UINT64_MAX);
    cr_expect_str_eq(service + strlen(service) - 3, "...");
    cr_expect_str_eq(message + strlen(message) - 3, "...");
}

Test(log, levels)
{
    enum log_level level = LOG_TRACE;
    cr_expect_eq(log_level_now, LOG_INFO, "the default");
    for (int i = 0; i < LOG_LEVEL_COUNT; i++) {
        cr_assert(log_level_from_name(log_level_name((enum log_level)i), &level));
        cr_expect_eq((int)level, i);
    }
    level = LOG_WARN;
    cr_expect_not(log_level_from_name("warning", &level));
    cr_expect_not(log_level_from_name("INFO", &level));
    cr_expect_eq(level, LOG_WARN);

    for (int i = 0; i < LOG_LEVEL_COUNT; i++) {
        log_configure((enum log_level)i, LOG_TEXT);
        for (int j = 0; j < LOG_LEVEL_COUNT; j++)
            cr_expect_eq(log_enabled((enum log_level)j), j <= i);
    }
}

Test(log, a_level_that_is_off_costs_no_evaluation)
{
    int evaluated = 0;
    log_configure(LOG_WARN, LOG_TEXT);
    log_info("%d", ++evaluated);
    log_debug("%d", ++evaluated);
    log_service(LOG_INFO, "web", "%d", ++evaluated);
    log_conn(LOG_TRACE, "web", 1, "%d", ++evaluated);
    cr_expect_eq(evaluated, 0);
    cr_expect_str_eq(drain(), "");
    log_warn("%d", ++evaluated);
    log_conn(LOG_ERROR, "web", 1, "%d", ++evaluated);
    cr_expect_eq(evaluated, 2);
}

Test(log, errno_survives)
{
    errno = EXDEV;
    log_info("x");
    (void)close(STDERR_FILENO);
    log_info("x");
    cr_expect_eq(errno, EXDEV);
    cr_expect_eq(log_dropped(), 1);
}

static void set_nonblocking(bool on)
{
    int flags = fcntl(write_fd, F_GETFL);
    cr_assert_eq(fcntl(write_fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

/* Leaves room for `pages` pages: a pipe counts its room in pages. */
static void fill_pipe_but(size_t pages)
{
    static const char page[4096];
    static char sink[4096];
    set_nonblocking(true);
    while (write(write_fd, page, sizeof(page)) > 0)
        ;
    cr_assert_eq(errno, EAGAIN);
    set_nonblocking(false);
    for (size_t i = 0; i < pages; i++)
        cr_assert_eq(read(read_fd, sink, sizeof(sink)), (ssize_t)sizeof(sink));
}

static void empty_pipe(void)
{
    static char sink[1 << 20];
    cr_assert_eq(fcntl(read_fd, F_SETFL, O_NONBLOCK), 0);
    while (read(read_fd, sink, sizeof(sink)) > 0)
        ;
    cr_assert_eq(errno, EAGAIN);
}

Test(log, stuck_pipe_drops_and_never_waits, .timeout = 5)
{
    fill_pipe_but(0);
    for (int i = 0; i < 100; i++)
        log_info("lost %d", i);
    cr_expect_eq(log_dropped(), 100);
    empty_pipe();
    log_info("found");
    cr_expect_str_eq(drain_line(), "INFO  found\n");
    cr_expect_eq(log_dropped(), 100);
}

Test(log, stuck_nonblocking_pipe, .timeout = 5)
{
    fill_pipe_but(0);
    set_nonblocking(true);
    log_info("lost");
    cr_expect_eq(log_dropped(), 1);
}

Test(log, stuck_socket, .timeout = 5)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    cr_assert_geq(dup2(fds[1], STDERR_FILENO), 0);
    for (int i = 0; i < 20000 && log_dropped() == 0; i++)
        log_info("a stream socket, as journald gives it");
    cr_expect_gt(log_dropped(), 0);
}

Test(log, reader_gone, .timeout = 5)
{
    (void)close(read_fd); /* a write would raise SIGPIPE and end the test */
    log_info("lost");
    cr_expect_eq(log_dropped(), 1);
}

enum { THREADS = 6, LINES_EACH = 300 };

static void *log_many(void *arg)
{
    for (int i = 0; i < LINES_EACH; i++)
        log_info("line %d of thread %d ends here", i, *(int *)arg);
    return NULL;
}

static void run_threads(void)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, log_many, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
}

/* Many threads log while the pipe has one free page: no thread may block. */
Test(log, threads_share_an_almost_full_pipe, .timeout = 10)
{
    fill_pipe_but(1);
    run_threads();
    cr_expect_gt(log_dropped(), 0);
    cr_expect_lt(log_dropped(), THREADS * LINES_EACH);
}

static void *read_all(void *arg)
{
    size_t *lines = arg;
    size_t len = 0;
    ssize_t n;
    while ((n = read(read_fd, captured + len, sizeof(captured) - 1 - len)) > 0)
        len += (size_t)n;
    captured[len] = '\0';
    for (char *save = NULL, *line = strtok_r(captured, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        const char *end = strstr(line, "ends here");
        if (strlen(line) > STAMP_LEN && end != NULL && end[9] == '\0' &&
            strncmp(line + STAMP_LEN, " INFO  line ", 12) == 0)
            ++*lines;
        else
            *lines += 1000000; /* a broken line spoils the sum */
    }
    return NULL;
}

Test(log, lines_of_threads_stay_whole)
{
    pthread_t reader;
    size_t lines = 0;
    cr_assert_eq(pthread_create(&reader, NULL, read_all, &lines), 0);
    run_threads();
    (void)close(STDERR_FILENO); /* end of file for the reader */
    cr_assert_eq(pthread_join(reader, NULL), 0);
    cr_expect_eq(lines + log_dropped(), THREADS * LINES_EACH);
}

Test(log, rate_limit)
{
    static struct log_limit limit;
    uint32_t suppressed = 77;
    cr_expect(log_allowed(&limit, &suppressed));
    cr_expect_eq(suppressed, 0);
    for (int i = 0; i < 5; i++)
        cr_expect_not(log_allowed(&limit, &suppressed));

    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    uint64_t next_ns = atomic_load(&limit.next_ns);
    cr_expect(next_ns > now_ns - 1000000000u && next_ns <= now_ns + 1000000000u,
              "the next line is due a second after the last, by the monotonic clock");

    atomic_store(&limit.next_ns, now_ns); /* the second is over */
    cr_expect(log_allowed(&limit, &suppressed));
    cr_expect_eq(suppressed, 5);
    cr_expect_not(log_allowed(&limit, &suppressed));
    atomic_store(&limit.next_ns, now_ns);
    cr_expect(log_allowed(&limit, &suppressed));
    cr_expect_eq(suppressed, 1);
}

static struct log_limit shared_limit;
static _Atomic unsigned int allowed_count;

static void *ask_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 1000; i++) {
        uint32_t suppressed;
        if (log_allowed(&shared_limit, &suppressed))
            atomic_fetch_add(&allowed_count, 1);
    }
    return NULL;
}

Test(log, rate_limit_of_threads)
{
    pthread_t threads[THREADS];
    struct timespec before, after;
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, ask_often, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    unsigned int most = (unsigned int)(after.tv_sec - before.tv_sec) + 1;
    cr_expect(allowed_count >= 1 && allowed_count <= most, "%u passed", allowed_count);
    cr_expect_eq(allowed_count + shared_limit.suppressed, THREADS * 1000);
}

/* ---- the last lines ---- */

static struct log_record records[LOG_RECENT];

Test(log, the_last_errors_and_warnings_are_kept)
{
    log_configure(LOG_INFO, LOG_TEXT);
    cr_assert_eq(log_recent(records), 0);
    log_info("not kept");
    log_warn("number %d", 1);
    log_service(LOG_ERROR, "ssh", "number %d", 2);
    cr_assert_eq(log_recent(records), 2);
    cr_assert_str_eq(records[0].text, "number 1");
    cr_assert_str_eq(records[0].service, "");
    cr_assert_eq(records[0].level, LOG_WARN);
    cr_assert_str_eq(records[1].text, "number 2");
    cr_assert_str_eq(records[1].service, "ssh");
    cr_assert_eq(records[1].level, LOG_ERROR);
    cr_assert_leq(records[0].time_ms, records[1].time_ms);
    cr_assert_lt(llabs(records[1].time_ms / 1000 - (long long)time(NULL)), 20);
}

Test(log, only_the_last_ones_are_kept)
{
    for (int i = 0; i < 3 * LOG_RECENT + 7; i++) {
        log_warn("number %d", i);
        (void)drain();
    }
    cr_assert_eq(log_recent(records), (size_t)LOG_RECENT);
    for (int i = 0; i < LOG_RECENT; i++)
        cr_assert_eq(atoi(records[i].text + 7), 2 * LOG_RECENT + 7 + i); /* style: our own text */
}

Test(log, kept_lines_are_json_strings)
{
    char long_text[2000];
    memset(long_text, 'a', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    log_service(LOG_WARN, long_text, "%s", long_text);
    log_service(LOG_WARN, "a\"b\\", "quote \" and \\ and \n and \xff and \xc3\xa4");
    cr_assert_eq(log_recent(records), 2);
    cr_assert_eq(strlen(records[0].text), sizeof(records[0].text) - 1);
    cr_assert_str_eq(records[0].text + sizeof(records[0].text) - 4, "...");
    cr_assert_str_eq(records[0].service + sizeof(records[0].service) - 4, "...");
    cr_assert_str_eq(records[1].service, "a\\\"b\\\\");
    cr_assert_str_eq(records[1].text, "quote \\\" and \\\\ and \\n and \\\\xff and \xc3\xa4");
}

Test(log, lines_are_kept_that_standard_error_does_not_take)
{
    (void)close(STDERR_FILENO);
    log_error("nobody reads this");
    cr_assert_eq(log_recent(records), 1);
    cr_assert_eq(log_dropped(), 1);
}
