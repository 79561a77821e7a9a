/* Objects of one size, carved from chunks and kept on a free list. Memory is never given back
 * before slab_finish and always holds objects of the same kind, so a stale pointer to a loop_op
 * (io/loop.h) still points to one and its generation can tell. Not zeroed on reuse.
 *
 * Owned by one worker, used by its thread alone. */
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
/* All objects with it. Accepts a zeroed slab. */
void slab_finish(struct slab *slab);
/* Zeroed when it is used for the first time. NULL: no memory. */
MUST_CHECK void *slab_get(struct slab *slab);
void slab_put(struct slab *slab, void *object);
