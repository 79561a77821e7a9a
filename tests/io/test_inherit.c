#include "io/inherit.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../support/testing.h"
#include "io/unix_socket.h"

/* The test runner uses the descriptors from 3 on. So each case runs in a child process, which
 * arranges its descriptors as a service manager would. */

enum { FIRST = 3, SPARE = 100 };

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "failed: %s\n", what);
    _exit(1);
}

static void in_child(void (*body)(void))
{
    pid_t pid = fork();
    int status = -1;
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        body();
        _exit(0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned int)status);
}

/* Makes fd the descriptor number `at` of those that are passed. */
static void pass(int fd, int at)
{
    check(dup2(fd, FIRST + at) == FIRST + at, "dup2");
    (void)close(fd);
}

static void set_environment(const char *fds, const char *names)
{
    char pid[24];
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    (void)setenv("LISTEN_PID", pid, 1);
    (void)setenv("LISTEN_FDS", fds, 1);
    if (names != NULL)
        (void)setenv("LISTEN_FDNAMES", names, 1);
}

/* Moves fd above the descriptors that are passed. */
static int high(int fd)
{
    int moved = fcntl(fd, F_DUPFD, SPARE);
    (void)close(fd);
    return moved;
}

static int bound(int family, int type, struct addr *ret)
{
    int fd = high(socket(family, type, 0));
    int none = 0;
    *ret = (struct addr){.len = family == AF_INET ? sizeof(ret->v4) : sizeof(ret->v6)};
    ret->any.sa_family = (sa_family_t)family;
    if (family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof(none));
    check(bind(fd, &ret->any, ret->len) == 0, "bind");
    check(getsockname(fd, &ret->any, &ret->len) == 0, "getsockname");
    return fd;
}

static bool has_flag(int fd, int command, int flag)
{
    return (fcntl(fd, command) & flag) != 0;
}

static void check_forgotten(void)
{
    check(getenv("LISTEN_PID") == NULL && getenv("LISTEN_FDS") == NULL &&
              getenv("LISTEN_FDNAMES") == NULL,
          "the variables are gone");
}

static void tcp_and_udp(void)
{
    struct addr listening, quiet, udp;
    struct inherited inherited;
    struct inherited_socket taken;
    int fd = bound(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, &listening);
    check(listen(fd, 1) == 0, "listen");
    pass(fd, 0);
    pass(bound(AF_INET, SOCK_STREAM, &quiet), 1);
    pass(bound(AF_INET, SOCK_DGRAM, &udp), 2);
    set_environment("3", "control:service:udp");
    check(inherited_init(&inherited, 2) == 0, "init");
    check_forgotten();
    check(inherited_count(&inherited, &listening, SOCK_STREAM) == 1, "by address");
    check(inherited_count(&inherited, &listening, SOCK_DGRAM) == 0, "and by type");
    check(inherited_take(&inherited, &listening, SOCK_STREAM, &taken), "take");
    check(taken.fd == FIRST && taken.is_listening && taken.is_shared, "the listener");
    check(strcmp(taken.name, "control") == 0, "its name");
    check(has_flag(taken.fd, F_GETFD, FD_CLOEXEC), "close-on-exec");
    check(!has_flag(taken.fd, F_GETFL, O_NONBLOCK), "blocking");
    check(!inherited_take(&inherited, &listening, SOCK_STREAM, &taken), "only once");
    check(inherited_take(&inherited, &quiet, SOCK_STREAM, &taken), "take");
    check(taken.fd == FIRST + 1 && !taken.is_listening && taken.is_shared, "not listening");
    check(inherited_take(&inherited, &udp, SOCK_DGRAM, &taken), "take");
    check(taken.fd == FIRST + 2 && !taken.is_shared && has_flag(taken.fd, F_GETFL, O_NONBLOCK),
          "UDP");
    check(strcmp(taken.name, "udp") == 0, "its name");
    check(!inherited_take_any(&inherited, &taken), "nothing is left");
    inherited_finish(&inherited);
    inherited_finish(&inherited);
}

Test(inherit, by_address_and_type)
{
    in_child(tcp_and_udp);
}

