/* A connection to the other end of the tunnel as it is passed around: the descriptor and, if it is
 * encrypted, its Noise state. By value; whoever holds it owns both. */
#pragma once

#include "io/loop.h"
#include "net/noise_link.h"

struct transport {
    int fd;                   /* -1: none */
    struct noise_link *noise; /* NULL: plain */
};

/* Closes it with the loop's next submission, with an end of stream. An empty one is allowed. */
void transport_close(struct transport *transport, struct loop *loop);
/* The same with a reset. */
void transport_abort(struct transport *transport, struct loop *loop);
/* As transport_close, for a plain connection: a visitor's. (loop_close_fd alone resets it.) */
void transport_close_fd(int fd, struct loop *loop);
