#include "app/status_command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/run.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/numbers.h"
#include "base/text.h"
#include "io/unix_socket.h"

enum { ANSWER_MAX = 16 << 20, TIMEOUT_S = 5, BYTES_SIZE = 16 };

/* The fields of a line, as status_write_table writes them. */
enum column {
    NAME,
    TYPE,
    STATE,
    CLIENT,
    OPEN,
    WAITING,
    VISITORS,
    BYTES_IN,
    BYTES_OUT,
    P99,
    COLUMNS
};

struct table {
    struct text answer;
    char *(*rows)[COLUMNS]; /* point into the answer */
    size_t count;
    uint64_t at_ns;
};

/* ---- asking ---- */

static int connect_to(const struct config_status *config)
{
    const struct timeval timeout = {.tv_sec = TIMEOUT_S};
    struct addr addr;
    bool is_unix = host_port_is_unix(&config->addr);
    if (!is_unix && !addr_from_numeric(&config->addr, &addr))
        return -EINVAL;
    int fd = socket(is_unix ? AF_UNIX : addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    int result = is_unix                                ? unix_socket_connect(fd, config->addr.host)
                 : connect(fd, &addr.any, addr.len) < 0 ? -errno
                                                        : 0;
    if (result == 0)
        return fd;
    (void)close(fd);
    return result;
}

static int table_ask(int fd, const char *token)
{
    struct text request;
    text_init(&request, ANSWER_MAX);
    text_puts(&request, "GET /status.tsv HTTP/1.1\r\nHost: localhost\r\n");
    if (token != NULL)
        text_printf(&request, "Authorization: Bearer %s\r\n", token);
    text_puts(&request, "\r\n");
    int result = request.failed ? -ENOMEM : 0;
    if (result == 0 && send(fd, request.bytes, request.len, MSG_NOSIGNAL) != (ssize_t)request.len)
        result = -errno;
    if (request.bytes != NULL)
        keys_wipe(request.bytes, request.len);
    text_finish(&request);
    return result;
}

static int receive(int fd, struct text *answer)
{
    char buffer[16384];
    ssize_t got;
    while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
        text_put(answer, buffer, (size_t)got);
    text_put(answer, "", 1); /* terminates it */
    return got < 0 ? -errno : answer->failed ? -ENOMEM : 0;
}

/* ---- the table ---- */

static void table_finish(struct table *table)
{
    text_finish(&table->answer);
    free(table->rows);
    table->rows = NULL;
    table->count = 0;
}

static int table_parse(struct table *table, char *body)
{
    size_t lines = 0;
    for (const char *at = body; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    table->rows = calloc(lines + 1, sizeof(*table->rows));
    if (table->rows == NULL)
        return -ENOMEM;
    char *line;
    while (table->count < lines && (line = strsep(&body, "\n")) != NULL) {
        char **row = table->rows[table->count++];
        for (unsigned int i = 0; i < COLUMNS; i++) {
            row[i] = strsep(&line, "\t");
            if (row[i] == NULL)
                return -EBADMSG;
        }
    }
    return 0;
}

/* What to print of an answer that is not the table. */
static void table_say_refused(const char *file, const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");
    body = body != NULL ? body + strlen("\r\n\r\n") : "";
    (void)fprintf(stderr, "rathole-uring: %s: the process answers %.3s: %.*s\n", file,
                  strlen(answer) > 12 ? answer + strlen("HTTP/1.1 ") : "?",
                  (int)strcspn(body, "\r\n"), body);
}

static bool table_fetch(const char *file, const struct config_status *config, struct table *ret)
{
    char addr[ADDR_HOST_SIZE + 8];
    *ret = (struct table){.at_ns = clock_monotonic_ns()};
    text_init(&ret->answer, ANSWER_MAX);
    int fd = connect_to(config);
    int result = fd < 0 ? fd : table_ask(fd, config->token);
    if (result == 0)
        result = receive(fd, &ret->answer);
    if (fd >= 0)
        (void)close(fd);
    if (result == 0 && strncmp(ret->answer.bytes, "HTTP/1.1 200 ", 13) != 0) {
        table_say_refused(file, ret->answer.bytes);
        return false;
    }
    char *body = result == 0 ? strstr(ret->answer.bytes, "\r\n\r\n") : NULL;
    if (result == 0)
        result = body != NULL ? table_parse(ret, body + strlen("\r\n\r\n")) : -EBADMSG;
    if (result < 0)
        (void)fprintf(stderr, "rathole-uring: %s: no answer from %s: %s\n", file,
                      host_port_format(&config->addr, addr, sizeof(addr)), error_text(result));
    return result == 0;
}

/* ---- printing ---- */

static const char *format_bytes(double bytes, char out[static BYTES_SIZE])
{
    static const char units[] = " kMGTPE";
    unsigned int unit = 0;
    while (bytes >= 999.5 && units[unit + 1] != '\0') {
        bytes /= 1000;
        unit++;
    }
    (void)snprintf(out, BYTES_SIZE, unit > 0 && bytes < 99.95 ? "%.1f%c" : "%.0f%c", bytes,
                   units[unit]);
    return out;
}

/* The same service in the table before. Nearly always it has the same place. */
static char *const *find_row(const struct table *table, const char *name, size_t place)
{
    if (place < table->count && strcmp(table->rows[place][NAME], name) == 0)
        return table->rows[place];
    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i][NAME], name) == 0)
            return table->rows[i];
    }
    return NULL;
}

