/* What several tests need: connected TCP pairs, and counts that must not grow. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"

/* A test that cannot run here says so, loudly. */
#define SKIP_LOUDLY(why) (void)fprintf(stderr, "SKIPPED: %s: %s\n", __func__, why)

/* Two ends of a TCP connection over loopback, non-blocking. buffer_size 0: the system's. Aborts the
 * program on failure. */
void tcp_pair(int fds[2], int buffer_size);
/* A listener on a port of the kernel's choice on 127.0.0.1; returns its descriptor. */
int tcp_listener(struct addr *ret);
/* Connects, non-blocking; the connection need not be there yet. -1: refused. */
int tcp_dial(const struct addr *addr);
/* A port that was free a moment ago. */
uint16_t free_port(void);
/* The next close of fd resets the connection. */
void tcp_abort_on_close(int fd);
size_t open_fd_count(void);
/* NAME as a number, or otherwise. */
uint64_t env_number(const char *name, uint64_t otherwise);
