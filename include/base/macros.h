/* Attributes and small helpers for every layer. Nothing here has state. */
#pragma once

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* The result says whether the call worked. A caller that may ignore it writes (void). */
#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_FORMAT(format_index, first_arg) \
    __attribute__((format(printf, format_index, first_arg)))
#define UNUSED __attribute__((unused))
#define USED   __attribute__((used)) /* kept in the program though nothing reads it */

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* The object that embeds `member` at `ptr`. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Frees or closes a local variable when its scope ends: CLEANUP_FREE char *text = strdup(...);
 * For parsers and start-up code. Completion callbacks end in a state change instead. */
static inline void cleanup_free(void *ptr)
{
    free(*(void **)ptr);
}

static inline void cleanup_fd(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free)))
#define CLEANUP_FD   __attribute__((cleanup(cleanup_fd)))

/* Moves an owned pointer or descriptor out of its variable, which becomes NULL or -1. */
static inline void *take_ptr_from(void **ptr)
{
    void *taken = *ptr;
    *ptr = NULL;
    return taken;
}

#define take_ptr(ptr) ((__typeof__(ptr))take_ptr_from((void **)&(ptr)))

static inline int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}
