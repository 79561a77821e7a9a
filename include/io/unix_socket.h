/* Unix stream sockets (unix(7)): services' addresses and local services. A path begins with '/'; a
 * name in the abstract namespace with '@' instead of its NUL, and it has no file. struct addr does
 * not hold the path (base/addr.h), so these functions take it as text of at most ADDR_UNIX_MAX
 * bytes.
 *
 * A file is in use as long as a socket is bound to it, whether that socket listens or not. This is
 * found out without a connection: connect(2) with a datagram socket says -EPROTOTYPE for a stream
 * socket that is bound, and -ECONNREFUSED if nobody is. The sockets of another machine on the same
 * file system, or of another kernel in a virtual machine, can't be seen this way.
 *
 * The caller owns descriptors. Functions return 0 or more, or -errno. unix_socket_bind changes the
 * umask of the process for a moment, and look-ups of accounts may wait for a user directory: only
 * the main thread binds. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/addr.h"
#include "base/macros.h"

/* Who may connect: the owner, group and permission bits of the file. */
struct unix_access {
    mode_t mode;
    const char *owner; /* "user", "user:group" or ":group", names or numbers; "": as it is made */
};

/* Binds a blocking socket that does not listen yet. A file that nobody is bound to is removed
 * first. The file has its mode from the first moment, and its owner before anybody can connect,
 * because nobody can before listen(2). -EADDRINUSE: somebody is bound to it. -EEXIST: there is a
 * file that is no socket; it is left alone. -EINVAL: no such account. */
MUST_CHECK int unix_socket_bind(const char *path, const struct unix_access *access, int *ret_fd);
/* Gives a file that is bound already this owner and mode, if it has others. The same errors. */
MUST_CHECK int unix_socket_set_access(const char *path, const struct unix_access *access);
/* Removes the file if it is a socket that nobody is bound to. */
void unix_socket_remove(const char *path);

/* Which file it is. No other file gets this identity while a socket is bound to it. All zero: there
 * is none. */
struct unix_file {
    dev_t device;
    ino_t inode;
};
struct unix_file unix_socket_file(const char *path);
/* Removes the file if it is this one, although our own sockets are still bound to it. */
void unix_socket_remove_own(const char *path, const struct unix_file *file);
/* What unix_socket_bind would say, as far as it can be known; nothing is changed. */
MUST_CHECK int unix_socket_probe(const char *path);

/* Connects a non-blocking socket at once. -EAGAIN: the accept queue is full, and no event will say
 * when it has room; the same socket may try again. */
MUST_CHECK int unix_socket_connect(int fd, const char *path);

/* The address that a socket is bound to. len 0: to none, or it is no unix socket. */
struct addr unix_socket_addr(int fd);
/* Sets what an accepted socket does not inherit from its listener. */
void unix_socket_prepare_accepted(int fd);
