/* Visitors that come at a steady rate, each for one echo, and the local service that answers them: one
 * process and one thread, so that little of the machine goes to the load.
 *
 *     churn PORT LOCAL_PORT RATE SECONDS
 *
 * It listens on 127.0.0.1:LOCAL_PORT, and RATE visitors a second connect to 127.0.0.1:PORT, send 16
 * bytes, wait for the same bytes and close. All RATE * SECONDS visitors come, later if the machine is
 * too slow. A line of JSON a second says how many have come and how many have failed, and why; the last
 * one has "is_over". A visitor that has no answer after PATIENCE_MS has failed. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PATIENCE_MS = 20000,
    WORD_SIZE = 16,
    BURST = 200, /* visitors that begin at once at most, after a delay of this process */
    EVENTS_AT_ONCE = 256,
    OPEN_MAX = 100, /* at a time: a machine that is too slow must not make it a test of limits */
    FDS_MAX = 1 << 16,
    SOURCES = 50 * 199, /* addresses: so many visitors would use up the ports of one */
    READ_AT_ONCE = 4096
};

/* What a descriptor is. `next` links visitors in the order of their begin. */
enum { FREE, VISITOR_CONNECTING, VISITOR_ASKED, SERVICE };
struct peer {
    uint8_t kind;
    int previous, next;
    uint64_t begun_ms;
    char word[WORD_SIZE + 1];
};

static struct peer peers[FDS_MAX];
static int poller, listener, oldest = -1, newest = -1;
static struct sockaddr_in target;
static struct {
    uint64_t begun, ended, served, refused, reset, silent, short_, wrong, other, slowest_ms;
} counts;

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void watch(int fd, uint32_t events, int how)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, how, fd, &event) != 0)
        die("epoll_ctl");
}

/* ---- visitors ---- */

static void visitor_end(int fd, uint64_t *count)
{
    struct peer *peer = &peers[fd];
    *(peer->previous < 0 ? &oldest : &peers[peer->previous].next) = peer->next;
    *(peer->next < 0 ? &newest : &peers[peer->next].previous) = peer->previous;
    uint64_t took = now_ms() - peer->begun_ms;
    if (took > counts.slowest_ms)
        counts.slowest_ms = took;
    (*count)++;
    counts.ended++;
    peer->kind = FREE;
    (void)close(fd);
}

static void visitor_failed(int fd, int error)
{
    visitor_end(fd, error == ECONNREFUSED                   ? &counts.refused
                    : error == ECONNRESET || error == EPIPE ? &counts.reset
                                                            : &counts.other);
}

static void visitor_begin(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= FDS_MAX)
        die("socket");
    const int on = 1;
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    uint32_t number = (uint32_t)(counts.begun % SOURCES);
    struct sockaddr_in source = {.sin_family = AF_INET,
                                 .sin_addr.s_addr =
                                     htonl(INADDR_LOOPBACK + number / 199 * 256 + number % 199)};
    if (bind(fd, (struct sockaddr *)&source, sizeof(source)) != 0)
        die("bind");
    struct peer *peer = &peers[fd];
    *peer = (struct peer){
        .kind = VISITOR_CONNECTING, .previous = newest, .next = -1, .begun_ms = now_ms()};
    (void)snprintf(peer->word, sizeof(peer->word), "%016llx", (unsigned long long)counts.begun++);
    *(newest < 0 ? &oldest : &peers[newest].next) = fd;
    newest = fd;
    if (connect(fd, (struct sockaddr *)&target, sizeof(target)) != 0 && errno != EINPROGRESS) {
        visitor_failed(fd, errno);
        return;
    }
    watch(fd, EPOLLOUT, EPOLL_CTL_ADD);
}

static void visitor_step(int fd)
{
    struct peer *peer = &peers[fd];
    if (peer->kind == VISITOR_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof(error);
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == 0 && send(fd, peer->word, WORD_SIZE, MSG_NOSIGNAL) != WORD_SIZE)
            error = errno;
        if (error != 0) {
            visitor_failed(fd, error);
            return;
        }
        peer->kind = VISITOR_ASKED;
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
        return;
    }
    char answer[2 * WORD_SIZE];
    ssize_t got = recv(fd, answer, sizeof(answer), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0)
        visitor_failed(fd, errno);
    else if (got == 0)
        visitor_end(fd, &counts.short_);
    else
        visitor_end(fd, got == WORD_SIZE && memcmp(answer, peer->word, WORD_SIZE) == 0
                            ? &counts.served
                            : &counts.wrong);
}

/* ---- the service ---- */

static void service_accept(void)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= FDS_MAX)
            die("accept4");
        peers[fd] = (struct peer){.kind = SERVICE};
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void service_step(int fd)
{
    char data[READ_AT_ONCE];
    ssize_t got = recv(fd, data, sizeof(data), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0 && send(fd, data, (size_t)got, MSG_NOSIGNAL) == got)
        return;
    peers[fd].kind = FREE;
    (void)close(fd);
}

/* ---- all of it ---- */

static void say(bool is_over)
{
    printf("{\"begun\":%llu,\"served\":%llu,\"refused\":%llu,\"reset\":%llu,\"silent\":%llu,"
           "\"short\":%llu,\"wrong\":%llu,\"other\":%llu,\"slowest_ms\":%llu,\"is_over\":%s}\n",
           (unsigned long long)counts.begun, (unsigned long long)counts.served,
           (unsigned long long)counts.refused, (unsigned long long)counts.reset,
           (unsigned long long)counts.silent, (unsigned long long)counts.short_,
           (unsigned long long)counts.wrong, (unsigned long long)counts.other,
           (unsigned long long)counts.slowest_ms, is_over ? "true" : "false");
    (void)fflush(stdout);
}

static void turn(void)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(poller, events, EVENTS_AT_ONCE, 1);
    for (int n = 0; n < count; n++) {
        int fd = events[n].data.fd;
        if (fd == listener)
            service_accept();
        else if (peers[fd].kind == SERVICE)
            service_step(fd);
        else if (peers[fd].kind != FREE)
            visitor_step(fd);
    }
    while (oldest >= 0 && now_ms() - peers[oldest].begun_ms > PATIENCE_MS)
        visitor_end(oldest, &counts.silent);
}

static void run(double rate, double seconds)
{
    uint64_t all = (uint64_t)(rate * seconds), start = now_ms(), said = start;
    while (counts.begun < all || oldest >= 0) {
        uint64_t now = now_ms();
        uint64_t due = (uint64_t)((double)(now - start) * rate / 1000);
        if (due > all)
            due = all;
        for (int n = 0; n < BURST && counts.begun < due && counts.begun - counts.ended < OPEN_MAX;
             n++)
            visitor_begin();
        turn();
        if (now - said >= 1000) {
            said = now;
            say(false);
        }
    }
    say(true);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: churn PORT LOCAL_PORT RATE SECONDS\n");
        return 2;
    }
    (void)prctl(PR_SET_PDEATHSIG, 9);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    target = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in local = target;
    local.sin_port = htons((uint16_t)atoi(argv[2]));
    const int on = 1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (poller < 0 || listener < 0 ||
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(listener, (struct sockaddr *)&local, sizeof(local)) != 0 ||
        listen(listener, 4096) != 0)
        die("listen");
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    run(atof(argv[3]), atof(argv[4]));
    return 0;
}
