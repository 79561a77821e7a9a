/* Helpers for tests: random numbers, connected TCP pairs, free ports, counts of descriptors. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"

/* A pseudo-random sequence, the same for the same seed. */
struct random {
    uint64_t state;
};
uint64_t random_next(struct random *random);
/* From 0 to below - 1; below > 0. */
size_t random_below(struct random *random, size_t below);
bool random_permille(struct random *random, unsigned int permille);

/* For a test that cannot run on this machine. */
#define SKIP_LOUDLY(why) (void)fprintf(stderr, "SKIPPED: %s: %s\n", __func__, why)

/* A TCP connection over loopback, non-blocking: fds[0] is the peer's end, fds[1] the program's,
 * which resets on close like all that its listeners accept. buffer_size 0: the system's. Aborts the
 * program on failure. */
void tcp_pair(int fds[2], int buffer_size);
/* Turns pacing off, which runs on the real clock and makes a test nondeterministic. */
void tcp_without_pacing(const int fds[2]);
/* A listener on 127.0.0.1, at a port of the kernel's choice. Returns its descriptor. */
int tcp_listener(struct addr *ret);
/* Starts a non-blocking connect and returns the descriptor. -1: refused. */
int tcp_dial(const struct addr *addr);
struct addr tcp_loopback(uint16_t port);
/* A port that was free a moment ago. */
uint16_t free_port(void);
/* The next close of fd resets the connection. */
void tcp_abort_on_close(int fd);
/* Closes with a reset: no TIME_WAIT, so that a program of many rounds does not run out of ports. */
void tcp_close_now(int fd);
size_t open_fd_count(void);
/* The environment variable as a number; `otherwise` if it is not set. */
uint64_t env_number(const char *name, uint64_t otherwise);
/* How many of so many random cases to try: TEST_SEEDS_PERCENT of them, for builds that are slow. */
uint64_t seeds_of(uint64_t count);
