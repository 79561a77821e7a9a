#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/files.h"
#include "base/limits.h"
#include "crypto/keys.h"
#include "report_priv.h"
#include "secret_priv.h"
#include "text_priv.h"

enum { PIPE_WAIT_MS = 500 };

void secret_free(char *text)
{
    if (text == NULL)
        return;
    keys_wipe(text, strlen(text));
    free(text);
}

/* Waits for the writer of a pipe that a shell has passed, as in `--check <(make-config)`.
 * -ETIMEDOUT: nothing came. */
static int wait_for_pipe(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int ready = poll(&poll_fd, 1, PIPE_WAIT_MS);
    return ready < 0 ? -errno : ready == 0 ? -ETIMEDOUT : 0;
}

static int secret_read_all(int fd, size_t size_max, struct secret_file *file)
{
    while (file->size <= size_max) {
        ssize_t got = read(fd, file->text + file->size, size_max + 1 - file->size);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        int result = got < 0 ? -errno : 0;
        if (result == -EAGAIN)
            result = wait_for_pipe(fd);
        if (result < 0)
            return result;
        if (got < 0)
            continue;
        file->size += (size_t)got;
    }
    if (file->size > size_max)
        return -EFBIG;
    file->text[file->size] = '\0';
    return 0;
}

/* UTF-16 may lack its byte order mark. ASCII in it shows by every second byte being zero. */
static bool is_utf16(const struct secret_file *file)
{
    const unsigned char *bytes = (const unsigned char *)file->text;
    if (file->size < 2 || file->size % 2 != 0)
        return false;
    bool has_mark =
        (bytes[0] == 0xff && bytes[1] == 0xfe) || (bytes[0] == 0xfe && bytes[1] == 0xff);
    bool is_half_zero = file->size >= 4 && (bytes[0] == 0) != (bytes[1] == 0) &&
                        (bytes[0] == 0) == (bytes[2] == 0) && (bytes[1] == 0) == (bytes[3] == 0);
    return has_mark || is_half_zero;
}

static void strip_mark(struct secret_file *file)
{
    static const char mark[] = "\xef\xbb\xbf";
    const size_t size = sizeof mark - 1;
    if (file->size < size || strncmp(file->text, mark, size) != 0)
        return;
    file->size -= size;
    memmove(file->text, file->text + size, file->size + 1);
    keys_wipe(file->text + file->size, size);
}

static bool is_handed_over(const char *path)
{
    return strncmp(path, "/dev/fd/", 8) == 0 || strcmp(path, "/dev/stdin") == 0 ||
           strncmp(path, "/proc/self/fd/", 14) == 0;
}

/* Opens a file without waiting, because this runs on the thread that answers signals. Opening a
 * FIFO blocks until it has a writer, and reading a terminal until somebody types. So only regular
 * files are read, and pipes that a shell has passed. A network file system that hangs blocks all
 * the same: open(2) offers no way around that. */
static int open_without_waiting(const char *path, struct stat *ret_status)
{
    CLEANUP_FD int fd = files_open(path);
    if (fd < 0)
        return fd;
    if (fstat(fd, ret_status) < 0)
        return -errno;
    if (S_ISDIR(ret_status->st_mode))
        return -EISDIR;
    bool is_pipe = S_ISFIFO(ret_status->st_mode) && is_handed_over(path);
    if (!is_pipe && !S_ISREG(ret_status->st_mode))
        return ERR_NOT_A_FILE;
    return take_fd(&fd);
}

int secret_file_read(const char *path, size_t size_max, struct secret_file *ret)
{
    struct stat status;
    CLEANUP_FD int fd = open_without_waiting(path, &status);
    if (fd < 0)
        return fd;
    /* Allocate the largest size at once: realloc would leave copies of secrets behind, and
     * untouched pages cost nothing. */
    struct secret_file file = {.text = malloc(size_max + 2), .mode = status.st_mode};
    if (file.text == NULL)
        return -ENOMEM;
    int result = secret_read_all(fd, size_max, &file);
    if (result == 0 && is_utf16(&file))
        result = -EILSEQ;
    if (result < 0) {
        secret_file_finish(&file);
        return result;
    }
    strip_mark(&file);
    *ret = file;
    return 0;
}

void secret_file_finish(struct secret_file *file)
{
    if (file->text != NULL)
        keys_wipe(file->text, file->size);
    free(file->text);
    *file = (struct secret_file){0};
}

