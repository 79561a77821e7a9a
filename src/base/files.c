#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static char **opened;
static size_t opened_count;
static bool is_confined;

/* Whether the file is in the directory of the last one, and no link to elsewhere: a configuration
 * may name thousands of secrets in one directory. */
static bool is_beside_last(const char *path)
{
    char target[1];
    if (opened_count == 0)
        return false;
    const char *last = opened[opened_count - 1], *slash = strrchr(path, '/');
    size_t size = slash != NULL ? (size_t)(slash - path) + 1 : 0;
    return strncmp(path, last, size) == 0 && strchr(last + size, '/') == NULL &&
           readlink(path, target, sizeof(target)) < 0;
}

/* Without memory the file is not remembered: it counts as outside, and is refused with the reason.
 */
static void files_remember(const char *path)
{
    if (is_confined || is_beside_last(path))
        return;
    char **more = realloc(opened, (opened_count + 1) * sizeof(*opened));
    if (more == NULL)
        return;
    opened = more;
    opened[opened_count] = strdup(path);
    opened_count += opened[opened_count] != NULL;
}

int files_error(const char *path, int mode)
{
    int error = errno;
    bool is_forbidden =
        error == EACCES && is_confined && faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0;
    return is_forbidden ? ERR_SANDBOX : -error;
}

int files_open(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return files_error(path, R_OK);
    files_remember(path);
    return fd;
}

void files_confine(void)
{
    is_confined = true;
}

size_t files_opened_count(void)
{
    return opened_count;
}

const char *files_opened(size_t index)
{
    return opened[index];
}
