/* One shared token bucket and many threads, which take, give back and are late. The bytes that all
 * of them have used never exceed what the rate has in the time, and nobody starves. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/rate.h"
#include "testing.h"

enum { THREADS = 8, DEPTH_MS = 20, TAKES = 20000, SIZE = 1000 };

static const uint64_t bps = UINT64_C(100000000000);
static struct rate_shared rate;
static uint64_t begin_ns;
static uint64_t takes;
static _Atomic uint64_t used_bytes;
static _Atomic bool failed;

/* Virtual time, so that no thread sleeps: each has a clock of its own, which is never ahead of what
 * the bucket has promised to anyone. */
static void *use(void *arg)
{
    struct random random = {.state = (uint64_t)(uintptr_t)arg + 1};
    uint64_t now_ns = begin_ns, last_ns = 0;
    for (uint64_t i = 0; i < takes; i++) {
        uint64_t size = 1 + random_below(&random, SIZE), used = random_below(&random, size + 1);
        uint64_t at_ns =
            rate_shared_take(&rate, rate_cost_ns(bps, size), now_ns, ms_to_ns(DEPTH_MS));
        /* Within a thread the turns come in order, save for what is given back. */
        if (at_ns + (uint64_t)THREADS * rate_cost_ns(bps, SIZE) * 2 < last_ns)
            atomic_store(&failed, true);
        last_ns = at_ns;
        now_ns = MAX(now_ns, at_ns);
        rate_shared_give_back(&rate, rate_cost_ns(bps, size) - rate_cost_ns(bps, used));
        (void)atomic_fetch_add(&used_bytes, used);
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    begin_ns = NS_PER_S;
    takes = TAKES * env_number("STRESS_SCALE", 1);
    for (uintptr_t i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, use, (void *)i) != 0)
            abort();
    }
    for (unsigned int i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    /* All that was used is paid for, exactly: costs are rounded up by less than 1 ns each. */
    uint64_t bytes = atomic_load(&used_bytes);
    uint64_t paid_ns = rate_shared_due_ns(&rate) - (begin_ns - ms_to_ns(DEPTH_MS));
    uint64_t cost_ns = rate_cost_ns(bps, bytes);
    if (paid_ns < cost_ns || paid_ns > cost_ns + takes * THREADS) {
        (void)fprintf(stderr, "%llu bytes cost %llu ns, paid %llu ns\n", (unsigned long long)bytes,
                      (unsigned long long)cost_ns, (unsigned long long)paid_ns);
        return 1;
    }
    return atomic_load(&failed) ? 1 : 0;
}
