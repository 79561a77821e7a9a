#include "io/unix_socket.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/files.h"
#include "base/limits.h"

static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == ADDR_UNIX_MAX + 1, "with its NUL");

enum { NAME_AT = offsetof(struct sockaddr_un, sun_path) };

static bool is_abstract(const char *path)
{
    return path[0] == '@';
}

static socklen_t fill_sockaddr(const char *path, struct sockaddr_un *ret)
{
    size_t len = strlen(path);
    assert(len <= ADDR_UNIX_MAX);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, len);
    if (is_abstract(path)) /* its length ends the name, not a NUL */
        ret->sun_path[0] = '\0';
    return (socklen_t)(NAME_AT + len + (is_abstract(path) ? 0 : 1));
}

/* ---- accounts ---- */

static bool parse_id(const char *text, id_t *ret)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number >= UINT32_MAX) /* -1 means "unchanged" to chown(2) */
        return false;
    *ret = (id_t)number;
    return true;
}

static bool find_user(const char *name, uid_t *ret)
{
    const struct passwd *found = getpwnam(name);
    if (found != NULL)
        *ret = found->pw_uid;
    return found != NULL || parse_id(name, ret);
}

static bool find_group(const char *name, gid_t *ret)
{
    const struct group *found = getgrnam(name);
    if (found != NULL)
        *ret = found->gr_gid;
    return found != NULL || parse_id(name, ret);
}

/* -1 stands for what is not given. */
static int find_owner(const char *owner, uid_t *ret_uid, gid_t *ret_gid)
{
    char user[2 * LIMIT_ACCOUNT_NAME + 2];
    *ret_uid = (uid_t)-1;
    *ret_gid = (gid_t)-1;
    (void)snprintf(user, sizeof(user), "%s", owner);
    char *group = strchr(user, ':');
    if (group != NULL)
        *group++ = '\0';
    if (*user != '\0' && !find_user(user, ret_uid))
        return -EINVAL;
    if (group != NULL && *group != '\0' && !find_group(group, ret_gid))
        return -EINVAL;
    return 0;
}

/* ---- the file ---- */

/* A descriptor of the file itself, so that nobody can put another file in its place meanwhile, with
 * its status. */
static int open_file(const char *path, struct stat *ret)
{
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    *ret = (struct stat){0};
    if (fd < 0)
        return -errno;
    int result = fstat(fd, ret) < 0 ? -errno : S_ISSOCK(ret->st_mode) ? 0 : -EEXIST;
    if (result == 0)
        return fd;
    (void)close(fd);
    return result;
}

