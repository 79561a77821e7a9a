/* A line of the log, as text and as JSON, with a service's name and a message of any bytes. The input is
 * a choice byte, the length of the name, the name, the message. It becomes one line of printable UTF-8,
 * which a stranger's bytes cannot end, colour or turn round; what is not cut reads back as it was. The
 * linker replaces write(2) and poll(2) while a line is written. */
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "fuzz.h"
#include "script.h"

enum { LINE_MAX_SIZE = 1280, TEXT_MAX = 2048 };

static bool is_caught;
static char line[4096];
static size_t line_size, write_count;

ssize_t __real_write(int fd, const void *bytes, size_t size);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);

ssize_t __wrap_write(int fd, const void *bytes, size_t size)
{
    if (!is_caught)
        return __real_write(fd, bytes, size);
    FUZZ_CHECK(fd == STDERR_FILENO && size <= sizeof(line));
    memcpy(line, bytes, size);
    line_size = size;
    write_count++;
    return (ssize_t)size;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    if (!is_caught)
        return __real_poll(fds, count, timeout);
    fds[0].revents = POLLOUT;
    return 1;
}

/* ---- UTF-8, read in another way than base/log.c does ---- */

/* The size of the character at the start; 0: none. */
static size_t character(const char *text, size_t left, uint32_t *ret)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t size = at[0] < 0x80                    ? 1
                  : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                  : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                  : at[0] >= 0xf0 && at[0] < 0xf5 ? 4
                                                  : 0;
    if (size == 0 || size > left)
        return 0;
    *ret = size == 1 ? at[0] : at[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        *ret = *ret * 64 + (at[i] & 63);
    }
    bool is_long = (size == 3 && *ret < 0x800) || (size == 4 && *ret < 0x10000);
    return is_long || *ret > 0x10ffff || (*ret & 0x1ff800) == 0xd800 ? 0 : size;
}

static bool is_dangerous(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
           code == 0xfeff;
}

static void check_printable(const char *text, size_t size)
{
    uint32_t code = 0;
    for (size_t at = 0, step; at < size; at += step) {
        step = character(text + at, size - at, &code);
        FUZZ_CHECK(step > 0 && !is_dangerous(code));
    }
}

/* ---- reading back ---- */

static unsigned int hex(const char *at, size_t digits)
{
    unsigned int value = 0;
    for (size_t i = 0; i < digits; i++) {
        const char *found = memchr("0123456789abcdef", at[i], 16);
        FUZZ_CHECK(found != NULL);
        value = value * 16 + (unsigned int)(found - (const char *)"0123456789abcdef");
    }
    return value;
}

static size_t put_code(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    out[0] = (char)(0xe0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 63));
    out[2] = (char)(0x80 | (code & 63));
    return 3;
}

/* Of the text form: \n, \r, \t, \\, \xHH, \uHHHH. */
static size_t unescape(const char *text, size_t size, char *out)
{
    static const char letters[] = "nrt\\", meanings[] = "\n\r\t\\";
    size_t done = 0;
    for (size_t at = 0; at < size; at++) {
        if (text[at] != '\\') {
            out[done++] = text[at];
            continue;
        }
        FUZZ_CHECK(++at < size);
        const char *letter = memchr(letters, text[at], 4);
        size_t digits = text[at] == 'x' ? 2 : 4;
        if (letter != NULL) {
            out[done++] = meanings[letter - letters];
            continue;
        }
        FUZZ_CHECK((text[at] == 'x' || text[at] == 'u') && at + digits < size);
        unsigned int code = hex(text + at + 1, digits);
        if (digits == 2)
            out[done++] = (char)code;
        else
            done += put_code(code, out + done);
        at += digits;
    }
    return done;
}

/* Steps over a string of JSON, from its quote to the one that ends it. */
static size_t json_string(const char *text, size_t size)
{
    FUZZ_CHECK(size > 0 && text[0] == '"');
    size_t at = 1;
    for (; at < size && text[at] != '"'; at++) {
        if (text[at] != '\\')
            continue;
        FUZZ_CHECK(++at < size && memchr("\\\"nrtu", text[at], 6) != NULL);
        if (text[at] == 'u') {
            FUZZ_CHECK(at + 4 < size);
            (void)hex(text + at + 1, 4);
            at += 4;
        }
    }
    FUZZ_CHECK(at < size);
    return at + 1;
}

