/*
 * A TCP relay that adds a round-trip time to loopback:
 *
 *     delay_relay LISTEN_IP PORT TARGET_IP PORT RTT_MS
 *
 * Let d be half the round trip. The relay passes everything on d after it arrived, in order: bytes,
 * ends of stream and resets. A relay in user space can't delay the SYN of a connection that it
 * accepts: the caller's connect(2) returns at once, while on a real link it would wait for a round
 * trip. So the relay shifts the caller's clock. Bytes that the caller sends before t0 + 2d (t0 is
 * the accept) count as sent at t0 + 2d, right behind its ACK. They reach the target at t0 + 3d,
 * which is also when the target sees the connection. Later bytes are due d after they came.
 *
 *     caller                 relay                          target
 *       | connect, hello ----> t0                             |
 *       |                      ... t0 + 3d: connect, hello -> |
 *       | <- t + d ----------- t <--------------------------- |
 *
 * The clock is read once per wake-up, so that work on one connection adds no delay to the next. Not
 * modelled: bandwidth limits, slow start and loss.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "standalone.h"

enum {
    CHUNK_BYTES = 64 * 1024,
    QUEUE_BYTES_MAX = 8 * 1024 * 1024,
    EVENTS_MAX = 256,
    BACKLOG = 4096
};

enum chunk_kind { CHUNK_DATA, CHUNK_CONNECT, CHUNK_FIN, CHUNK_RST };

struct chunk {
    struct chunk *next;
    uint64_t due_ns;
    enum chunk_kind kind;
    size_t length, sent;
    unsigned char data[];
};

/* One socket, and the queue of what has to be written to it. */
struct end {
    struct pair *pair;
    int fd; /* -1 until connected or after it was closed */
    uint32_t interest;
    bool connecting, blocked, input_ended, unwatched;
    struct chunk *head, *tail;
    size_t queued_bytes;
};

struct pair {
    struct pair *next;
    struct end caller, target;
    uint64_t open_ns; /* when the target may see the connection */
};

static int epoll_fd, timer_fd, listen_fd;
static uint64_t one_way_ns, now_ns;
static struct sockaddr_in target_address;
static struct pair *pairs;

static void read_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    now_ns = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static struct end *other(struct end *end)
{
    return end == &end->pair->caller ? &end->pair->target : &end->pair->caller;
}

static void push(struct end *end, enum chunk_kind kind, const void *data, size_t length)
{
    uint64_t due_ns = now_ns + one_way_ns;
    if (end == &end->pair->target && due_ns < end->pair->open_ns)
        due_ns = end->pair->open_ns;
    struct chunk *chunk = allocate(1, sizeof *chunk + length);
    chunk->due_ns = due_ns;
    chunk->kind = kind;
    chunk->length = length;
    if (length)
        memcpy(chunk->data, data, length);
    if (end->tail)
        end->tail->next = chunk;
    else
        end->head = chunk;
    end->tail = chunk;
    end->queued_bytes += length;
}

static void pop(struct end *end)
{
    struct chunk *chunk = end->head;
    end->head = chunk->next;
    if (!end->head)
        end->tail = NULL;
    end->queued_bytes -= chunk->length;
    free(chunk);
}

static void watch(struct end *end)
{
    if (end->fd < 0 || end->unwatched)
        return;
    uint32_t interest = 0;
    if (!end->input_ended && !end->connecting && other(end)->queued_bytes < QUEUE_BYTES_MAX)
        interest |= EPOLLIN;
    if (end->connecting || end->blocked)
        interest |= EPOLLOUT;
    if (interest == end->interest)
        return;
    struct epoll_event event = {.events = interest, .data.ptr = end};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, end->fd, &event))
        fail("epoll_ctl");
    end->interest = interest;
}

