/* A loop for tests: the API of io/loop.h and io/buffers.h without a ring. Linked instead of loop.c,
 * buffers.c and loop_busy.c, so the sources under test are the real ones.
 *
 *     op --> pending --each turn: poll(2), the system call itself, perhaps a fault--> callback
 *
 * Sockets are real (loopback TCP), time is virtual, and everything that a kernel may do at its
 * discretion is drawn from a seeded generator: order, delays, short counts, errors, and who wins
 * when an op is cancelled. The calls of io/socket.h that move bytes are wrapped by the linker
 * (--wrap) and draw from the generator of the loop whose turn it is.
 *
 * One thread; several loops may exist, for several workers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/loop.h"
#include "testing.h"

/* In a thousand, per executed op or call. */
struct fake_faults {
    unsigned int delay;       /* a ready op is left for a later turn */
    unsigned int reorder;     /* a turn executes its ops in random order */
    unsigned int short_count; /* fewer bytes than possible are moved */
    unsigned int eintr, eagain, enobufs;
    unsigned int lost_cancel;  /* a ready op that is cancelled completes all the same */
    unsigned int accept_ends;  /* a multishot accept ends after a connection */
    unsigned int accept_error; /* -ECONNABORTED, or no descriptors */
    unsigned int connect_error;
    /* Deadly for a connection: */
    unsigned int reset, epipe, enomem;
};

/* For every loop made from now on. */
void fake_loop_set_seed(uint64_t seed);
void fake_loop_set_faults(struct loop *loop, const struct fake_faults *faults);
/* Without it idle turns let up to 10 ms pass, at most to the next timer. */
void fake_loop_set_idle_step_ms(struct loop *loop, unsigned int ms);
void fake_loop_advance_ms(struct loop *loop, uint64_t ms);
/* The process was stopped for so long: time passes, and the loop notices. */
void fake_loop_stop_ms(struct loop *loop, uint64_t ms);
void fake_loop_set_busy(struct loop *loop, unsigned int permille);
/* Answers socket_life from now on in the kernel's place, whose clock is not ours; NULL: the kernel
 * does. */
struct socket_life;
typedef int fake_life_fn(int fd, struct socket_life *ret);
void fake_socket_set_life(fake_life_fn *life);
/* How often socket_life was called so far. */
size_t fake_socket_looks(void);
/* Ops not yet back, closes not yet made; buffers in the hands of owners. */
size_t fake_loop_in_flight(const struct loop *loop);
unsigned int fake_loop_lent(const struct loop *loop);
/* Deadly faults injected so far. */
unsigned int fake_loop_deadly_count(const struct loop *loop);
bool fake_loop_has_timers(const struct loop *loop);
