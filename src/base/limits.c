#include "base/limits.h"

#ifdef LIMITS_FROM_ENVIRONMENT
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

#define VARIABLE "RATHOLE_URING_LIMITS"

#define LIMITS_ROW(member, constant) .member = limits_##member,
struct limits limits = {LIMITS_ADJUSTABLE(LIMITS_ROW)};
#undef LIMITS_ROW

struct row {
    const char *name;
    size_t offset; /* in struct limits */
    unsigned int most;
};

#define LIMITS_ROW(member, constant) {#member, offsetof(struct limits, member), limits_##member},
static const struct row rows[] = {LIMITS_ADJUSTABLE(LIMITS_ROW)};
#undef LIMITS_ROW

static const struct row *row_of(const char *name, size_t size)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (strlen(rows[i].name) == size && memcmp(rows[i].name, name, size) == 0)
            return &rows[i];
    }
    return NULL;
}

/* Takes one "name=value" of this size. False: it is none. */
static bool adjust_one(struct limits *adjusted, const char *text, size_t size)
{
    const char *equals = memchr(text, '=', size);
    const struct row *row = equals == NULL ? NULL : row_of(text, (size_t)(equals - text));
    if (row == NULL || !isdigit((unsigned char)equals[1]))
        return false;
    char *end;
    errno = 0;
    unsigned long value = strtoul(equals + 1, &end, 10);
    if (end != text + size || errno != 0 || value == 0 || value > row->most)
        return false;
    unsigned int limit = (unsigned int)value;
    memcpy((char *)adjusted + row->offset, &limit, sizeof(limit));
    return true;
}

int limits_adjust(const char *text, char *problem, size_t problem_size)
{
    struct limits adjusted = limits;
    while (text != NULL) {
        size_t size = strcspn(text, ",");
        if (!adjust_one(&adjusted, text, size)) {
            (void)snprintf(problem, problem_size,
                           VARIABLE ": \"%.*s\" is not a limit's name=value between 1 and "
                                    "its real value",
                           (int)MIN(size, (size_t)64), text);
            return -EINVAL;
        }
        text = text[size] == ',' ? text + size + 1 : NULL;
    }
    limits = adjusted;
    return 0;
}

int limits_from_environment(char *problem, size_t problem_size)
{
    return limits_adjust(getenv(VARIABLE), problem, problem_size);
}
#endif
