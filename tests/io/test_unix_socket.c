#include "io/unix_socket.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/socket.h"
#include "testing.h"

static const struct unix_access plain = {.mode = 0640, .owner = ""};
static char directory[] = "/tmp/unix-socket-XXXXXX";
static char path[64];

static void make_directory(void)
{
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(path, sizeof(path), "%s/s", directory);
}

static void remove_directory(void)
{
    (void)unlink(path);
    cr_assert_eq(rmdir(directory), 0, "nothing else was left there");
}

TestSuite(unix_socket, .init = make_directory, .fini = remove_directory);

static mode_t mode_of(const char *name)
{
    struct stat status;
    cr_assert_eq(lstat(name, &status), 0);
    return status.st_mode & 07777;
}

Test(unix_socket, mode_whatever_the_umask)
{
    static const mode_t modes[] = {0600, 0640, 0666, 0777, 0};
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        const struct unix_access access = {.mode = modes[i], .owner = ""};
        int fd;
        mode_t mask = umask(0077);
        cr_assert_eq(unix_socket_bind(path, &access, &fd), 0);
        cr_expect_eq(umask(mask), 0077, "as it was");
        cr_expect_eq(mode_of(path), modes[i]);
        (void)close(fd);
    }
}

Test(unix_socket, a_file_is_in_use_while_it_is_bound)
{
    int fd, second;
    cr_assert_eq(unix_socket_probe(path), 0);
    cr_assert_eq(unix_socket_bind(path, &plain, &fd), 0);
    cr_expect_eq(unix_socket_bind(path, &plain, &second), -EADDRINUSE, "it does not even listen");
    cr_expect_eq(unix_socket_probe(path), -EADDRINUSE);
    unix_socket_remove(path);
    cr_expect_eq(mode_of(path), 0640, "still there");
    (void)close(fd);
    cr_expect_eq(unix_socket_probe(path), 0, "left behind");
    cr_assert_eq(unix_socket_bind(path, &plain, &fd), 0);
    (void)close(fd);
    unix_socket_remove(path);
    cr_expect_eq(access(path, F_OK), -1);
    unix_socket_remove(path);
}

Test(unix_socket, other_files_are_left_alone)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600), bound;
    cr_assert_geq(fd, 0);
    (void)close(fd);
    cr_expect_eq(unix_socket_bind(path, &plain, &bound), -EEXIST);
    cr_expect_eq(unix_socket_probe(path), -EEXIST);
    cr_expect_eq(unix_socket_set_access(path, &plain), -EEXIST);
    unix_socket_remove(path);
    cr_expect_eq(mode_of(path), 0600);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink("/dev/null", path), 0);
    cr_expect_lt(unix_socket_bind(path, &plain, &bound), 0);
    unix_socket_remove(path);
    cr_expect_eq(access(path, F_OK), 0, "a link too");
}

Test(unix_socket, our_file_and_the_one_that_replaced_it)
{
    int fd, other;
    cr_assert_eq(unix_socket_bind(path, &plain, &fd), 0);
    struct unix_file file = unix_socket_file(path);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(unix_socket_bind(path, &plain, &other), 0);
    unix_socket_remove_own(path, &file);
    cr_expect_eq(access(path, F_OK), 0, "not ours");
    file = unix_socket_file(path);
    unix_socket_remove_own(path, &file);
    cr_expect_eq(access(path, F_OK), -1);
    (void)close(fd);
    (void)close(other);
}

Test(unix_socket, owners)
{
    struct stat status;
    int fd;
    struct unix_access access = {.mode = 0600, .owner = "no-such-user"};
    cr_expect_eq(unix_socket_bind(path, &access, &fd), -EINVAL);
    cr_expect_eq(unix_socket_file(path).inode, 0, "nothing was left");
    access.owner = ":no-such-group";
    cr_expect_eq(unix_socket_bind(path, &access, &fd), -EINVAL);
    if (geteuid() != 0)
        cr_skip_test("only root gives files away");
    access.owner = "12:34";
    cr_assert_eq(unix_socket_bind(path, &access, &fd), 0);
    cr_assert_eq(stat(path, &status), 0);
    cr_expect(status.st_uid == 12 && status.st_gid == 34);
    access = (struct unix_access){.mode = 0660, .owner = ":56"};
    cr_expect_eq(unix_socket_set_access(path, &access), 0);
    cr_assert_eq(stat(path, &status), 0);
    cr_expect(status.st_uid == 12 && status.st_gid == 56 && (status.st_mode & 0777) == 0660);
    (void)close(fd);
}

Test(unix_socket, a_directory_that_is_not_there)
{
    int fd;
    char name[128];
    (void)snprintf(name, sizeof(name), "%s/none/s", directory);
    cr_expect_eq(unix_socket_bind(name, &plain, &fd), -ENOENT);
    cr_expect_eq(unix_socket_probe(name), -ENOENT);
}

/* The accept queue holds one connection more than the backlog; then connect(2) does not wait. */
static void check_connecting(const char *name)
{
    static const struct socket_options none;
    struct addr addr = addr_of_unix(name), bound;
    int listener, fds[3];
    cr_assert_eq(unix_socket_bind(name, &plain, &listener), 0);
    bound = unix_socket_addr(listener);
    cr_expect(addr_equal(&bound, &addr));
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = socket_for_dialing(&addr, &none);
        cr_assert_geq(fds[i], 0);
    }
    cr_expect_eq(unix_socket_connect(fds[0], name), -ECONNREFUSED);
    cr_assert_eq(listen(listener, 0), 0);
    cr_expect_eq(unix_socket_connect(fds[0], name), 0);
    cr_expect_eq(unix_socket_connect(fds[1], name), -EAGAIN);
    int accepted = accept(listener, NULL, NULL);
    cr_assert_geq(accepted, 0);
    cr_expect_eq(unix_socket_connect(fds[1], name), 0, "the same socket, later");
    struct addr none_at_all = unix_socket_addr(fds[2]);
    cr_expect_eq(none_at_all.len, 0);
    (void)close(accepted);
    (void)close(listener);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        (void)close(fds[i]);
}

Test(unix_socket, connecting)
{
    char name[64];
    check_connecting(path);
    (void)snprintf(name, sizeof(name), "@unix-socket-test-%d", (int)getpid());
    check_connecting(name);
    cr_expect_eq(unix_socket_probe(name), 0);
}

Test(unix_socket, urgent_bytes_stay_in_place)
{
    int pair[2];
    char got[4] = "";
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    unix_socket_prepare_accepted(pair[1]);
    if (send(pair[0], "a", 1, 0) != 1 || send(pair[0], "b", 1, MSG_OOB) != 1)
        cr_skip_test("a kernel without MSG_OOB on unix sockets");
    cr_assert_eq(send(pair[0], "c", 1, 0), 1);
    for (size_t have = 0; have < 3;) {
        ssize_t size = recv(pair[1], got + have, 3 - have, MSG_DONTWAIT);
        cr_assert_gt(size, 0);
        have += (size_t)size;
    }
    cr_expect_str_eq(got, "abc");
    (void)close(pair[0]);
    (void)close(pair[1]);
}
