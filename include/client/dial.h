/* The addresses of one name, tried one after the other within one time limit. The sockets and the
 * timer are the caller's.
 *
 *     dial_begin --> dial_addresses --> dial_next --> (connecting) --> there
 *                                           ^               |
 *                                           |-- dial_failed +--> (false: dial.error)
 *                                           `-- dial_timed_out
 *
 * While there are other addresses, each gets LIMIT_DIAL_FIRST_MS, and twice as long in each further
 * round. The last address that has not failed gets all the time that is left. So an address that
 * drops packets costs a quarter of a second, and a slow one is tried again with more time.
 * LIMIT_DIAL_FIRST_MS is the Connection Attempt Delay of RFC 8305, section 5, but here one attempt
 * ends before the next begins. An address that has failed with an error is not tried again.
 *
 * An attempt is charged for at most the time that it was given. So if the process is stopped during
 * an attempt, the other addresses keep their time. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/resolver.h"

struct dial {
    uint64_t since_ns;
    uint32_t left_ms; /* left when the current step began, at since_ns */
    uint32_t step_ms; /* the limit of the current step, for the caller's timer */
    int error;        /* of the last failure: -errno or ERR_DEADLINE */
    uint8_t count, index, round;
    uint8_t failed;    /* a bit for each address */
    bool has_begun;    /* an address of this set was tried */
    bool is_one_round; /* see dial_one_round */
};

/* Begins, with the first step: the look-up of the name. It may take all of limit_ms. */
void dial_begin(struct dial *dial, uint32_t limit_ms, uint64_t now_ns);
/* Ends the look-up: there are `count` addresses, at most LIMIT_ADDRESSES. May be called again if
 * the addresses have changed; they are tried from the first one, in the time that is left. */
void dial_addresses(struct dial *dial, size_t count, uint64_t now_ns);
/* There are other names to try: every address gets its part of this round (0: the first) and no
 * more, the last one too. To be called after dial_addresses. */
void dial_one_round(struct dial *dial, unsigned int round);
/* Chooses the next address, dial->index, to be tried for dial->step_ms. False: all have failed, or
 * the time or the one round is over. */
bool dial_next(struct dial *dial, uint64_t now_ns);
/* The current address has failed with this error. */
void dial_failed(struct dial *dial, int error);
/* The step of the current address is over. The address may get another in the next round. */
void dial_timed_out(struct dial *dial);

/* The last address that worked, or is in use, shared by all workers. It is tried first for
 * LIMIT_DIAL_WORKED_MS (RFC 6555). After that the resolver's order counts again. Any thread. */
struct dial_memory {
    _Atomic uint32_t version; /* grows with each dial_remember */
    pthread_mutex_t lock;     /* protects the fields below */
    struct addr addr;
    uint64_t until_ns;
};

void dial_memory_init(struct dial_memory *memory);
void dial_memory_finish(struct dial_memory *memory);
void dial_remember(struct dial_memory *memory, const struct addr *addr, uint64_t now_ns);
/* Moves the remembered address to the front of the answer. True: the order has changed. */
bool dial_put_first(struct dial_memory *memory, struct resolver_answer *answer, uint64_t now_ns);