int secret_path_copy(const char *path, char **ret, char *problem, size_t problem_size)
{
    static const char variable[] = "${CREDENTIALS_DIRECTORY}";
    const char *found = strstr(path, variable);
    if (found == NULL) {
        *ret = strdup(path);
        return *ret != NULL ? 0 : -ENOMEM;
    }
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    if (directory == NULL) {
        (void)snprintf(problem, problem_size,
                       "CREDENTIALS_DIRECTORY is not set (systemd sets it for a unit with "
                       "LoadCredential=)");
        return ERR_CONFIG;
    }
    const char *rest = found + sizeof variable - 1;
    if (asprintf(ret, "%.*s%s%s", (int)(found - path), path, directory, rest) >= 0)
        return 0;
    *ret = NULL;
    return -ENOMEM;
}

static bool is_white(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The size of a secret without white space at its end. One newline there is normal, from an editor
 * or echo. More is hardly meant, would make the token wrong for ever, and sets *ret_stripped. */
static size_t secret_measure(const char *text, size_t size, bool may_end_in_newline,
                             bool *ret_stripped)
{
    if (may_end_in_newline && size > 0 && text[size - 1] == '\n') {
        size--;
        size -= size > 0 && text[size - 1] == '\r';
    }
    size_t stripped = size;
    while (stripped > 0 && is_white(text[stripped - 1]))
        stripped--;
    *ret_stripped = stripped < size;
    return stripped;
}

/* Reads a secret from its file. NULL, or what is wrong with the file. */
static const char *read_secret(const char *path, struct secret_file *ret, bool *ret_stripped,
                               int *ret_result)
{
    static const char too_long[] = "the file is longer than 4000 bytes";
    *ret_result = secret_file_read(path, LIMIT_SECRET + LIMIT_SECRET_MARGIN, ret);
    if (*ret_result < 0)
        return *ret_result == -EFBIG    ? too_long
               : *ret_result == -EILSEQ ? "the file is UTF-16; save it as UTF-8"
                                        : error_text(*ret_result);
    if (ret->size > 0)
        ret->size = secret_measure(ret->text, ret->size, true, ret_stripped);
    if (ret->size == 0)
        return "the file is empty";
    if (ret->size > LIMIT_SECRET)
        return too_long;
    return memchr(ret->text, '\0', ret->size) != NULL ? "the file holds a NUL byte" : NULL;
}

static int resolve_file(const char *value, struct secret *ret, char *problem, size_t problem_size)
{
    CLEANUP_FREE char *path = NULL;
    int result = secret_path_copy(value, &path, problem, problem_size);
    if (result < 0)
        return result;
    struct secret_file file = {0};
    bool is_stripped = false;
    const char *reason = read_secret(path, &file, &is_stripped, &result);
    if (result == -ENOMEM)
        return result;
    if (result < 0 || reason != NULL) {
        char echo[REPORT_ECHO_SIZE];
        secret_file_finish(&file);
        (void)snprintf(problem, problem_size, "cannot take the secret from file \"%s\": %s",
                       text_escape(path, echo, sizeof echo), reason);
        return ERR_CONFIG;
    }
    char *text = strndup(file.text, file.size);
    *ret = (struct secret){.text = text,
                           .origin = SECRET_FILE,
                           .is_world_readable = (file.mode & S_IROTH) != 0,
                           .is_stripped = is_stripped};
    secret_file_finish(&file);
    return text != NULL ? 0 : -ENOMEM;
}

/* Copies a secret from the configuration, unchanged, or from the environment, without white space
 * at its end: files of variables leave it there. */
static int copy_secret(const char *text, enum secret_origin origin, struct secret *ret,
                       char *problem, size_t problem_size)
{
    bool is_stripped = false;
    size_t size = strlen(text);
    if (origin == SECRET_ENV)
        size = secret_measure(text, size, false, &is_stripped);
    if (size == 0 || size > LIMIT_SECRET) {
        (void)snprintf(problem, problem_size, "expected a secret of 1 to %d bytes, got %zu bytes",
                       LIMIT_SECRET, size);
        return ERR_CONFIG;
    }
    *ret =
        (struct secret){.text = strndup(text, size), .origin = origin, .is_stripped = is_stripped};
    return ret->text != NULL ? 0 : -ENOMEM;
}

bool secret_is_inline(const char *value)
{
    return strncmp(value, "file:", 5) != 0 && strncmp(value, "env:", 4) != 0;
}

int secret_resolve(const char *value, struct secret *ret, char *problem, size_t problem_size)
{
    if (strncmp(value, "file:", 5) == 0)
        return resolve_file(value + 5, ret, problem, problem_size);
    if (secret_is_inline(value))
        return copy_secret(value, SECRET_INLINE, ret, problem, problem_size);

    const char *text = getenv(value + 4);
    if (text == NULL) {
        char echo[REPORT_ECHO_SIZE];
        (void)snprintf(problem, problem_size, "environment variable \"%s\" is not set",
                       text_escape(value + 4, echo, sizeof echo));
        return ERR_CONFIG;
    }
    return copy_secret(text, SECRET_ENV, ret, problem, problem_size);
}
