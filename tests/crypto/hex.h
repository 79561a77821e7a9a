/* For published vectors, which are in hex. Include Criterion first. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static inline void expect_hex(const uint8_t *bytes, size_t len, const char *hex)
{
    cr_expect_eq(strlen(hex), 2 * len, "%s", hex);
    for (size_t i = 0; i < len; i++) {
        char digits[3];
        (void)snprintf(digits, sizeof(digits), "%02x", bytes[i]);
        cr_expect(strncmp(digits, hex + 2 * i, 2) == 0, "byte %zu of %s", i, hex);
    }
}

/* hex: exactly 2 * len digits. */
static inline void from_hex(const char *hex, uint8_t *ret, size_t len)
{
    cr_assert_eq(strlen(hex), 2 * len, "%s", hex);
    for (size_t i = 0; i < len; i++) {
        unsigned int byte;
        cr_assert_eq(sscanf(hex + 2 * i, "%2x", &byte), 1, "%s", hex);
        ret[i] = (uint8_t)byte;
    }
}
