#include "base/numbers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/macros.h"

size_t numbers_parse(const char *text, uint64_t *ret, size_t max, const char **ret_end)
{
    size_t count = 0;
    const char *end = text;
    while (count < max && *text >= '0' && *text <= '9') {
        char *after;
        errno = 0;
        ret[count] = strtoull(text, &after, 10);
        if (errno != 0)
            break;
        count++;
        end = after;
        if (*after == '\0')
            break;
        text = after + 1;
    }
    if (ret_end != NULL)
        *ret_end = end;
    return count;
}

size_t numbers_read(const char *path, uint64_t *ret, size_t max)
{
    char text[128];
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (len < 0)
        return 0;
    text[len] = '\0';
    return numbers_parse(text, ret, max, NULL);
}
