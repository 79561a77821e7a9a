/*
 * UDP load. It uses recvmmsg and sendmmsg, so that the generator itself limits the result as little
 * as possible.
 *
 *     udp_load echo HOST PORT                  the service: sends back what comes, until killed
 *     udp_load closed HOST PORT [option...]    --window datagrams in flight, round trips
 *     udp_load open HOST PORT [option...]      --rate datagrams per second, round trips
 *     udp_load oneway HOST PORT SINK_HOST SINK_PORT [option...]
 *                                              --rate datagrams per second, counted at the sink
 *
 * Options: --size BYTES (64), --sockets N (16), --window N of all sockets together (256), --rate N
 * (10000), --tick US (50: the interval at which due datagrams are sent), --seconds S (4).
 *
 * Every socket is a visitor. Before the measurement up to WARM_SOCKETS of them send until they are
 * answered, so that the tunnel is up; loss in that phase does not count. The result is one JSON
 * object.
 *
 * A payload carries its socket, its number and its time of sending. A tunnel keeps the order of a
 * visitor's datagrams, so a gap in the numbers is loss. A datagram that comes after its gap counts
 * as late and as lost. In a closed loop, a socket that receives nothing for SILENCE_NS counts its
 * whole window as lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
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

#include "standalone.h"

enum {
    BATCH = 64,
    DATAGRAM_MAX = 65536,
    EVENTS_MAX = 256,
    SOCKET_BUFFER = 4 << 20,
    SOCKETS_MAX = 60000,
    WARM_SOCKETS = 16,
    WARM_TRIES = 250,
    WARM_WAIT_MS = 20,
    TICK_US = 50, /* short, so that no burst of the generator fills a buffer */
};
#define SECOND_NS   1000000000ull
#define SILENCE_NS  (SECOND_NS / 5)
#define LINGER_NS   (SECOND_NS / 2)
#define WARM_NUMBER UINT32_MAX

struct stamp {
    uint32_t socket, number;
    uint64_t sent_ns;
};

struct visitor {
    int fd;
    uint32_t next;    /* the next number to send */
    uint32_t settled; /* all lower numbers were received or are lost */
    uint64_t heard_ns;
};

/* Latencies; each power of two is divided into 64 steps. */
enum { STEPS = 64, POWERS = 40 };
struct histogram {
    uint64_t counts[POWERS * STEPS], total;
};

static struct {
    struct sockaddr_in target, sink;
    size_t size;
    unsigned int sockets, window;
    double rate, tick_us, seconds;
} options = {
    .size = 64,
    .sockets = WARM_SOCKETS,
    .window = 256,
    .rate = 10000,
    .tick_us = TICK_US,
    .seconds = 4,
};

static struct visitor *visitors;
static int epoll_fd;
static struct histogram histogram;
static uint64_t sent, received, lost, late;
static _Atomic uint64_t sink_received, sink_warm;

static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];
static unsigned char *receive_room; /* BATCH datagrams */
static unsigned char *send_room;    /* BATCH payloads of options.size */

static uint64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

static int open_socket(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = SOCKET_BUFFER;
    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    return fd;
}

static int open_bound(const struct sockaddr_in *address)
{
    int fd = open_socket();
    if (bind(fd, (const struct sockaddr *)address, sizeof *address))
        fail("bind");
    return fd;
}

/* Receives into receive_room. -1: nothing was there. */
static int receive_batch(int fd, struct sockaddr_in *from, int flags)
{
    for (unsigned int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){receive_room + (size_t)i * DATAGRAM_MAX, DATAGRAM_MAX};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        if (from) {
            messages[i].msg_hdr.msg_name = &from[i];
            messages[i].msg_hdr.msg_namelen = sizeof from[i];
        }
    }
    int count = recvmmsg(fd, messages, BATCH, flags, NULL);
    if (count < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED)
        fail("recvmmsg");
    return count;
}

static void run_echo(void)
{
    int fd = open_bound(&options.target);
    struct sockaddr_in from[BATCH];
    for (;;) {
        int count = receive_batch(fd, from, MSG_WAITFORONE);
        for (int i = 0; i < count; i++)
            vectors[i].iov_len = messages[i].msg_len;
        for (int done = 0; done < count;) {
            int now = sendmmsg(fd, messages + done, (unsigned int)(count - done), 0);
            done += now > 0 ? now : 1; /* an error: skip the first datagram */
        }
    }
}

static void record(uint64_t ns)
{
    unsigned int power = ns < STEPS ? 0 : 63u - (unsigned int)__builtin_clzll(ns) - 5u;
    size_t index = (size_t)power * STEPS + (ns >> power) % STEPS;
    if (index >= POWERS * STEPS)
        index = POWERS * STEPS - 1;
    histogram.counts[index]++;
    histogram.total++;
}

/* The middle of the step that holds this share of the latencies, in us; 1: the largest. */
static double percentile(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram.total), seen = 0;
    for (size_t i = 0; i < POWERS * STEPS; i++) {
        seen += histogram.counts[i];
        if (seen > wanted || (seen && seen == histogram.total))
            return ((double)(i % STEPS) + 0.5) * (double)(1ull << i / STEPS) / 1e3;
    }
    return 0;
}

