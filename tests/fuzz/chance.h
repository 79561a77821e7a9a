/* Random numbers that follow from a seed, in the place of libsodium's: nonces and keys are the same each
 * time that an input runs. */
#pragma once

#include <sodium.h>
#include <stdint.h>

static uint64_t chance_state;

static inline uint32_t chance_next(void)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(chance_state >> 32);
}

static inline const char *chance_name(void)
{
    return "chance";
}

static inline void chance_fill(void *out, size_t size)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(chance_next() >> 24);
}

/* Before anything that takes random numbers, and so before keys_init. */
static inline void chance_begin(uint64_t seed)
{
    static randombytes_implementation chance = {.implementation_name = chance_name,
                                                .random = chance_next,
                                                .buf = chance_fill};
    int r = randombytes_set_implementation(&chance);
    (void)r; /* it is always 0 */
    chance_state = seed;
}
