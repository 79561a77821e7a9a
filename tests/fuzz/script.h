/* An input read as a script: small numbers and pieces of bytes, in the order in which they are asked
 * for. After the end of the input all numbers are 0 and all pieces are empty. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct script {
    const uint8_t *at;
    size_t left;
};

static inline bool script_is_over(const struct script *script)
{
    return script->left == 0;
}

static inline uint8_t script_byte(struct script *script)
{
    if (script->left == 0)
        return 0;
    script->left--;
    return *script->at++;
}

/* From 0 to below - 1. */
static inline unsigned int script_below(struct script *script, unsigned int below)
{
    return script_byte(script) % below;
}

static inline unsigned int script_u16(struct script *script)
{
    unsigned int low = script_byte(script);
    return low | (unsigned int)script_byte(script) << 8;
}

/* A piece of at most `max` bytes, whose length is the script's next byte. */
static inline const uint8_t *script_piece(struct script *script, size_t max, size_t *ret_size)
{
    size_t size = script_byte(script);
    const uint8_t *piece = script->at;
    size = size < max ? size : max;
    size = size < script->left ? size : script->left;
    script->at += size;
    script->left -= size;
    *ret_size = size;
    return piece;
}