/* Sends up to count payloads of one visitor. Returns how many the socket took. */
static unsigned int send_some(struct visitor *visitor, unsigned int count, uint64_t now_ns)
{
    unsigned int done = 0;
    while (done < count) {
        unsigned int batch = count - done < BATCH ? count - done : BATCH;
        for (unsigned int i = 0; i < batch; i++) {
            struct stamp stamp = {(uint32_t)(visitor - visitors), visitor->next + i, now_ns};
            unsigned char *payload = send_room + (size_t)i * options.size;
            memcpy(payload, &stamp, sizeof stamp);
            vectors[i] = (struct iovec){payload, options.size};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        }
        int taken = sendmmsg(visitor->fd, messages, batch, MSG_DONTWAIT);
        if (taken < 0 && errno == ECONNREFUSED)
            continue; /* the error of an earlier datagram, which is cleared now */
        if (taken <= 0)
            break;
        visitor->next += (uint32_t)taken;
        sent += (uint64_t)taken;
        done += (unsigned int)taken;
    }
    return done;
}

static void settle(struct visitor *visitor, const struct stamp *stamp, uint64_t now_ns)
{
    if (stamp->number >= visitor->next) /* a late answer from before the measurement */
        return;
    if (stamp->number < visitor->settled) {
        late++;
        return;
    }
    lost += stamp->number - visitor->settled;
    visitor->settled = stamp->number + 1;
    received++;
    record(now_ns - stamp->sent_ns);
}

static void take_answers(struct visitor *visitor)
{
    int count;
    do {
        count = receive_batch(visitor->fd, NULL, MSG_DONTWAIT);
        uint64_t now_ns = clock_ns();
        for (int i = 0; i < count; i++) {
            struct stamp stamp;
            memcpy(&stamp, vectors[i].iov_base, sizeof stamp);
            if (messages[i].msg_len == options.size &&
                stamp.socket == (uint32_t)(visitor - visitors))
                settle(visitor, &stamp, now_ns);
        }
        if (count > 0)
            visitor->heard_ns = now_ns;
    } while (count == BATCH);
}

static void wait_for_answers(int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++)
        take_answers(&visitors[events[i].data.u32]);
}

/* Waits until nothing is in flight, or nothing has come for LINGER_NS. */
static void linger(void)
{
    uint64_t last_ns = clock_ns(), before = received;
    while (received + lost < sent && clock_ns() - last_ns < LINGER_NS) {
        wait_for_answers(10);
        if (received != before) {
            before = received;
            last_ns = clock_ns();
        }
    }
    lost = sent - received;
}

static double run_closed(void)
{
    uint64_t start_ns = clock_ns(), end_ns = start_ns + (uint64_t)(options.seconds * 1e9);
    unsigned int share = options.window / options.sockets;
    for (uint64_t now_ns = start_ns; now_ns < end_ns; now_ns = clock_ns()) {
        for (unsigned int i = 0; i < options.sockets; i++) {
            struct visitor *visitor = &visitors[i];
            if (visitor->next != visitor->settled && now_ns > visitor->heard_ns + SILENCE_NS) {
                lost += visitor->next - visitor->settled;
                visitor->settled = visitor->next;
            }
            unsigned int free = share - (visitor->next - visitor->settled);
            if (free == share)
                visitor->heard_ns = now_ns;
            if (free)
                send_some(visitor, free, now_ns);
        }
        wait_for_answers(50);
    }
    return (double)(clock_ns() - start_ns) / 1e9;
}

/* Sends at the rate, one visitor after the other, and takes answers in between. */
static double run_open(bool answers)
{
    uint64_t start_ns = clock_ns(), end_ns = start_ns + (uint64_t)(options.seconds * 1e9);
    unsigned int turn = 0;
    uint64_t asked = 0, now_ns;
    while ((now_ns = clock_ns()) < end_ns) {
        uint64_t due = (uint64_t)((double)(now_ns - start_ns) / 1e9 * options.rate);
        for (; asked < due; asked++, turn = (turn + 1) % options.sockets)
            send_some(&visitors[turn], 1, now_ns);
        if (answers)
            wait_for_answers(0);
        struct timespec pause = {.tv_nsec = (long)(options.tick_us * 1e3)};
        nanosleep(&pause, NULL);
    }
    return (double)(clock_ns() - start_ns) / 1e9;
}

static void *run_sink(void *argument)
{
    int fd = *(int *)argument;
    struct mmsghdr in[BATCH];
    struct iovec rooms[BATCH];
    unsigned char *room = allocate(BATCH, DATAGRAM_MAX);
    for (unsigned int i = 0; i < BATCH; i++) {
        rooms[i] = (struct iovec){room + (size_t)i * DATAGRAM_MAX, DATAGRAM_MAX};
        in[i].msg_hdr = (struct msghdr){.msg_iov = &rooms[i], .msg_iovlen = 1};
    }
    for (;;) {
        int count = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) {
            struct stamp stamp;
            memcpy(&stamp, rooms[i].iov_base, sizeof stamp);
            if (stamp.number == WARM_NUMBER)
                atomic_fetch_or(&sink_warm, 1ull << stamp.socket % 64);
            else if (in[i].msg_len == options.size)
                atomic_fetch_add(&sink_received, 1);
        }
    }
    return NULL;
}

