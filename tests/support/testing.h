/* What several tests need: connected TCP pairs, and counts that must not grow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"

/* Random numbers that are the same for the same seed. */
struct random {
    uint64_t state;
};
uint64_t random_next(struct random *random);
/* 0 to below - 1; below > 0. */
size_t random_below(struct random *random, size_t below);
bool random_permille(struct random *random, unsigned int permille);

/* A test that cannot run here says so, loudly. */
#define SKIP_LOUDLY(why) (void)fprintf(stderr, "SKIPPED: %s: %s\n", __func__, why)

/* Two ends of a TCP connection over loopback, non-blocking: the peer's, and the program's, as its
 * listeners accept it, so that a close resets unless it is meant to be clean. buffer_size 0: the
 * system's. Aborts the program on failure. */
void tcp_pair(int fds[2], int buffer_size);
/* Pacing runs on the real clock and would make a virtual one nondeterministic. */
void tcp_without_pacing(const int fds[2]);
/* A listener on a port of the kernel's choice on 127.0.0.1; returns its descriptor. */
int tcp_listener(struct addr *ret);
/* Connects, non-blocking; the connection need not be there yet. -1: refused. */
int tcp_dial(const struct addr *addr);
struct addr tcp_loopback(uint16_t port);
/* A port that was free a moment ago. */
uint16_t free_port(void);
/* The next close of fd resets the connection. */
void tcp_abort_on_close(int fd);
size_t open_fd_count(void);
/* NAME as a number, or otherwise. */
uint64_t env_number(const char *name, uint64_t otherwise);
