#include "io/socket_life.h"

#include <errno.h>
/* The kernel's header, because the C library's <netinet/tcp.h> lacks the newer fields. The two
 * headers can't be included together. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/limits.h"

enum { ASK_AFTER_S = 1 }; /* the smallest TCP_KEEPIDLE */

int socket_life(int fd, struct socket_life *ret)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    memset(&info, 0, sizeof(info)); /* an older kernel fills less */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return -errno;
    *ret = (struct socket_life){
        .unacked = info.tcpi_unacked,
        .unsent = info.tcpi_notsent_bytes,
        .window = info.tcpi_snd_wnd,
        /* A segment with data that acknowledges nothing new only updates tcpi_last_data_recv. */
        .heard_ms = MIN(info.tcpi_last_ack_recv, info.tcpi_last_data_recv),
        .rto_ms = info.tcpi_rto / 1000,
        .retransmits = info.tcpi_retransmits,
        .probes = info.tcpi_probes,
    };
    return 0;
}

static int get_int(int fd, int level, int option)
{
    int value = 0;
    socklen_t size = sizeof(value);
    return getsockopt(fd, level, option, &value, &size) < 0 ? 0 : value;
}

static void set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

void socket_ask(int fd, struct socket_keepalive *ret)
{
    *ret = (struct socket_keepalive){
        .idle_secs = (uint16_t)get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE),
        .interval_secs = (uint16_t)get_int(fd, IPPROTO_TCP, TCP_KEEPINTVL),
        .on = get_int(fd, SOL_SOCKET, SO_KEEPALIVE) != 0,
    };
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, LIMIT_ASK_INTERVAL_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, ASK_AFTER_S); /* last, because it restarts the timer */
}

void socket_stop_asking(int fd, const struct socket_keepalive *keepalive)
{
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, keepalive->interval_secs);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, keepalive->idle_secs);
    if (!keepalive->on)
        set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
}
