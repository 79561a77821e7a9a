/* TCP with recv and send, in one io_uring: a turn of the loop is one system call for all connections, and
 * a receive waits without a try, because the answer to what was just sent can't be there yet. */
#include <errno.h>
#include <liburing.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bare.h"

enum {
    ROOM = 128 << 10, /* what the program reads at a time of an encrypted connection */
    SQ_ENTRIES = 512,
    CQ_ENTRIES = 4096,
};

/* What completed, in the low bits of user_data above the pair's address. */
enum { OP_RECV, OP_SEND, OP_CONNECT };
#define OP_BITS   7u
#define OP_ACCEPT 0u /* of no pair */

struct flow {
    uint32_t begin, end; /* of what was received and is not sent */
    bool ended;          /* the end of the stream was passed on */
    unsigned char room[ROOM];
};

struct pair {
    struct pair *next; /* while it is free: its memory is warm */
    int fds[2];
    unsigned int in_flight; /* operations: it is freed after the last one */
    bool failed;
    struct flow flows[2]; /* from fds[0], from fds[1] */
};

static struct io_uring ring;
static struct pair *free_pairs;

static struct io_uring_sqe *take_sqe(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    if (sqe != NULL)
        return sqe;
    int r = io_uring_submit(&ring);
    sqe = io_uring_get_sqe(&ring);
    if (sqe == NULL) {
        errno = r < 0 ? -r : EBUSY;
        fail("io_uring_submit");
    }
    return sqe;
}

static void begin(struct io_uring_sqe *sqe, struct pair *pair, unsigned int what,
                  unsigned int index)
{
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)pair | what << 1 | index);
    pair->in_flight++;
}

static void flow_receive(struct pair *pair, unsigned int index)
{
    struct io_uring_sqe *sqe = take_sqe();
    io_uring_prep_recv(sqe, pair->fds[index], pair->flows[index].room, ROOM, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    begin(sqe, pair, OP_RECV, index);
}

static void flow_send(struct pair *pair, unsigned int index)
{
    struct flow *flow = &pair->flows[index];
    struct io_uring_sqe *sqe = take_sqe();
    io_uring_prep_send(sqe, pair->fds[!index], flow->room + flow->begin, flow->end - flow->begin,
                       MSG_NOSIGNAL);
    begin(sqe, pair, OP_SEND, index);
}

/* ---- pairs ---- */

static void pair_begin(const struct bare *bare, int visitor)
{
    struct pair *pair = free_pairs;
    if (pair != NULL)
        free_pairs = pair->next;
    else
        pair = malloc(sizeof(*pair));
    if (pair == NULL)
        fail("malloc");
    pair->fds[0] = visitor;
    pair->fds[1] = bare_socket(bare);
    pair->in_flight = 0;
    pair->failed = pair->flows[0].ended = pair->flows[1].ended = false;
    struct io_uring_sqe *sqe = take_sqe();
    io_uring_prep_connect(sqe, pair->fds[1], (const struct sockaddr *)&bare->onward,
                          sizeof(bare->onward));
    begin(sqe, pair, OP_CONNECT, 0);
}

static void pair_fail(struct pair *pair)
{
    if (pair->failed)
        return;
    pair->failed = true;
    for (int i = 0; i < 2; i++)
        (void)shutdown(pair->fds[i], SHUT_RDWR); /* ends what is in flight */
}

static void pair_join(struct pair *pair)
{
    if (pair->in_flight > 0)
        return;
    for (int i = 0; i < 2; i++)
        (void)close(pair->fds[i]);
    pair->next = free_pairs;
    free_pairs = pair;
}

static void received(struct pair *pair, unsigned int index, int result)
{
    struct flow *flow = &pair->flows[index];
    if (result > 0) {
        flow->begin = 0;
        flow->end = (uint32_t)result;
        flow_send(pair, index);
        return;
    }
    flow->ended = true;
    if (result < 0 || (!pair->flows[!index].ended && shutdown(pair->fds[!index], SHUT_WR) != 0))
        pair_fail(pair);
}

static void sent(struct pair *pair, unsigned int index, int result)
{
    struct flow *flow = &pair->flows[index];
    if (result <= 0) {
        pair_fail(pair);
        return;
    }
    flow->begin += (uint32_t)result;
    if (flow->begin < flow->end)
        flow_send(pair, index);
    else
        flow_receive(pair, index);
}

static void complete(struct pair *pair, unsigned int what, unsigned int index, int result)
{
    pair->in_flight--;
    if (pair->failed) {
        pair_join(pair);
        return;
    }
    if (what == OP_RECV) {
        received(pair, index, result);
    } else if (what == OP_SEND) {
        sent(pair, index, result);
    } else if (result < 0) {
        pair_fail(pair);
    } else {
        flow_receive(pair, 0);
        flow_receive(pair, 1);
    }
    pair_join(pair);
}

/* ---- the loop ---- */

static void accept_visitors(int listener)
{
    struct io_uring_sqe *sqe = take_sqe();
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    io_uring_sqe_set_data64(sqe, OP_ACCEPT);
}

static void accepted(const struct bare *bare, int listener, const struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0)
        pair_begin(bare, cqe->res);
    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        accept_visitors(listener);
}

static void turn(const struct bare *bare, int listener)
{
    int r = io_uring_submit_and_wait(&ring, 1);
    if (r < 0 && r != -EINTR) {
        errno = -r;
        fail("io_uring_enter");
    }
    struct io_uring_cqe *cqe;
    unsigned int head, count = 0;
    io_uring_for_each_cqe(&ring, head, cqe)
    {
        uint64_t data = cqe->user_data;
        count++;
        if (data == OP_ACCEPT)
            accepted(bare, listener, cqe);
        else
            complete((struct pair *)(uintptr_t)(data & ~(uint64_t)OP_BITS), data >> 1 & 3, data & 1,
                     cqe->res);
    }
    io_uring_cq_advance(&ring, count);
}

void bare_copy(const struct bare *bare)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                 IORING_SETUP_SUBMIT_ALL,
        .cq_entries = CQ_ENTRIES,
    };
    int listener = bare_listen(bare);
    int r = io_uring_queue_init_params(SQ_ENTRIES, &ring, &params);
    if (r < 0) {
        errno = -r;
        fail("io_uring_setup");
    }
    (void)io_uring_register_ring_fd(&ring); /* saves a look-up in each call, where the kernel can */
    accept_visitors(listener);
    for (;;)
        turn(bare, listener);
}
