/* src/io/loop_zerocopy.c on the kernel's ring. Over loopback the kernel copies, and says so. */
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring.h"

enum { SIZE = 128 << 10 };

/* What a send came to. */
struct sending {
    struct loop_op op;
    int result;
    unsigned int results, notifications;
    bool copied;
};

static void sending_done(struct loop_op *op, int res, uint32_t flags)
{
    struct sending *sending = container_of(op, struct sending, op);
    if (loop_flags_notification(flags)) {
        cr_assert_eq(sending->results, 1, "the result comes first");
        cr_assert(loop_op_is_idle(op));
        sending->notifications++;
        sending->copied = loop_notification_copied(res);
        return;
    }
    sending->result = res;
    sending->results++;
}

static unsigned char *map_memory(void)
{
    unsigned char *memory =
        mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(memory, MAP_FAILED);
    for (size_t i = 0; i < SIZE; i++)
        memory[i] = (unsigned char)(i * 7 + (i >> 8));
    return memory;
}

static void expect_received(int fd, const unsigned char *expected, size_t size)
{
    static unsigned char got[SIZE];
    size_t have = 0;
    while (have < size) {
        ssize_t more = recv(fd, got + have, size - have, 0);
        cr_assert_gt(more, 0);
        have += (size_t)more;
    }
    cr_expect(memcmp(got, expected, size) == 0);
}

static void send_once(struct ring *ring, const int fds[2], const unsigned char *memory,
                      bool registered)
{
    struct sending sending = {.result = 0};
    loop_op_init(&sending.op, sending_done);
    loop_send_zerocopy(ring->loop, &sending.op, fds[0], memory, SIZE, registered);
    ring_run(ring, &sending.results, 1);
    if (sending.result == -EINVAL) {
        SKIP_LOUDLY("no zero-copy sends that tell of copies");
        return;
    }
    cr_assert(sending.result > 0 && sending.result <= SIZE, "%d", sending.result);
    expect_received(fds[1], memory, (size_t)sending.result);
    ring_run(ring, &sending.notifications, 1);
    cr_expect(sending.copied);
    ring_settle(ring);
    cr_expect_eq(sending.results, 1);
    cr_expect_eq(sending.notifications, 1);
}

Test(loop_zerocopy, result_and_notification)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        struct ring ring;
        int fds[2];
        unsigned char *memory = map_memory();
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        tcp_pair(fds, 0);
        send_once(&ring, fds, memory, false);
        int result = loop_register_memory(ring.loop, memory, SIZE);
        cr_assert(result == 0 || result == -ENOMEM, "%d", result);
        if (result == 0)
            send_once(&ring, fds, memory, true);
        (void)munmap(memory, SIZE);
        ring_close(&ring);
        (void)close(fds[0]);
        (void)close(fds[1]);
    }
}

/* A full socket is not waited for. */
Test(loop_zerocopy, no_room)
{
    struct ring ring;
    int fds[2];
    unsigned char *memory = map_memory();
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    tcp_pair(fds, 4096);
    while (send(fds[0], memory, SIZE, MSG_DONTWAIT) > 0)
        continue;
    struct sending sending = {.result = 0};
    loop_op_init(&sending.op, sending_done);
    loop_send_zerocopy(ring.loop, &sending.op, fds[0], memory, SIZE, false);
    ring_run(&ring, &sending.results, 1);
    cr_expect(sending.result == -EAGAIN || sending.result == -EINVAL, "%d", sending.result);
    if (!loop_op_is_idle(&sending.op))
        ring_run(&ring, &sending.notifications, 1);
    (void)munmap(memory, SIZE);
    ring_close(&ring);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* Bytes that nobody has acknowledged come back when the connection is reset. */
Test(loop_zerocopy, reset)
{
    struct ring ring;
    int fds[2];
    unsigned char *memory = map_memory();
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    tcp_pair(fds, 0);
    struct sending sending = {.result = 0};
    loop_op_init(&sending.op, sending_done);
    loop_send_zerocopy(ring.loop, &sending.op, fds[0], memory, SIZE, false);
    ring_run(&ring, &sending.results, 1);
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    if (!loop_op_is_idle(&sending.op))
        ring_run(&ring, &sending.notifications, 1);
    cr_expect(loop_op_is_idle(&sending.op));
    (void)munmap(memory, SIZE);
    ring_close(&ring);
    (void)close(fds[0]);
}
