/* TCP with splice(2): bytes go from socket to pipe to socket, and no process sees them. One thread and
 * edge-triggered epoll, so that a connection costs two epoll_ctl in its life, and a turn one epoll_wait. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bare.h"

enum {
    EVENTS_MAX = 256,
    PIPE_SIZE = 1 << 20,
    WINDOW = 1 << 20, /* the program's receive window for bulk */
};

struct pipe {
    struct pipe *next; /* while it is free */
    int in, out;
};

struct pair;

/* One socket of a pair, and the flow that comes from it. */
struct side {
    struct pair *pair;
    int fd, index;
    struct pipe *pipe; /* only while it holds bytes: one warm pipe serves all */
    size_t held;
    bool ended; /* the end of its stream was passed on */
};

struct pair {
    struct side sides[2];
    struct pair *next; /* of those that ended in this turn */
    bool over;
};

static int poller;
static struct pipe *free_pipes;
static struct pair *over_pairs;

/* ---- pipes ---- */

static struct pipe *pipe_get(void)
{
    struct pipe *pipe = free_pipes;
    if (pipe != NULL) {
        free_pipes = pipe->next;
        return pipe;
    }
    int fds[2];
    pipe = malloc(sizeof(*pipe));
    if (pipe == NULL || pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0 ||
        fcntl(fds[1], F_SETPIPE_SZ, PIPE_SIZE) < 0)
        fail("pipe");
    *pipe = (struct pipe){.in = fds[1], .out = fds[0]};
    return pipe;
}

/* The pipe is empty. */
static void pipe_put(struct side *side)
{
    side->pipe->next = free_pipes;
    free_pipes = side->pipe;
    side->pipe = NULL;
}

static void pipe_drop(struct side *side)
{
    if (side->pipe == NULL)
        return;
    (void)close(side->pipe->in);
    (void)close(side->pipe->out);
    free(side->pipe);
    side->pipe = NULL;
}

/* ---- pairs ---- */

/* Later events of this turn may still name it, so it is freed at the end of the turn. */
static void pair_end(struct pair *pair)
{
    for (int i = 0; i < 2; i++) {
        (void)close(pair->sides[i].fd);
        pipe_drop(&pair->sides[i]);
    }
    pair->over = true;
    pair->next = over_pairs;
    over_pairs = pair;
}

static void pairs_free(void)
{
    while (over_pairs != NULL) {
        struct pair *pair = over_pairs;
        over_pairs = pair->next;
        free(pair);
    }
}

/* From the socket into a pipe. False: nothing more to do now. */
static bool flow_in(struct side *from, struct side *to)
{
    from->pipe = pipe_get();
    ssize_t got =
        splice(from->fd, NULL, from->pipe->in, NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got > 0) {
        from->held = (size_t)got;
        return true;
    }
    pipe_put(from);
    if (got < 0 && errno == EAGAIN)
        return false;
    from->ended = true;
    if (got < 0 || to->ended || shutdown(to->fd, SHUT_WR) != 0)
        pair_end(from->pair);
    return false;
}

/* From the pipe into the other socket. False: it is full. */
static bool flow_out(struct side *from, struct side *to)
{
    ssize_t sent =
        splice(from->pipe->out, NULL, to->fd, NULL, from->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (sent < 0 && errno == EAGAIN)
        return false;
    if (sent <= 0) {
        pair_end(from->pair);
        return false;
    }
    from->held -= (size_t)sent;
    if (from->held == 0)
        pipe_put(from);
    return true;
}

/* Until one of its sockets has to wait: only then does it report an edge. */
static void flow_run(struct side *from)
{
    struct side *to = &from->pair->sides[!from->index];
    bool goes_on = !from->ended;
    while (goes_on)
        goes_on = from->held > 0 ? flow_out(from, to) : flow_in(from, to);
}

static void side_ready(struct side *side, uint32_t events)
{
    struct pair *pair = side->pair;
    if (!pair->over && (events & ~(uint32_t)EPOLLOUT) != 0 && side->held == 0)
        flow_run(side);
    struct side *other = &pair->sides[!side->index];
    if (!pair->over && (events & EPOLLOUT) != 0 && other->held > 0)
        flow_run(other);
}

/* ---- connections ---- */

/* A low-water mark makes the kernel grow the buffer, and it stays: SO_RCVBUF would switch the tuning
 * off. */
static void widen(int fd)
{
    const int window = WINDOW, one = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &window, sizeof(window)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one)) != 0)
        fail("SO_RCVLOWAT");
}

static void pair_begin(const struct bare *bare, int visitor)
{
    struct pair *pair = allocate(1, sizeof(*pair));
    const int fds[2] = {visitor, bare_socket(bare)};
    for (int i = 0; i < 2; i++) {
        pair->sides[i] = (struct side){.pair = pair, .fd = fds[i], .index = i};
        widen(fds[i]);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET,
                                    .data.ptr = &pair->sides[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event) != 0)
            fail("epoll_ctl");
    }
    if (connect(fds[1], (const struct sockaddr *)&bare->onward, sizeof(bare->onward)) != 0 &&
        errno != EINPROGRESS)
        pair_end(pair);
}

static void accept_all(const struct bare *bare, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        pair_begin(bare, fd);
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept4");
}

void bare_splice(const struct bare *bare)
{
    int listener = bare_listen(bare);
    struct epoll_event event = {.events = EPOLLIN};
    struct sigaction ignore = {.sa_handler = SIG_IGN}; /* splice(2) has no MSG_NOSIGNAL */
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) != 0 ||
        sigaction(SIGPIPE, &ignore, NULL) != 0)
        fail("epoll");
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(poller, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_all(bare, listener);
            else
                side_ready(events[i].data.ptr, events[i].events);
        }
        pairs_free();
    }
}
