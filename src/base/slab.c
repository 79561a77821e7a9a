#include "base/slab.h"

#include <assert.h>
#include <stdlib.h>

enum {
    CHUNK_SIZE = 16 << 10, /* small, so that an idle process stays small */
    CHUNK_HEADER = 64,     /* the link; a cache line, so that objects keep malloc's alignment */
    ALIGNMENT = 16,
};

void slab_init(struct slab *slab, size_t object_size)
{
    *slab = (struct slab){.object_size = (object_size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1)};
    assert(slab->object_size <= (CHUNK_SIZE - CHUNK_HEADER) / 4);
}

void slab_finish(struct slab *slab)
{
    while (slab->chunks != NULL) {
        void *chunk = slab->chunks;
        slab->chunks = *(void **)chunk;
        free(chunk);
    }
    *slab = (struct slab){0};
}

static void push_free(struct slab *slab, void *object)
{
    *(void **)object = slab->free;
    slab->free = object;
}

static int slab_grow(struct slab *slab)
{
    unsigned char *chunk = calloc(1, CHUNK_SIZE);
    if (chunk == NULL)
        return -1;
    *(void **)(void *)chunk = slab->chunks;
    slab->chunks = chunk;
    /* Backwards, so that slab_get returns the objects in the order of their addresses. */
    size_t count = (CHUNK_SIZE - CHUNK_HEADER) / slab->object_size;
    while (count-- > 0)
        push_free(slab, chunk + CHUNK_HEADER + count * slab->object_size);
    return 0;
}

void *slab_get(struct slab *slab)
{
    if (slab->free == NULL && slab_grow(slab) < 0)
        return NULL;
    void *object = slab->free;
    assert(object != NULL);
    slab->free = *(void **)object;
    *(void **)object = NULL;
    slab->used++;
    return object;
}

void slab_put(struct slab *slab, void *object)
{
    assert(slab->used > 0);
    slab->used--;
    push_free(slab, object);
}
