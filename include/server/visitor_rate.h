/* max_new_per_second_per_ip: how many visitors of a service may come from one address (addr_key)
 * within a second. In no second more of them come in, by the clock of the loops. Those that are
 * refused do not count, so an address that goes on trying gets its number again and again. Up to
 * LIMIT_RATE_EXACT this is exact. Beyond, the times of groups are remembered, and who comes just as
 * fast as the limit loses up to a sixteenth of it.
 *
 * One table has the addresses of all services, and all workers use it, each set of it under one of
 * a few locks. It has a fixed size, made when it is first needed. An address is forgotten when
 * nobody has come from it for a second, or, in a set where all others came within a second, if it
 * has been silent for longest: then its count begins anew. The hash is keyed, so strangers can't
 * aim at a set; to have addresses forgotten takes visitors from tens of thousands of them within a
 * second. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"

struct service;
struct rate_set;

enum { VISITOR_RATE_LOCKS = 16 };

struct visitor_rate {
    _Atomic(struct rate_set *) sets; /* NULL: not needed so far */
    pthread_mutex_t locks[VISITOR_RATE_LOCKS];
};

void visitor_rate_init(struct visitor_rate *rate);
void visitor_rate_finish(struct visitor_rate *rate);
/* Counts a visitor from the address. limit: of its service; 0 = off. ERR_LIMIT: it is one too many,
 * and is not counted; -ENOMEM. */
MUST_CHECK int visitor_rate_enter(struct visitor_rate *rate, const struct service *service,
                                  const struct addr_key *key, uint32_t limit, uint64_t now_ns);
