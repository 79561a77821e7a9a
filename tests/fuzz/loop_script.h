/* What scripts do to the fake loop and its sockets, whichever program runs on it. */
#pragma once

#include <stddef.h>
#include <sys/socket.h>

#include "fake_loop.h"
#include "script.h"

/* The faults that any program may meet, drawn from two bytes of the script. The first byte has three
 * bits left for the caller's own: *ret_rest. */
static inline struct fake_faults script_faults(struct script *script, unsigned int *ret_rest)
{
    uint8_t choice = script_byte(script);
    *ret_rest = choice >> 5;
    return (struct fake_faults){
        .delay = script_below(script, 6) * 100u,
        .reorder = (choice & 1) != 0 ? 500 : 0,
        .short_count = (choice & 2) != 0 ? 300 : 0,
        .eintr = (choice & 4) != 0 ? 50 : 0,
        .enobufs = (choice & 8) != 0 ? 50 : 0,
        .lost_cancel = (choice & 16) != 0 ? 500 : 0,
        .crowded = (choice & 1) != 0 ? 500 : 0,
    };
}

/* The bytes that one recv(2) on each open socket has found; -1 is none. */
static inline size_t receive_from_all(const int *fds, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        char bytes[2048];
        ssize_t got = fds[i] < 0 ? 0 : recv(fds[i], bytes, sizeof(bytes), MSG_DONTWAIT);
        size += got > 0 ? (size_t)got : 0;
    }
    return size;
}
