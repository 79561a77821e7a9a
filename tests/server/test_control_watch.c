/* The watch over the client at the other end of a control channel. The test answers for TCP_INFO. */
#include "server/control_watch.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_loop.h"
#include "io/socket_life.h"
#include "testing.h"

enum { STEP_MS = 1000 };

static int quiet_for_a_while(int fd, struct socket_life *ret)
{
    *ret = (struct socket_life){.window = 65536, .heard_ms = 5000};
    return 0;
}

static int interval_of(int fd)
{
    int secs = -1;
    socklen_t size = sizeof(secs);
    cr_assert_eq(getsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &secs, &size), 0);
    return secs;
}

Test(control_watch, the_end_gives_the_socket_its_settings_back)
{
    struct control_watch watch = {.silence.watched = false};
    bool is_quiet;
    const int interval = 77, on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)), 0);
    cr_assert_eq(setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval)), 0);
    control_watch_end(&watch, fd);
    cr_assert_eq(interval_of(fd), interval, "nobody has been asked");

    fake_socket_set_life(quiet_for_a_while);
    cr_assert_eq(control_watch_look(&watch, fd, true, STEP_MS, &is_quiet), 0);
    cr_assert_neq(interval_of(fd), interval, "it is being asked");
    control_watch_end(&watch, fd);
    cr_expect_eq(interval_of(fd), interval);
    cr_expect_not(watch.silence.asked);
    fake_socket_set_life(NULL);
    (void)close(fd);
}