static void several_of_one_address(void)
{
    struct addr addr;
    struct inherited inherited;
    struct inherited_socket taken;
    int fd = bound(AF_INET, SOCK_STREAM, &addr);
    pass(fcntl(fd, F_DUPFD, SPARE), 0);
    pass(fcntl(fd, F_DUPFD, SPARE), 1);
    pass(fd, 2);
    set_environment("3", NULL);
    check(inherited_init(&inherited, 0) == 0, "init");
    check(inherited_count(&inherited, &addr, SOCK_STREAM) == 3, "all count");
    for (int i = 0; i < 2; i++) {
        check(inherited_take(&inherited, &addr, SOCK_STREAM, &taken), "take");
        check(taken.fd == FIRST + i && taken.name[0] == '\0', "in their order");
    }
    inherited_finish(&inherited);
    check(fcntl(FIRST, F_GETFD) >= 0 && fcntl(FIRST + 1, F_GETFD) >= 0, "what was taken stays");
    check(fcntl(FIRST + 2, F_GETFD) < 0, "what was not is closed");
}

Test(inherit, several_of_one_address)
{
    in_child(several_of_one_address);
}

static void dual_stack(void)
{
    struct addr any, v4 = tcp_loopback(0);
    struct inherited inherited;
    struct inherited_socket taken;
    int only = 1;
    pass(bound(AF_INET6, SOCK_STREAM, &any), 0);
    set_environment("1", NULL);
    check(inherited_init(&inherited, 0) == 0, "init");
    v4.v4.sin_port = any.v6.sin6_port;
    check(inherited_count(&inherited, &v4, SOCK_STREAM) == 0, "127.0.0.1 is not 0.0.0.0");
    v4.v4.sin_addr.s_addr = htonl(INADDR_ANY);
    check(inherited_count(&inherited, &v4, SOCK_DGRAM) == 0, "by type");
    check(inherited_count(&inherited, &v4, SOCK_STREAM) == 1, "[::] takes IPv4 along");
    check(setsockopt(FIRST, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) < 0, "it is bound");
    v4.v4.sin_port ^= htons(1);
    check(inherited_count(&inherited, &v4, SOCK_STREAM) == 0, "another port");
    v4.v4.sin_port ^= htons(1);
    check(inherited_take(&inherited, &v4, SOCK_STREAM, &taken), "take");
    check(taken.addr.any.sa_family == AF_INET6, "it says what it is");
    inherited_finish(&inherited);
}

Test(inherit, a_dual_stack_socket_serves_any_v4)
{
    in_child(dual_stack);
}

/* While a host name can't be looked up, its sockets are found by the name in LISTEN_FDNAMES. */
static void named(void)
{
    struct addr tcp, udp, found;
    struct inherited inherited;
    pass(bound(AF_INET, SOCK_STREAM, &tcp), 0);
    pass(bound(AF_INET, SOCK_DGRAM, &udp), 1);
    set_environment("2", "service-a_b_:udp-dns");
    uint16_t port = addr_port(&tcp);
    check(!inherited_find_named(NULL, "service-a:b ", SOCK_STREAM, port, &found), "nothing");
    check(inherited_init(&inherited, 0) == 0, "init");
    check(inherited_find_named(&inherited, "service-a:b ", SOCK_STREAM, port, &found), "found");
    check(addr_equal(&found, &tcp), "its address");
    check(!inherited_find_named(&inherited, "service-a:b", SOCK_STREAM, port, &found), "shorter");
    check(!inherited_find_named(&inherited, "service-a:b  ", SOCK_STREAM, port, &found), "longer");
    check(!inherited_find_named(&inherited, "service-axb ", SOCK_STREAM, port, &found), "another");
    check(!inherited_find_named(&inherited, "service-a:b ", SOCK_DGRAM, port, &found), "the type");
    check(!inherited_find_named(&inherited, "service-a:b ", SOCK_STREAM, 1, &found), "the port");
    check(inherited_find_named(&inherited, "udp-dns", SOCK_DGRAM, addr_port(&udp), &found), "UDP");
    inherited_finish(&inherited);
}

Test(inherit, addresses_by_name)
{
    in_child(named);
}

