/* Deadlines of a process that is stopped, on the kernel's ring (src/io/loop.c): data that has come
 * is read before a deadline runs, and an absence is noticed. */
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"
#include "ring.h"

struct awaited {
    struct loop_op op;
    struct timer deadline;
    struct ring *ring;
    int fd, left; /* bytes that are still awaited */
    char byte;
    unsigned int come, given_up;
};

static void awaited_come(struct loop_op *op, int res, uint32_t flags)
{
    struct awaited *awaited = container_of(op, struct awaited, op);
    if (res <= 0)
        return;
    awaited->come++;
    if (--awaited->left > 0)
        loop_recv(awaited->ring->loop, op, awaited->fd, &awaited->byte, 1);
    else
        loop_timer_stop(awaited->ring->loop, &awaited->deadline);
}

static void awaited_given_up(struct timer *timer)
{
    container_of(timer, struct awaited, deadline)->given_up++;
}

/* A child stops this process in the middle of its wait, sends the bytes, and lets it go on after
 * ms. */
static void stop_this_process(int out, const char *bytes, unsigned int ms)
{
    pid_t self = getpid();
    if (fork() > 0)
        return;
    struct timespec moment = {.tv_nsec = 30000000}, rest = {.tv_sec = ms / 1000};
    rest.tv_nsec = ms % 1000 * 1000000;
    (void)nanosleep(&moment, NULL);
    (void)kill(self, SIGSTOP);
    (void)nanosleep(&moment, NULL);
    if (send(out, bytes, strlen(bytes), MSG_NOSIGNAL) < 0)
        _exit(1);
    (void)nanosleep(&rest, NULL);
    (void)kill(self, SIGCONT);
    _exit(0);
}

static void check_stop(struct ring *ring, const char *bytes, unsigned int deadline_ms,
                       unsigned int stop_ms)
{
    int fds[2];
    struct awaited awaited = {.ring = ring, .left = 3};
    tcp_pair(fds, 0);
    awaited.fd = fds[1];
    loop_op_init(&awaited.op, awaited_come);
    timer_init(&awaited.deadline, awaited_given_up);
    loop_recv(ring->loop, &awaited.op, fds[1], &awaited.byte, 1);
    ring_turn(ring, 0);
    loop_deadline_start(ring->loop, &awaited.deadline, deadline_ms);
    stop_this_process(fds[0], bytes, stop_ms);
    while (awaited.deadline.armed)
        cr_assert_eq(loop_run_once(ring->loop), 0);
    (void)wait(NULL);
    cr_expect_eq(awaited.come, strlen(bytes));
    cr_expect_eq(awaited.given_up, strlen(bytes) < 3);
    loop_cancel(ring->loop, &awaited.op);
    ring_settle(ring);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* The stop is too short to be an absence. The looks before the deadline find the bytes, although
 * they take three reads. */
Test(loop_deadlines, what_has_come_goes_before_a_deadline)
{
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    for (int i = 0; i < 3; i++)
        check_stop(&ring, "abc", 100, 250);
    check_stop(&ring, "ab", 100, 250);
    ring_close(&ring);
}

/* The stop ends after the wait was due to end, or long before: then only the early end of the wait
 * shows it. */
Test(loop_deadlines, an_absence_is_noticed)
{
    for (unsigned int deadline_ms = 100; deadline_ms <= 1100; deadline_ms += 1000) {
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[0]))
            return;
        check_stop(&ring, "abc", deadline_ms, 800);
        cr_expect_geq(metrics_get(&ring.metrics, METRIC_ABSENCES), 1, "%u ms", deadline_ms);
        ring_close(&ring);
    }
}

/* The absence is a turn that takes too long, and nothing comes: the deadline runs after the grace.
 */
Test(loop_deadlines, an_absence_is_no_excuse_for_ever)
{
    struct ring ring;
    struct awaited awaited = {.left = 1};
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    ring_turn(&ring, 0);
    struct timespec busy = {.tv_nsec = (LIMIT_ABSENT_MS + 100) * 1000000};
    timer_init(&awaited.deadline, awaited_given_up);
    uint64_t begun_ns = loop_now_ns(ring.loop);
    loop_deadline_start(ring.loop, &awaited.deadline, 100);
    (void)nanosleep(&busy, NULL);
    while (awaited.given_up == 0)
        cr_assert_eq(loop_run_once(ring.loop), 0);
    cr_expect_geq((loop_now_ns(ring.loop) - begun_ns) / 1000000,
                  LIMIT_ABSENT_MS + LIMIT_ABSENT_GRACE_MS);
    cr_expect_eq(metrics_get(&ring.metrics, METRIC_ABSENCES), 1);
    ring_close(&ring);
}