static void adopt(struct end *end, struct pair *pair, int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    end->pair = pair;
    end->fd = fd;
    struct epoll_event event = {.events = 0, .data.ptr = end};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void abort_end(struct end *end)
{
    if (end->fd < 0)
        return;
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(end->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(end->fd);
    end->fd = -1;
    while (end->head)
        pop(end);
}

/* The socket failed: the other side is reset d later, and nothing more is read from this one. */
static void broken(struct end *end)
{
    abort_end(end);
    if (!end->input_ended) {
        end->input_ended = true;
        push(other(end), CHUNK_RST, NULL, 0);
    }
}

static void open_target(struct end *end)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    adopt(end, end->pair, fd);
    if (!connect(fd, (struct sockaddr *)&target_address, sizeof target_address))
        return;
    if (errno == EINPROGRESS)
        end->connecting = true;
    else
        broken(end);
}

/* Writes what is due. */
static void drain(struct end *end)
{
    while (end->head && end->head->due_ns <= now_ns && !end->connecting && !end->blocked) {
        struct chunk *chunk = end->head;
        if (chunk->kind == CHUNK_CONNECT) {
            pop(end);
            open_target(end);
            continue;
        }
        if (end->fd < 0) {
            pop(end);
            continue;
        }
        if (chunk->kind == CHUNK_RST) {
            end->input_ended = true;
            abort_end(end);
            return;
        }
        if (chunk->kind == CHUNK_FIN) {
            shutdown(end->fd, SHUT_WR);
            pop(end);
            continue;
        }
        ssize_t sent =
            send(end->fd, chunk->data + chunk->sent, chunk->length - chunk->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            end->blocked = true;
        } else if (sent < 0) {
            broken(end);
            return;
        } else if ((chunk->sent += (size_t)sent) == chunk->length) {
            pop(end);
        }
    }
}

static void take_input(struct end *end)
{
    static unsigned char buffer[CHUNK_BYTES];
    for (;;) {
        ssize_t got = recv(end->fd, buffer, sizeof buffer, 0);
        if (got > 0) {
            push(other(end), CHUNK_DATA, buffer, (size_t)got);
            if (other(end)->queued_bytes < QUEUE_BYTES_MAX)
                continue;
        } else if (got == 0) {
            end->input_ended = true;
            push(other(end), CHUNK_FIN, NULL, 0);
        } else if (errno != EAGAIN) {
            broken(end);
        }
        return;
    }
}

/* EPOLLHUP: a reset, or both directions have ended in order. epoll reports the second case again
 * and again, so the socket leaves the set. */
static void hung_up(struct end *end)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(end->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error || !end->input_ended) {
        broken(end);
        return;
    }
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
    end->unwatched = true;
}

static void handle(struct end *end, uint32_t events)
{
    if (end->fd < 0)
        return;
    if (end->connecting && events) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(end->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        end->connecting = false;
        if (error) {
            broken(end);
            return;
        }
    }
    if (events & EPOLLOUT)
        end->blocked = false;
    if (events & EPOLLIN)
        take_input(end);
    else if (events & (EPOLLERR | EPOLLHUP))
        hung_up(end);
}

static void accept_all(void)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct pair *pair = allocate(1, sizeof *pair);
        adopt(&pair->caller, pair, fd);
        pair->target.pair = pair;
        pair->target.fd = -1;
        pair->open_ns = now_ns + 3 * one_way_ns;
        push(&pair->target, CHUNK_CONNECT, NULL, 0);
        watch(&pair->caller);
        pair->next = pairs;
        pairs = pair;
    }
}

static bool finished(const struct pair *pair)
{
    return pair->caller.input_ended && pair->target.input_ended && !pair->caller.head &&
           !pair->target.head;
}

/* Writes what is due, frees pairs that have ended, and sets the timer to the next due time. */
static void turn(void)
{
    uint64_t next_ns = UINT64_MAX;
    struct pair **link = &pairs;
    while (*link) {
        struct pair *pair = *link;
        struct end *ends[2] = {&pair->caller, &pair->target};
        for (int i = 0; i < 2; i++)
            drain(ends[i]);
        for (int i = 0; i < 2; i++) {
            watch(ends[i]);
            struct chunk *head = ends[i]->head;
            if (head && head->due_ns > now_ns && head->due_ns < next_ns)
                next_ns = head->due_ns;
        }
        if (finished(pair)) {
            for (int i = 0; i < 2; i++)
                if (ends[i]->fd >= 0)
                    close(ends[i]->fd);
            /* No event points to the pair: turn() runs after all events of a batch. */
            *link = pair->next;
            free(pair);
            continue;
        }
        link = &pair->next;
    }
    struct itimerspec timer = {0};
    if (next_ns != UINT64_MAX) {
        timer.it_value.tv_sec = (time_t)(next_ns / 1000000000u);
        timer.it_value.tv_nsec = (long)(next_ns % 1000000000u);
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static void listen_on(struct sockaddr_in address)
{
    int on = 1;
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listen_fd, (struct sockaddr *)&address, sizeof address) || listen(listen_fd, BACKLOG))
        fail("listen");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event accepting = {.events = EPOLLIN, .data.ptr = &listen_fd};
    struct epoll_event timing = {.events = EPOLLIN, .data.ptr = &timer_fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &accepting) ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timing))
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: delay_relay LISTEN_IP PORT TARGET_IP PORT RTT_MS\n");
        return 2;
    }
    struct sockaddr_in listen_address = parse_address(argv[1], argv[2]);
    target_address = parse_address(argv[3], argv[4]);
    double rtt_ms = strtod(argv[5], NULL);
    if (!(rtt_ms >= 0 && rtt_ms <= 60000)) {
        fprintf(stderr, "delay_relay: bad round trip %s\n", argv[5]);
        return 2;
    }
    one_way_ns = (uint64_t)(rtt_ms * 1e6 / 2);
    signal(SIGPIPE, SIG_IGN);
    listen_on(listen_address);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        read_clock();
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listen_fd) {
                accept_all();
            } else if (events[i].data.ptr == &timer_fd) {
                uint64_t expirations;
                (void)!read(timer_fd, &expirations, sizeof expirations);
            } else {
                handle(events[i].data.ptr, events[i].events);
            }
        }
        turn();
    }
}
