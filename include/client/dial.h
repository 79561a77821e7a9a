/* The addresses of one name, tried one after the other within one limit of time.
 *
 *     dial_begin --> dial_addresses --> dial_next --> (connecting) --> there
 *                                           ^               |
 *                                           |-- dial_failed +--> (false: dial.error)
 *                                           `-- dial_timed_out
 *
 * While there are others an address has LIMIT_DIAL_FIRST_MS, and in each further round twice as
 * long; the last one that has not failed has all the time that is left. So an address that swallows
 * packets costs a quarter of a second, and one that is merely slow is tried again with more time.
 * An address that has failed with an error is not tried again.
 *
 * Time that passes in an attempt counts up to what the attempt was given: a process that was
 * stopped meanwhile has not used up the time of the others. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/resolver.h"

struct dial {
    uint64_t since_ns;
    uint32_t left_ms; /* before the step that goes on since then */
    uint32_t step_ms; /* the limit of that step: for the caller's timer */
    int error;        /* of the last that failed */
    uint8_t count, index, round;
    uint8_t failed; /* a bit for each address */
    bool has_begun; /* with these addresses */
};

/* The first step: finding the addresses. It may take all the time. */
void dial_begin(struct dial *dial, uint32_t limit_ms, uint64_t now_ns);
/* From here on these many are tried. Also when they have changed: from the first again, in the time
 * that is left. */
void dial_addresses(struct dial *dial, size_t count, uint64_t now_ns);
/* Goes on to dial->index, for step_ms. False: none is left, or no time. */
bool dial_next(struct dial *dial, uint64_t now_ns);
/* The one that is tried has failed. */
void dial_failed(struct dial *dial, int error);
/* Its time is over; it may have more in another round. */
void dial_timed_out(struct dial *dial);

/* The address that worked, or that is in use, for all workers. It comes first for
 * LIMIT_DIAL_WORKED_MS, then the answer's own order counts again. Any thread. */
struct dial_memory {
    _Atomic uint32_t version; /* counts what was remembered */
    pthread_mutex_t lock;     /* over the rest */
    struct addr addr;
    uint64_t until_ns;
};

void dial_memory_init(struct dial_memory *memory);
void dial_memory_finish(struct dial_memory *memory);
void dial_remember(struct dial_memory *memory, const struct addr *addr, uint64_t now_ns);
/* Moves it to the front, if it is among them and not there already: true. */
bool dial_put_first(struct dial_memory *memory, struct resolver_answer *answer, uint64_t now_ns);
