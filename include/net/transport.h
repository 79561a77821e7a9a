/* A connection between server and client, as it is passed from owner to owner and between workers:
 * the descriptor and, if it is coded, its link. Passed by value; the holder owns both. */
#pragma once

#include "io/loop.h"
#include "net/link.h"

struct transport {
    int fd;            /* -1: none */
    struct link *link; /* NULL: plain */
};

/* Closes it cleanly (with an end of stream), with the loop's next submission. fd may be -1. */
void transport_close(struct transport *transport, struct loop *loop);
/* The same with a reset. */
void transport_abort(struct transport *transport, struct loop *loop);
/* Like transport_close, for a plain connection. loop_close_fd alone would reset it. */
void transport_close_fd(int fd, struct loop *loop);
