#include "client/dial.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

enum { ROUND_MAX = 12 /* LIMIT_DIAL_FIRST_MS << 12 is a quarter of an hour */ };

static_assert(LIMIT_ADDRESSES <= 8, "a bit for each");

static void charge(struct dial *dial, uint64_t now_ns)
{
    uint64_t passed_ms = (now_ns - dial->since_ns) / NS_PER_MS;
    dial->left_ms -= (uint32_t)MIN(passed_ms, (uint64_t)dial->step_ms);
    dial->since_ns = now_ns;
    dial->step_ms = 0;
}

void dial_begin(struct dial *dial, uint32_t limit_ms, uint64_t now_ns)
{
    *dial = (struct dial){.since_ns = now_ns, .left_ms = limit_ms, .step_ms = limit_ms};
}

void dial_addresses(struct dial *dial, size_t count, uint64_t now_ns)
{
    charge(dial, now_ns);
    /* An answer just before the limit still gets an attempt. A process that was stopped during the
     * look-up has lost that time, and its deadline was held back (io/schedule.h). */
    if (dial->count == 0)
        dial->left_ms = MAX(dial->left_ms, (uint32_t)LIMIT_DIAL_FIRST_MS);
    dial->error = ERR_DEADLINE;
    dial->count = (uint8_t)count;
    dial->index = dial->round = dial->failed = 0;
    dial->has_begun = dial->is_one_round = false;
}

void dial_one_round(struct dial *dial, unsigned int round)
{
    dial->is_one_round = true;
    dial->round = (uint8_t)MIN(round, (unsigned int)ROUND_MAX);
}

static unsigned int alive_count(const struct dial *dial)
{
    return dial->count - (unsigned int)__builtin_popcount(dial->failed);
}

static void step_on(struct dial *dial)
{
    if (!dial->has_begun) {
        dial->has_begun = true;
    } else if (++dial->index == dial->count) {
        dial->index = 0;
        dial->round = (uint8_t)MIN(dial->round + 1, ROUND_MAX);
    }
}

bool dial_next(struct dial *dial, uint64_t now_ns)
{
    charge(dial, now_ns);
    unsigned int alive = alive_count(dial);
    if (alive == 0 || dial->left_ms == 0)
        return false;
    do {
        if (dial->is_one_round && dial->has_begun && dial->index + 1 == dial->count)
            return false;
        step_on(dial);
    } while ((dial->failed & (1u << dial->index)) != 0);
    uint32_t share_ms = (uint32_t)LIMIT_DIAL_FIRST_MS << dial->round;
    bool gets_all = alive == 1 && !dial->is_one_round;
    dial->step_ms = gets_all ? dial->left_ms : MIN(share_ms, dial->left_ms);
    return true;
}

void dial_failed(struct dial *dial, int error)
{
    dial->error = error;
    dial->failed |= (uint8_t)(1u << dial->index);
}

void dial_timed_out(struct dial *dial)
{
    dial->error = ERR_DEADLINE;
}

/* ---- the address that worked ---- */

void dial_memory_init(struct dial_memory *memory)
{
    *memory = (struct dial_memory){.until_ns = 0};
    (void)pthread_mutex_init(&memory->lock, NULL);
}

void dial_memory_finish(struct dial_memory *memory)
{
    (void)pthread_mutex_destroy(&memory->lock);
}

void dial_remember(struct dial_memory *memory, const struct addr *addr, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&memory->lock);
    memory->addr = *addr;
    memory->until_ns = now_ns + ms_to_ns(LIMIT_DIAL_WORKED_MS);
    (void)atomic_fetch_add(&memory->version, 1);
    (void)pthread_mutex_unlock(&memory->lock);
}

bool dial_put_first(struct dial_memory *memory, struct resolver_answer *answer, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&memory->lock);
    struct addr addr = memory->addr;
    bool counts = memory->until_ns > now_ns;
    (void)pthread_mutex_unlock(&memory->lock);
    size_t at = 0;
    while (counts && at < answer->count && !addr_equal(&answer->addrs[at], &addr))
        at++;
    if (!counts || at == 0 || at == answer->count)
        return false;
    memmove(&answer->addrs[1], &answer->addrs[0], at * sizeof(addr));
    answer->addrs[0] = addr;
    return true;
}
