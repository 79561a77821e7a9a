/* The parsers of values that are numbers: counts, durations, rates. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "number_priv.h"
#include "options_priv.h"
#include "report_priv.h"
#include "text_priv.h"

/* Writes a bound in ms as seconds, without trailing zeros. */
static const char *format_seconds(int64_t ms, char *out, size_t out_size)
{
    int length = snprintf(out, out_size, "%" PRId64 ".%03" PRId64, ms / 1000, ms % 1000);
    while (length > 0 && out[length - 1] == '0')
        out[--length] = '\0';
    if (length > 0 && out[length - 1] == '.')
        out[--length] = '\0';
    return out;
}

/* True if the number is within its bounds, or was clamped to them (OPTION_CLAMP), with a
 * warning. */
static bool fit(struct option_value *value, int64_t *number, bool is_ms)
{
    const struct option *option = value->option;
    int64_t fitting = MIN(MAX(*number, option->min), option->max);
    if (fitting == *number)
        return true;
    if ((option->flags & OPTION_CLAMP) == 0)
        return false;
    char echo[REPORT_ECHO_SIZE];
    (void)snprintf(value->problem, value->problem_size, "%s is read as %" PRId64,
                   text_escape(value->text, echo, sizeof echo), is_ms ? fitting / 1000 : fitting);
    *number = fitting;
    return true;
}

static int parse_seconds(struct option_value *value, unsigned int fraction_digits, uint32_t *ret)
{
    const struct option *option = value->option;
    int64_t number;
    bool is_number = number_parse(value->text, fraction_digits, &number);
    if (is_number && fraction_digits == 0)
        number *= LIMIT_SECOND_MS;
    if (!is_number || !fit(value, &number, true)) {
        char expected[80], min[24], max[24];
        const char *point = fraction_digits > 0 && !is_number ? strchr(value->text, '.') : NULL;
        bool is_too_fine = point != NULL && strlen(&point[1]) > fraction_digits;
        (void)snprintf(expected, sizeof expected, "%s from %s to %s%s",
                       fraction_digits == 0 ? "whole seconds" : "seconds",
                       format_seconds(option->min, min, sizeof min),
                       format_seconds(option->max, max, sizeof max),
                       is_too_fine ? " with up to 3 decimals" : "");
        return value_refuse(value, expected);
    }
    *ret = (uint32_t)number;
    return 0;
}

int value_seconds(struct option_value *value, void *target)
{
    return parse_seconds(value, 0, target);
}

int value_seconds_fraction(struct option_value *value, void *target)
{
    return parse_seconds(value, 3, target);
}

static int value_parse_number(struct option_value *value, const char *or_word, uint32_t *ret)
{
    const struct option *option = value->option;
    int64_t number;
    if (!number_parse(value->text, 0, &number) || !fit(value, &number, false)) {
        char expected[80];
        (void)snprintf(expected, sizeof expected, "a number from %" PRId64 " to %" PRId64 "%s",
                       option->min, option->max, or_word);
        return value_refuse(value, expected);
    }
    *ret = (uint32_t)number;
    return 0;
}

int value_number(struct option_value *value, void *target)
{
    return value_parse_number(value, "", target);
}

int value_number_or_auto(struct option_value *value, void *target)
{
    if (strcmp(value->text, "auto") != 0)
        return value_parse_number(value, " or auto", target);
    *(uint32_t *)target = 0;
    return 0;
}

/* Bits per second with a decimal unit: 500k, 1.5M, 100M, 1G. 0 is always taken. */
int value_bandwidth(struct option_value *value, void *target)
{
    static const struct {
        char name;
        int64_t factor;
    } units[] = {{'k', 1000}, {'K', 1000}, {'M', 1000000}, {'G', 1000000000}, {'T', 1000000000000}};
    enum { DIGITS_MAX = 31, THOUSANDTHS = 1000 };
    const struct option *option = value->option;
    char digits[DIGITS_MAX + 1];
    size_t size = strlen(value->text);
    int64_t number, factor = 1;
    for (size_t i = 0; i < ARRAY_SIZE(units) && size > 0 && factor == 1; i++)
        factor = value->text[size - 1] == units[i].name ? units[i].factor : 1;
    size -= factor > 1;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)MIN(size, (size_t)DIGITS_MAX), value->text);
    bool is_number = size <= DIGITS_MAX && number_parse(digits, 3, &number) &&
                     number <= option->max * THOUSANDTHS / factor;
    int64_t bits = is_number ? number * factor / THOUSANDTHS : -1;
    if (bits != 0 && (bits < option->min || bits > option->max))
        return value_refuse(value, "bits per second from 8k to 1T, as 500k, 100M or 1G; or 0");
    *(uint64_t *)target = (uint64_t)bits;
    return 0;
}
