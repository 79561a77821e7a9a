#include "alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_MAX = 1 << 10 };

static struct {
    void *block;
    size_t size;
} blocks[BLOCKS_MAX];
static bool is_counting, has_failed, is_paused;
static unsigned int countdown;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
int __real_posix_memalign(void **ret, size_t alignment, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size);
void __wrap_free(void *block);

void alloc_fail_nth(unsigned int n)
{
    countdown = n;
    has_failed = false;
}

void alloc_pause(bool paused)
{
    is_paused = paused;
}

bool alloc_has_failed(void)
{
    return has_failed;
}

void alloc_count_begin(void)
{
    memset(blocks, 0, sizeof(blocks));
    is_counting = true;
}

size_t alloc_blocks(void)
{
    size_t count = 0;
    for (size_t i = 0; i < BLOCKS_MAX; i++)
        count += blocks[i].block != NULL ? 1 : 0;
    return count;
}

size_t alloc_bytes(void)
{
    size_t bytes = 0;
    for (size_t i = 0; i < BLOCKS_MAX; i++)
        bytes += blocks[i].block != NULL ? blocks[i].size : 0;
    return bytes;
}

static bool must_fail(void)
{
    if (is_paused || countdown == 0 || --countdown > 0)
        return false;
    has_failed = true;
    errno = ENOMEM;
    return true;
}

static void *note(void *block, size_t size)
{
    for (size_t i = 0; is_counting && block != NULL && i < BLOCKS_MAX; i++) {
        if (blocks[i].block == NULL) {
            blocks[i].block = block;
            blocks[i].size = size;
            break;
        }
    }
    return block;
}

static void forget(const void *block)
{
    for (size_t i = 0; is_counting && block != NULL && i < BLOCKS_MAX; i++) {
        if (blocks[i].block == block) {
            blocks[i].block = NULL;
            break;
        }
    }
}

void *__wrap_malloc(size_t size)
{
    return must_fail() ? NULL : note(__real_malloc(size), size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return must_fail() ? NULL : note(__real_calloc(count, size), count * size);
}

void *__wrap_realloc(void *block, size_t size)
{
    if (must_fail())
        return NULL;
    forget(block);
    return note(__real_realloc(block, size), size);
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    if (must_fail())
        return ENOMEM;
    int result = __real_posix_memalign(ret, alignment, size);
    if (result == 0)
        (void)note(*ret, size);
    return result;
}

void __wrap_free(void *block)
{
    forget(block);
    __real_free(block);
}