static int change_owner(int fd, const struct stat *status, const char *owner)
{
    uid_t uid;
    gid_t gid;
    int result = owner[0] != '\0' ? find_owner(owner, &uid, &gid) : 0;
    if (result < 0 || owner[0] == '\0')
        return result;
    if ((uid == (uid_t)-1 || uid == status->st_uid) && (gid == (gid_t)-1 || gid == status->st_gid))
        return 0;
    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int unix_socket_set_access(const char *path, const struct unix_access *access)
{
    struct stat status;
    if (is_abstract(path))
        return 0;
    CLEANUP_FD int fd = open_file(path, &status);
    if (fd < 0)
        return fd;
    int result = change_owner(fd, &status, access->owner);
    if (result < 0 || (status.st_mode & 07777) == access->mode)
        return result;
    /* fchmod(2) refuses a descriptor of O_PATH, and chmod(2) would follow a symbolic link. */
    char name[32];
    (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    return chmod(name, access->mode) < 0 ? -errno : 0;
}

static void cut_to_directory(const char *path, char ret[static ADDR_UNIX_MAX + 1])
{
    (void)snprintf(ret, ADDR_UNIX_MAX + 1, "%s", path);
    char *slash = strrchr(ret, '/');
    slash[slash == ret ? 1 : 0] = '\0';
}

/* Whether a socket is bound to the file: 0 = no, -EADDRINUSE = yes. Another -errno: there is no
 * file (-ENOENT), it is no socket (-EEXIST), or it can't be known. */
static int find_user_of(const char *path)
{
    struct sockaddr_un name;
    struct stat status;
    int file = open_file(path, &status);
    if (file < 0)
        return file;
    (void)close(file);
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    socklen_t len = fill_sockaddr(path, &name);
    if (connect(fd, (const struct sockaddr *)&name, len) == 0 || errno == EPROTOTYPE)
        return -EADDRINUSE;
    return errno == ECONNREFUSED ? 0 : -errno;
}

void unix_socket_remove(const char *path)
{
    if (!is_abstract(path) && find_user_of(path) == 0)
        (void)unlink(path);
}

struct unix_file unix_socket_file(const char *path)
{
    struct stat status;
    if (is_abstract(path) || lstat(path, &status) < 0)
        return (struct unix_file){0};
    return (struct unix_file){status.st_dev, status.st_ino};
}

void unix_socket_remove_own(const char *path, const struct unix_file *file)
{
    struct unix_file now = unix_socket_file(path);
    if (now.inode != 0 && now.inode == file->inode && now.device == file->device)
        (void)unlink(path);
}

int unix_socket_probe(const char *path)
{
    struct sockaddr_un name;
    if (!is_abstract(path)) {
        int result = find_user_of(path);
        if (result != -ENOENT)
            return result;
        /* Nothing is made, so only the directory can be looked at. */
        char directory[ADDR_UNIX_MAX + 1];
        cut_to_directory(path, directory);
        return access(directory, W_OK | X_OK) < 0 ? -errno : 0;
    }
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    socklen_t len = fill_sockaddr(path, &name);
    return bind(fd, (const struct sockaddr *)&name, len) < 0 ? -errno : 0;
}

/* ---- binding ---- */

/* The kernel gives the file the mode of the socket, less the umask. */
static int bind_with_mode(int fd, const char *path, mode_t mode)
{
    struct sockaddr_un name;
    socklen_t len = fill_sockaddr(path, &name);
    if (!is_abstract(path) && fchmod(fd, mode) < 0)
        return -errno;
    mode_t mask = umask(0);
    int result = bind(fd, (const struct sockaddr *)&name, len) < 0 ? -errno : 0;
    (void)umask(mask);
    if (result == -EACCES && !is_abstract(path)) {
        char directory[ADDR_UNIX_MAX + 1];
        cut_to_directory(path, directory);
        errno = EACCES;
        result = files_error(directory, W_OK | X_OK);
    }
    return result;
}

int unix_socket_bind(const char *path, const struct unix_access *access, int *ret_fd)
{
    uid_t uid;
    gid_t gid;
    int result = find_owner(access->owner, &uid, &gid); /* before there is a file */
    if (result < 0 && !is_abstract(path))
        return result;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    result = bind_with_mode(fd, path, access->mode);
    if (result == -EADDRINUSE && !is_abstract(path)) {
        result = find_user_of(path);
        /* If another process binds the file just now, between the look and this call, its file is
         * removed. Two programs with one path in their configurations are a mistake anyhow. */
        if (result == 0 && unlink(path) < 0)
            result = -errno;
        if (result == 0)
            result = bind_with_mode(fd, path, access->mode);
    }
    if (result < 0)
        return result;
    result = unix_socket_set_access(path, access);
    if (result < 0) {
        (void)close(take_fd(&fd));
        unix_socket_remove(path);
        return result;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

/* ---- connections ---- */

int unix_socket_connect(int fd, const char *path)
{
    struct sockaddr_un name;
    socklen_t len = fill_sockaddr(path, &name);
    return connect(fd, (const struct sockaddr *)&name, len) < 0 ? -errno : 0;
}

struct addr unix_socket_addr(int fd)
{
    struct sockaddr_un name = {.sun_family = AF_UNSPEC};
    socklen_t len = sizeof(name);
    char path[ADDR_UNIX_MAX + 2] = "";
    if (getsockname(fd, (struct sockaddr *)&name, &len) < 0 || name.sun_family != AF_UNIX ||
        len <= NAME_AT)
        return (struct addr){.len = 0};
    memcpy(path, name.sun_path, MIN((size_t)len - NAME_AT, sizeof(name.sun_path)));
    if (path[0] == '\0')
        path[0] = '@';
    return addr_of_unix(path);
}

void unix_socket_prepare_accepted(int fd)
{
    /* Urgent bytes stay at their place in the stream (prepare_connection in socket.c). */
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}