static double number(const char *text)
{
    uint64_t value = 0;
    (void)numbers_parse(text, &value, 1, NULL);
    return (double)value;
}

static double row_rate(char *const *now, char *const *before, enum column column, uint64_t ns)
{
    double more = before != NULL ? number(now[column]) - number(before[column]) : 0;
    return more > 0 && ns > 0 ? more * 1e9 / (double)ns : 0;
}

static int widest(const struct table *table, enum column column, size_t least)
{
    size_t width = least;
    for (size_t i = 0; i < table->count; i++)
        width = MAX(width, strlen(table->rows[i][column]));
    return (int)MIN(width, (size_t)60);
}

static void table_print(const struct table *now, const struct table *before)
{
    int name = widest(now, NAME, 7), client = widest(now, CLIENT, 6);
    uint64_t ns = now->at_ns - before->at_ns;
    (void)printf("%-*s %-7s %-*s %7s %7s %9s %7s %7s %7s %7s %7s %9s\n", name, "SERVICE", "STATE",
                 client, "CLIENT", "OPEN", "WAITING", "VISITORS", "NEW/s", "IN/s", "OUT/s", "IN",
                 "OUT", "P99 ms");
    for (size_t i = 0; i < now->count; i++) {
        char *const *row = now->rows[i];
        char *const *old = find_row(before, row[NAME], i);
        char bytes[4][BYTES_SIZE];
        (void)printf("%-*s %-7s %-*s %7s %7s %9s %7.0f %7s %7s %7s %7s %9s\n", name, row[NAME],
                     row[STATE], client, row[CLIENT], row[OPEN], row[WAITING], row[VISITORS],
                     row_rate(row, old, VISITORS, ns),
                     format_bytes(row_rate(row, old, BYTES_IN, ns), bytes[0]),
                     format_bytes(row_rate(row, old, BYTES_OUT, ns), bytes[1]),
                     format_bytes(number(row[BYTES_IN]), bytes[2]),
                     format_bytes(number(row[BYTES_OUT]), bytes[3]), row[P99]);
    }
}

int status_command(const char *file, const struct config_status *config, bool is_watching)
{
    struct table now, before;
    if (config->addr.host[0] == '\0') {
        (void)fprintf(stderr,
                      "rathole-uring: %s: --status needs a section [status] with bind_addr\n",
                      file);
        return EXIT_START_ERROR;
    }
    bool is_good = table_fetch(file, config, &before);
    while (is_good) {
        (void)sleep(1);
        is_good = table_fetch(file, config, &now);
        if (is_good && is_watching && isatty(STDOUT_FILENO))
            (void)fputs("\033[H\033[2J", stdout);
        if (is_good)
            table_print(&now, &before);
        is_good = is_good && fflush(stdout) == 0;
        table_finish(&before);
        before = now;
        if (!is_watching)
            break;
    }
    table_finish(&before);
    return is_good ? EXIT_STOPPED : EXIT_START_ERROR;
}
