/* What the rigs of the unit tests (tests/support, tests/relay) need of Criterion, for a fuzz target
 * that uses them: a check that fails ends the program, and the fuzzer keeps the input. */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"

PRINTF_FORMAT(4, 5)
static inline _Noreturn void shim_fail(const char *file, int line, const char *check,
                                       const char *format, ...)
{
    va_list args;
    (void)fprintf(stderr, "%s:%d: not true: %s:", file, line, check);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    abort();
}

#define cr_assert(condition, ...) \
    ((condition) ? (void)0 : shim_fail(__FILE__, __LINE__, #condition, " " __VA_ARGS__))
#define cr_assert_fail(...)            shim_fail(__FILE__, __LINE__, "never", " " __VA_ARGS__)
#define cr_assert_not(value, ...)      cr_assert(!(value), __VA_ARGS__)
#define cr_assert_null(value, ...)     cr_assert((value) == NULL, __VA_ARGS__)
#define cr_assert_not_null(value, ...) cr_assert((value) != NULL, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)        cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...)       cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...)        cr_assert((a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...)       cr_assert((a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...)        cr_assert((a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...)       cr_assert((a) >= (b), __VA_ARGS__)
