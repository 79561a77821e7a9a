#include "base/slab.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

Test(slab, objects_are_distinct_aligned_and_reused)
{
    enum { COUNT = 1000, SIZE = 100 };
    static unsigned char *objects[COUNT];
    struct slab slab;
    slab_init(&slab, SIZE);
    for (size_t i = 0; i < COUNT; i++) {
        objects[i] = slab_get(&slab);
        cr_assert_not_null(objects[i]);
        cr_assert_eq((uintptr_t)objects[i] % 16, 0);
        for (size_t k = 0; k < SIZE; k++)
            cr_assert_eq(objects[i][k], 0, "zeroed when it is new");
        memset(objects[i], (int)i, SIZE);
    }
    cr_assert_eq(slab.used, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t k = 0; k < SIZE; k++)
            cr_assert_eq(objects[i][k], (unsigned char)i, "another object lies on top");
    }
    slab_put(&slab, objects[500]);
    cr_assert_eq(slab_get(&slab), objects[500], "the last one put back is handed out first");
    for (size_t i = 0; i < COUNT; i++)
        slab_put(&slab, objects[i]);
    cr_assert_eq(slab.used, 0);
    slab_finish(&slab);
    slab_finish(&slab);
}

Test(slab, memory_stays_what_it_was)
{
    struct slab slab;
    slab_init(&slab, 64);
    uint64_t *object = slab_get(&slab);
    object[3] = 42; /* like an op's generation, which has to survive slab_put */
    slab_put(&slab, object);
    cr_assert_eq(slab_get(&slab), object);
    cr_assert_eq(object[3], 42);
    slab_finish(&slab);
}
