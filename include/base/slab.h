/* An allocator for objects of one type, with a free list. Memory stays with the slab until
 * slab_finish and always holds objects of this type, so a stale pointer to a loop_op (io/loop.h)
 * still points to a loop_op, whose generation then tells that it is stale (docs/decisions.md,
 * "user_data is an address with a generation").
 *
 * Belongs to one worker and is used by its thread alone. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

struct slab {
    size_t object_size;
    size_t used;
    void *free;   /* objects, linked through their first word */
    void *chunks; /* linked through theirs */
};

void slab_init(struct slab *slab, size_t object_size);
/* Frees the objects as well. Accepts a zeroed slab. */
void slab_finish(struct slab *slab);
/* NULL: out of memory. New memory is zeroed; an object that is used again keeps its bytes, save for
 * the first pointer. */
MUST_CHECK void *slab_get(struct slab *slab);
void slab_put(struct slab *slab, void *object);
