/*     bare splice|copy|udp|udp-segments server|client HOST PORT ONWARD_HOST ONWARD_PORT
 *
 * The server's ONWARD is the client's HOST and PORT, and the client's is the service. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "bare.h"

enum { BACKLOG = 4096 };

static const struct {
    const char *name;
    void (*run)(const struct bare *bare);
} modes[] = {{"splice", bare_splice},
             {"copy", bare_copy},
             {"udp", bare_udp},
             {"udp-segments", bare_udp_segments}};

/* Before the connection exists. Reno on loopback, as the program has it: where BBR is the default, its
 * pacing would be most of the cost. */
static void prepare(int fd, const struct sockaddr_in *address)
{
    static const char name[] = "reno";
    const int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
        fail("TCP_NODELAY");
    if (ntohl(address->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, sizeof(name) - 1) != 0)
        fail("TCP_CONGESTION");
}

int bare_listen(const struct bare *bare)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0)
        fail("socket");
    prepare(fd, &bare->here); /* what it accepts inherits both */
    if (bind(fd, (const struct sockaddr *)&bare->here, sizeof(bare->here)) != 0 ||
        listen(fd, BACKLOG) != 0)
        fail("listen");
    return fd;
}

int bare_socket(const struct bare *bare)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    prepare(fd, &bare->onward);
    return fd;
}

static void usage(void)
{
    fprintf(stderr, "usage: bare splice|copy|udp|udp-segments server|client HOST PORT ONWARD_HOST "
                    "ONWARD_PORT\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct bare bare;
    if (argc != 7)
        usage();
    bare.here = parse_address(argv[3], argv[4]);
    bare.onward = parse_address(argv[5], argv[6]);
    bare.is_server = strcmp(argv[2], "server") == 0;
    if (!bare.is_server && strcmp(argv[2], "client") != 0)
        usage();
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(argv[1], modes[i].name) == 0)
            modes[i].run(&bare);
    }
    usage();
}