/* An object of strings and numbers without spaces. */
static void check_json(void)
{
    size_t at = 0, size = line_size - 1;
    FUZZ_CHECK(line[0] == '{');
    do {
        at++;
        at += json_string(line + at, size - at);
        FUZZ_CHECK(at < size && line[at] == ':');
        at++;
        if (line[at] == '"')
            at += json_string(line + at, size - at);
        else
            while (line[at] >= '0' && line[at] <= '9')
                at++;
    } while (line[at] == ',');
    FUZZ_CHECK(line[at] == '}' && at + 1 == size);
}

static void check_text(const char *service, const char *message)
{
    enum { STAMP = sizeof("2000-01-01T00:00:00.000Z ERROR ") - 1 };
    char out[LINE_MAX_SIZE * 2];
    const char *at = line + STAMP, *end = line + line_size - 1;
    FUZZ_CHECK(end >= at);
    if (service != NULL) {
        FUZZ_CHECK(*at == '[');
        const char *stop = memmem(at, (size_t)(end - at), "] ", 2);
        FUZZ_CHECK(stop != NULL);
        /* A name with "] " in it ends early here; the names of services are the administrator's. */
        if (strstr(service, "]") != NULL)
            return;
        bool is_cut = stop - at >= 4 && memcmp(stop - 3, "...", 3) == 0;
        size_t size = is_cut ? 0 : unescape(at + 1, (size_t)(stop - at - 1), out);
        FUZZ_CHECK(is_cut || (size == strlen(service) && memcmp(out, service, size) == 0));
        at = stop + 2;
    }
    bool is_cut = end - at >= 3 && memcmp(end - 3, "...", 3) == 0;
    if (is_cut)
        return;
    size_t size = unescape(at, (size_t)(end - at), out);
    FUZZ_CHECK(size == strlen(message) && memcmp(out, message, size) == 0);
}

static void write_line(const char *service, const char *message, uint64_t conn_id)
{
    is_caught = true;
    write_count = 0;
    log_write(LOG_ERROR, service, conn_id, "%s", message);
    is_caught = false;
    FUZZ_CHECK(write_count == 1 && line_size > 0 && line_size <= LINE_MAX_SIZE);
    FUZZ_CHECK(line[line_size - 1] == '\n');
    check_printable(line, line_size - 1);
}

static void check_escape(const char *message)
{
    char out[320];
    FUZZ_CHECK(log_escape_json(message, out + 1, sizeof(out) - 2) == out + 1);
    size_t size = strlen(out + 1);
    check_printable(out + 1, size);
    out[0] = out[size + 1] = '"';
    FUZZ_CHECK(json_string(out, size + 2) == size + 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char name[256], message[TEXT_MAX];
    struct script script = {data, size};
    size_t name_size;
    uint8_t choice = script_byte(&script);
    const uint8_t *piece = script_piece(&script, sizeof(name) - 1, &name_size);
    if (name_size > 0)
        memcpy(name, piece, name_size);
    name[name_size] = '\0';
    size_t message_size = MIN(script.left, sizeof(message) - 1);
    if (message_size > 0)
        memcpy(message, script.at, message_size);
    message[message_size] = '\0';
    const char *service = (choice & 1) != 0 ? name : NULL;
    log_configure(LOG_ERROR, LOG_TEXT);
    write_line(service, message, 0);
    check_text(service, message);
    log_configure(LOG_ERROR, LOG_JSON);
    write_line(service, message, (choice & 2) != 0 ? UINT64_MAX : 0);
    check_json();
    check_escape(message);
    static struct log_record records[LOG_RECENT];
    size_t count = log_recent(records);
    FUZZ_CHECK(count > 0);
    check_printable(records[count - 1].text, strlen(records[count - 1].text));
    check_printable(records[count - 1].service, strlen(records[count - 1].service));
    return 0;
}
