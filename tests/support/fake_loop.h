/* A loop for tests: the API of io/loop.h and io/buffers.h without a ring. It is linked instead of
 * loop*.c and buffers.c; the code under test is the real one.
 *
 *     op --> pending --each turn: poll(2), the system call itself, perhaps a fault--> callback
 *
 * Sockets are real (loopback TCP) and time is virtual. A seeded generator decides what is up to the
 * kernel: order, delays, short counts, errors, and whether a cancelled op still completes. The
 * linker wraps the calls of io/socket.h that move bytes (--wrap); they draw from the generator of
 * the loop whose turn it is.
 *
 * One thread. Several loops may exist, for several workers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/loop.h"
#include "testing.h"

/* Probabilities per thousand, for each op or call. */
struct fake_faults {
    unsigned int delay;       /* a ready op waits for a later turn */
    unsigned int reorder;     /* a turn executes its ops in random order */
    unsigned int short_count; /* fewer bytes than possible are moved */
    unsigned int eintr, eagain, enobufs;
    unsigned int lost_cancel;  /* a ready op completes although it was cancelled */
    unsigned int crowded;      /* loop_is_crowded */
    unsigned int accept_ends;  /* a multishot accept ends after a connection */
    unsigned int accept_error; /* -ECONNABORTED or -EMFILE */
    unsigned int connect_error;
    /* Faults that end a connection: */
    unsigned int reset, epipe, enomem;
};

/* For loops created from now on. */
void fake_loop_set_seed(uint64_t seed);
/* They have at most so many buffers. Their memory is a loop's largest part, and a fuzzer makes a
 * thousand loops a second. */
void fake_loop_set_buffers_most(unsigned int count);
void fake_loop_set_faults(struct loop *loop, const struct fake_faults *faults);
/* How far time advances in a turn without work, at most up to the next timer. 10 ms by default. */
void fake_loop_set_idle_step_ms(struct loop *loop, unsigned int ms);
void fake_loop_advance_ms(struct loop *loop, uint64_t ms);
/* As if the process had been stopped: time passes, and the loop counts an absence. */
void fake_loop_stop_ms(struct loop *loop, uint64_t ms);
void fake_loop_set_busy(struct loop *loop, unsigned int permille);
/* From now on `life` answers socket_life, because the kernel's clock is not the virtual one. NULL:
 * the kernel answers. */
struct socket_life;
typedef int fake_life_fn(int fd, struct socket_life *ret);
void fake_socket_set_life(fake_life_fn *life);
/* The number of calls of socket_life so far. */
size_t fake_socket_looks(void);
/* Ops in flight and closes not yet made; buffers that are lent to owners. */
size_t fake_loop_in_flight(const struct loop *loop);
unsigned int fake_loop_lent(const struct loop *loop);
/* The number of faults so far that end a connection. */
unsigned int fake_loop_deadly_count(const struct loop *loop);
bool fake_loop_has_timers(const struct loop *loop);
