/* Shared by fake_loop.c and fake_socket.c. */
#pragma once

#include "fake_loop.h"

/* The loop of this or the last turn; NULL before the first one. */
struct loop *fake_current(void);
/* 0, or the error that replaces the call. */
int fake_byte_fault(struct loop *loop, bool sending);
bool fake_connect_fault(struct loop *loop);
/* `size`, or less for a short count. */
size_t fake_short(struct loop *loop, size_t size);