static void open_visitors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    visitors = allocate(options.sockets, sizeof *visitors);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; i < options.sockets; i++) {
        int fd = visitors[i].fd = open_socket();
        if (connect(fd, (struct sockaddr *)&options.target, sizeof options.target))
            fail("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
            fail("epoll_ctl");
    }
}

/* Each of the first sockets sends until it gets an answer, or until the sink gets a datagram. */
static void warm_up(bool answers)
{
    unsigned int count = options.sockets < WARM_SOCKETS ? options.sockets : WARM_SOCKETS;
    uint64_t stand = 0;
    for (int tries = 0; tries < WARM_TRIES; tries++) {
        for (uint32_t i = 0; i < count; i++) {
            struct stamp stamp = {i, WARM_NUMBER, 0};
            memcpy(send_room, &stamp, sizeof stamp);
            if (!(stand & 1ull << i))
                (void)!send(visitors[i].fd, send_room, options.size, MSG_DONTWAIT);
        }
        usleep(WARM_WAIT_MS * 1000);
        for (uint32_t i = 0; answers && i < count; i++)
            while (recv(visitors[i].fd, receive_room, DATAGRAM_MAX, MSG_DONTWAIT) >= 0)
                stand |= 1ull << i;
        if (!answers)
            stand = atomic_load(&sink_warm);
        if (stand == (1ull << count) - 1)
            return;
    }
    fprintf(stderr, "udp_load: a visitor's datagrams do not get through the tunnel\n");
    exit(1);
}

static void parse_options(char **argv)
{
    for (; argv[0]; argv += 2) {
        double value = argv[1] ? strtod(argv[1], NULL) : 0;
        if (!strcmp(argv[0], "--size") && value >= sizeof(struct stamp) && value <= 65507)
            options.size = (size_t)value;
        else if (!strcmp(argv[0], "--sockets") && value >= 1 && value <= SOCKETS_MAX)
            options.sockets = (unsigned int)value;
        else if (!strcmp(argv[0], "--window") && value >= 1 && value <= 1e6)
            options.window = (unsigned int)value;
        else if (!strcmp(argv[0], "--rate") && value > 0)
            options.rate = value;
        else if (!strcmp(argv[0], "--tick") && value >= 1 && value < 1e6)
            options.tick_us = value;
        else if (!strcmp(argv[0], "--seconds") && value > 0)
            options.seconds = value;
        else {
            fprintf(stderr, "udp_load: bad option %s\n", argv[0]);
            exit(2);
        }
    }
    if (options.window < options.sockets)
        options.window = options.sockets;
}

static void run_oneway(void)
{
    static int sink_fd;
    sink_fd = open_bound(&options.sink);
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_sink, &sink_fd))
        fail("pthread_create");
    warm_up(false);
    double seconds = run_open(false);
    uint64_t before, now = atomic_load(&sink_received);
    do {
        before = now;
        for (int i = 0; i < 10 && now < sent; i++) {
            usleep(LINGER_NS / 10000);
            now = atomic_load(&sink_received);
        }
    } while (now != before && now < sent);
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"received\": %lu}\n", seconds, sent, now);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 3 ? argv[1] : "";
    bool oneway = !strcmp(mode, "oneway") && argc > 5;
    bool closed = !strcmp(mode, "closed"), open = !strcmp(mode, "open");
    if (!oneway && !closed && !open && strcmp(mode, "echo") != 0) {
        fprintf(stderr, "usage: udp_load echo|closed|open|oneway HOST PORT ... (see its source)\n");
        return 2;
    }
    options.target = parse_address(argv[2], argv[3]);
    if (oneway)
        options.sink = parse_address(argv[4], argv[5]);
    parse_options(argv + (oneway ? 6 : 4));
    receive_room = allocate(BATCH, DATAGRAM_MAX);
    if (!strcmp(mode, "echo"))
        run_echo();
    send_room = allocate(BATCH, options.size);
    prctl(PR_SET_TIMERSLACK, 1000);
    open_visitors();
    if (oneway) {
        run_oneway();
        return 0;
    }
    warm_up(true);
    double seconds = closed ? run_closed() : run_open(true);
    uint64_t in_time = received;
    linger();
    printf(
        "{\"seconds\": %.6f, \"sent\": %lu, \"received\": %lu, \"in_time\": %lu, \"lost\": %lu, "
        "\"late\": %lu, \"p50_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f}\n",
        seconds, sent, received, in_time, lost, late, percentile(0.5), percentile(0.9),
        percentile(0.99), percentile(1));
    return 0;
}
