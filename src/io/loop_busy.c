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

/* FALLBACK(no CONFIG_SCHED_INFO): run time only. */
static struct loop_waits read_waits(struct loop_busy *busy)
{
    char text[96];
    if (busy->schedstat_fd >= 0) {
        ssize_t len = pread(busy->schedstat_fd, text, sizeof(text) - 1, 0);
        uint64_t values[3]; /* ns run, ns waited, slices */
        if (len > 0) {
            text[len] = '\0';
            if (numbers_parse(text, values, 3, NULL) == 3)
                return (struct loop_waits){values[0], values[1], values[2]};
        }
        (void)close(busy->schedstat_fd);
        busy->schedstat_fd = -1;
    }
    return (struct loop_waits){.run_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)};
}

void loop_busy_init(struct loop_busy *busy)
{
    busy->schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    busy->wall_ns = clock_monotonic_ns();
    busy->waits = read_waits(busy);
}

void loop_busy_finish(struct loop_busy *busy)
{
    if (busy->schedstat_fd >= 0)
        (void)close(busy->schedstat_fd);
    busy->schedstat_fd = -1;
}

/* No counter goes back, unless another one has taken its place. */
static uint64_t grown(uint64_t new, uint64_t old)
{
    return new > old ? new - old : 0;
}

bool loop_busy_sample(struct loop_busy *busy, uint64_t now_ns, struct loop_waits *ret)
{
    if (now_ns - busy->wall_ns < SAMPLE_NS)
        return false;
    struct loop_waits waits = read_waits(busy);
    *ret = (struct loop_waits){
        .run_ns = grown(waits.run_ns, busy->waits.run_ns),
        .wait_ns = grown(waits.wait_ns, busy->waits.wait_ns),
        .slices = grown(waits.slices, busy->waits.slices),
    };
    uint64_t wall = now_ns - busy->wall_ns;
    uint64_t permille = (ret->run_ns + ret->wait_ns) * 1000 / wall;
    if (permille > 1000)
        permille = 1000;
    uint32_t old = atomic_load_explicit(&busy->permille, memory_order_relaxed);
    /* A moving average with a weight of a quarter for the new sample settles in about 100 ms. After
     * a sleep the old value says nothing about the present. */
    uint32_t average = wall > STALE_NS ? (uint32_t)permille : (old * 3 + (uint32_t)permille) / 4;
    atomic_store_explicit(&busy->permille, average, memory_order_relaxed);
    atomic_store_explicit(&busy->sampled_at_ns, now_ns, memory_order_relaxed);
    busy->wall_ns = now_ns;
    busy->waits = waits;
    return true;
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
