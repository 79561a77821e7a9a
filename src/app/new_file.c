#include "app/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, text, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        text += written;
        size -= (size_t)written;
    }
    return 0;
}

int new_file_write(const char *path, const char *text, size_t size)
{
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int result = fchmod(fd, 0600) < 0 ? -errno : write_all(fd, text, size);
    if (result == 0 && fsync(fd) < 0)
        result = -errno;
    if (result < 0)
        (void)unlink(path);
    return result;
}
