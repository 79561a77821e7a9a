#include "io/udp_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/numbers.h"

/* Older C libraries lack some of these. Whether they work depends on the kernel alone. */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

/* SK_MEMINFO_DROPS and SK_MEMINFO_VARS of linux/sock_diag.h. */
enum { MEMINFO_DROPS = 8, MEMINFO_VALUES = 9 };

enum {
    PORTS_FIRST_DEFAULT = 32768, /* the kernel's defaults, for where /proc/sys is hidden */
    PORTS_LAST_DEFAULT = 60999,
};

static void udp_set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

static bool has_segment(int fd)
{
    int value = 0;
    socklen_t len = sizeof(value);
    return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &len) == 0;
}

/* Large buffers cost no memory in advance: only datagrams that wait use some. */
static void set_common(int fd)
{
    udp_set_int(fd, SOL_SOCKET, SO_RCVBUF, LIMIT_UDP_SOCKET_BUFFER);
    udp_set_int(fd, SOL_SOCKET, SO_SNDBUF, LIMIT_UDP_SOCKET_BUFFER);
    udp_set_int(fd, IPPROTO_UDP, UDP_GRO, 1);
}

static bool is_any(const struct addr *addr)
{
    if (addr->any.sa_family == AF_INET)
        return addr->v4.sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&addr->v6.sin6_addr);
}

/* A socket on a wildcard address serves several addresses of this machine. Its answers have to
 * leave from the address that the visitor has sent to, so the kernel is asked for that. */
static void ask_for_local_address(int fd, const struct addr *addr)
{
    if (!is_any(addr))
        return;
    if (addr->any.sa_family == AF_INET6)
        udp_set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    else
        udp_set_int(fd, IPPROTO_IP, IP_PKTINFO, 1);
}

static int udp_bind_one(const struct addr *addr, bool join_group, int *ret_fd)
{
    CLEANUP_FD int fd = socket(addr->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    set_common(fd);
    if (addr->any.sa_family == AF_INET6)
        udp_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    ask_for_local_address(fd, addr);
    if (join_group)
        udp_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (bind(fd, &addr->any, addr->len) < 0)
        return -errno;
    udp_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1); /* from here on other sockets may join */
    *ret_fd = take_fd(&fd);
    return 0;
}

int udp_socket_bind_group(const struct addr *addr, int *ret_fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int result = udp_bind_one(addr, i > 0, &ret_fds[i]);
        if (result < 0) {
            while (i-- > 0)
                (void)close(take_fd(&ret_fds[i]));
            return result;
        }
    }
    return 0;
}

int udp_socket_join_group(const struct addr *addr, int *ret_fd)
{
    return udp_bind_one(addr, true, ret_fd);
}

void udp_socket_adopt(int fd, const struct addr *addr)
{
    set_common(fd);
    ask_for_local_address(fd, addr);
}

void udp_socket_init(struct udp_socket *udp, int fd, const struct addr *bound)
{
    *udp = (struct udp_socket){
        .fd = fd,
        .segment_max = has_segment(fd) ? LIMIT_UDP_SEGMENT : 0,
        .is_v6 = bound->any.sa_family == AF_INET6,
    };
}

int udp_socket_connect(const struct addr *to, struct udp_socket *ret)
{
    CLEANUP_FD int fd = socket(to->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    set_common(fd);
    if (connect(fd, &to->any, to->len) < 0)
        return -errno;
    udp_socket_init(ret, take_fd(&fd), to);
    ret->is_connected = true;
    return 0;
}

/* An op in the ring may hold the socket for a turn after its descriptor is closed. Many visitors
 * can use up the ports, so the port is freed at once, by a connect to AF_UNSPEC (connect(2)). */
static void give_port_back(const struct udp_socket *udp)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (udp->is_connected)
        (void)connect(udp->fd, &nobody, sizeof(nobody));
}

int udp_socket_change_port(struct udp_socket *udp, const struct addr *to)
{
    give_port_back(udp);
    return connect(udp->fd, &to->any, to->len) < 0 ? -errno : 0;
}

void udp_socket_close(struct udp_socket *udp)
{
    give_port_back(udp);
    (void)close(take_fd(&udp->fd));
}

int udp_socket_replace(struct udp_socket *udp, struct udp_socket *by)
{
    give_port_back(udp);
    if (dup3(by->fd, udp->fd, O_CLOEXEC) < 0)
        return -errno;
    (void)close(by->fd);
    by->fd = take_fd(&udp->fd);
    return 0;
}

unsigned int udp_socket_port_count(void)
{
    uint64_t ports[2];
    if (numbers_read("/proc/sys/net/ipv4/ip_local_port_range", ports, 2) < 2 ||
        ports[0] > ports[1] || ports[1] > UINT16_MAX)
        return PORTS_LAST_DEFAULT - PORTS_FIRST_DEFAULT + 1;
    return (unsigned int)(ports[1] - ports[0] + 1);
}

uint32_t udp_socket_take_overflows(struct udp_socket *udp)
{
    uint32_t info[MEMINFO_VALUES] = {0};
    socklen_t len = sizeof(info);
    if (getsockopt(udp->fd, SOL_SOCKET, SO_MEMINFO, info, &len) < 0 || len != sizeof(info))
        return 0;
    uint32_t new = info[MEMINFO_DROPS] - udp->overflows;
    udp->overflows = info[MEMINFO_DROPS];
    return new;
}

size_t udp_socket_receive_room(int fd)
{
    int size = 0;
    socklen_t len = sizeof(size);
    if (getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, &len) < 0 || size < 0)
        return 0;
    return (size_t)size / 2; /* the kernel doubles the value, for its own use (socket(7)) */
}
