/* How busy a worker is: the time that its thread ran plus the time that it waited for a core,
 * divided by the time that passed (/proc/thread-self/schedstat, proc(5)). CPU time alone would be
 * low for a worker that shares its core with four other threads, and relays would be placed on this
 * starved worker. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/numbers.h"
#include "loop_priv.h"

enum {
    SAMPLE_NS = 20 * 1000 * 1000,
    STALE_NS = 2 * SAMPLE_NS, /* without a sample for longer, the loop was asleep */
};

/* Run time and run-queue wait of this thread, in ns. FALLBACK(no CONFIG_SCHED_INFO): run time only.
 */
static uint64_t used_ns(struct loop_busy *busy)
{
    char text[96];
    if (busy->schedstat_fd >= 0) {
        ssize_t len = pread(busy->schedstat_fd, text, sizeof(text) - 1, 0);
        uint64_t times_ns[2]; /* run, wait */
        if (len > 0) {
            text[len] = '\0';
            if (numbers_parse(text, times_ns, 2, NULL) == 2)
                return times_ns[0] + times_ns[1];
        }
        (void)close(busy->schedstat_fd);
        busy->schedstat_fd = -1;
        busy->wall_ns = 0;
    }
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void loop_busy_init(struct loop_busy *busy)
{
    busy->schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    busy->wall_ns = clock_monotonic_ns();
    busy->used_ns = used_ns(busy);
}

void loop_busy_finish(struct loop_busy *busy)
{
    if (busy->schedstat_fd >= 0)
        (void)close(busy->schedstat_fd);
    busy->schedstat_fd = -1;
}

void loop_busy_sample(struct loop_busy *busy, uint64_t now_ns)
{
    if (now_ns - busy->wall_ns < SAMPLE_NS)
        return;
    uint64_t used = used_ns(busy);
    uint64_t wall = now_ns - busy->wall_ns;
    uint64_t permille = used > busy->used_ns ? (used - busy->used_ns) * 1000 / wall : 0;
    if (permille > 1000)
        permille = 1000;
    uint32_t old = atomic_load_explicit(&busy->permille, memory_order_relaxed);
    /* A moving average with a weight of a quarter for the new sample settles in about 100 ms. After
     * a sleep the old value says nothing about the present. */
    uint32_t average = wall > STALE_NS ? (uint32_t)permille : (old * 3 + (uint32_t)permille) / 4;
    atomic_store_explicit(&busy->permille, average, memory_order_relaxed);
    atomic_store_explicit(&busy->sampled_at_ns, now_ns, memory_order_relaxed);
    busy->wall_ns = now_ns;
    busy->used_ns = used;
}

unsigned int loop_busy_permille(const struct loop *loop)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t at = atomic_load_explicit(&loop->busy.sampled_at_ns, memory_order_relaxed);
    uint32_t permille = atomic_load_explicit(&loop->busy.permille, memory_order_relaxed);
    if (now <= at + STALE_NS)
        return permille;
    /* The loop has slept since its last sample: let that sample fade with time. */
    return (unsigned int)((uint64_t)permille * STALE_NS / (now - at));
}
