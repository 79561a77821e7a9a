/* Between fake_loop.c and fake_socket.c. */
#pragma once

#include "fake_loop.h"

/* The loop whose turn it is or was last; NULL before any. */
struct loop *fake_current(void);
/* 0, or the error to report instead of moving bytes. */
int fake_byte_fault(struct loop *loop, bool sending);
bool fake_connect_fault(struct loop *loop);
/* size, or less. */
size_t fake_short(struct loop *loop, size_t size);
