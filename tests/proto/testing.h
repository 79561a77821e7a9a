/* A pseudo-random sequence for the tests of this folder, the same in each run. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct test_random {
    uint64_t state;
};

static inline uint32_t test_random_u32(struct test_random *random)
{
    /* splitmix64 */
    uint64_t z = random->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static inline size_t test_random_below(struct test_random *random, size_t limit)
{
    return test_random_u32(random) % limit;
}

static inline void test_random_bytes(struct test_random *random, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)test_random_u32(random);
}