/* Passes a file, a connection, an unbound socket, an AF_UNIX stream and a closed descriptor. */
static void useless(void)
{
    struct addr addr;
    struct inherited inherited;
    struct inherited_socket taken;
    int pair[2], left = 0;
    tcp_pair(pair, 0);
    pair[0] = high(pair[0]);
    addr.len = sizeof(addr.v6);
    check(getsockname(pair[0], &addr.any, &addr.len) == 0, "getsockname");
    pass(high(open("/dev/null", O_RDONLY)), 0);
    pass(pair[0], 1);
    pass(high(socket(AF_INET, SOCK_STREAM, 0)), 2);
    pass(high(socket(AF_UNIX, SOCK_STREAM, 0)), 3);
    (void)close(FIRST + 4);
    set_environment("5", "a:b");
    check(inherited_init(&inherited, INHERITED_ALL_SHARED) == 0, "init");
    check(inherited_count(&inherited, &addr, SOCK_STREAM) == 0, "a connection is no listener");
    while (inherited_take_any(&inherited, &taken)) {
        check(taken.type == 0 && taken.addr.len == 0 && taken.is_shared, "for nobody");
        (void)close(taken.fd);
        left++;
    }
    check(left == 4, "the closed one does not count");
    inherited_finish(&inherited);
}

/* Passes a listener at a path, a bound socket in the abstract namespace, and a connection. */
static void unix_sockets(void)
{
    char path[64], name[64];
    struct inherited inherited;
    struct inherited_socket taken;
    int pair[2], listener, abstract;
    (void)snprintf(path, sizeof(path), "/tmp/inherit-%d.sock", (int)getpid());
    (void)snprintf(name, sizeof(name), "@inherit-%d", (int)getpid());
    const struct unix_access access = {.mode = 0600, .owner = ""};
    check(unix_socket_bind(path, &access, &listener) == 0, "bind");
    check(unix_socket_bind(name, &access, &abstract) == 0, "bind");
    check(listen(listener, 1) == 0, "listen");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    pass(high(listener), 0);
    pass(high(abstract), 1);
    pass(high(pair[0]), 2);
    set_environment("3", "a:b:c");
    check(inherited_init(&inherited, 0) == 0, "init");
    struct addr addr = addr_of_unix(path), other = addr_of_unix("/tmp/another");
    check(inherited_count(&inherited, &other, SOCK_STREAM) == 0, "no such path");
    check(inherited_take(&inherited, &addr, SOCK_STREAM, &taken), "the path");
    check(taken.is_listening && addr_equal(&taken.addr, &addr), "listens");
    (void)close(taken.fd);
    addr = addr_of_unix(name);
    check(inherited_take(&inherited, &addr, SOCK_STREAM, &taken), "the name");
    check(!taken.is_listening, "does not listen");
    (void)close(taken.fd);
    check(inherited_take_any(&inherited, &taken) && taken.type == 0, "a connection is of no use");
    (void)close(taken.fd);
    inherited_finish(&inherited);
    unix_socket_remove(path);
    check(unix_socket_file(path).inode == 0, "nobody is bound to it");
}

Test(inherit, unix_sockets_by_path)
{
    in_child(unix_sockets);
}

Test(inherit, what_is_of_no_use_is_left_over)
{
    in_child(useless);
}

static void not_for_us(void)
{
    static const char *const pids[] = {"0", "1", "", "x", "-1", "99999999999999999999"};
    struct addr addr;
    struct inherited inherited;
    pass(bound(AF_INET, SOCK_STREAM, &addr), 0);
    for (size_t i = 0; i <= ARRAY_SIZE(pids); i++) {
        set_environment("1", "x");
        if (i < ARRAY_SIZE(pids))
            (void)setenv("LISTEN_PID", pids[i], 1);
        else
            (void)unsetenv("LISTEN_PID");
        check(inherited_init(&inherited, 0) == 0, "init");
        check(inherited.count == 0, "none of ours");
        check(!has_flag(FIRST, F_GETFD, FD_CLOEXEC), "untouched");
        check_forgotten();
        inherited_finish(&inherited);
    }
    (void)unsetenv("LISTEN_FDS");
    check(inherited_init(&inherited, 0) == 0 && inherited.count == 0, "none at all");
    check(fcntl(FIRST, F_GETFD) >= 0, "still open");
}

Test(inherit, what_is_for_another_process_is_left_alone)
{
    in_child(not_for_us);
}

static void bad_numbers(void)
{
    static const char *const numbers[] = {"", "x", "-1", "1x", "70000", "99999999999999999999"};
    struct inherited inherited;
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        set_environment(numbers[i], NULL);
        check(inherited_init(&inherited, 0) == -EINVAL, numbers[i]);
        check_forgotten();
        inherited_finish(&inherited);
    }
    set_environment("0", NULL);
    check(inherited_init(&inherited, 0) == 0 && inherited.count == 0, "none");
    inherited_finish(&inherited);
}

Test(inherit, bad_numbers_are_refused)
{
    in_child(bad_numbers);
}
