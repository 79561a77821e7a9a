#include "base/limits.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

/* In a release build there is nothing to test: the names are constants. */
#ifdef LIMITS_FROM_ENVIRONMENT

/* Each test is a process of its own, so nothing has to be put back. */

static char problem[200];

Test(limits, start_at_their_constants)
{
    cr_expect_eq(LIMIT_LOGIN_MS, 15000);
    cr_expect_eq(LIMIT_LOGIN_MS, limits_login_ms);
    cr_expect_eq(limits_adjust(NULL, problem, sizeof(problem)), 0);
    cr_expect_eq(LIMIT_LOGIN_MS, 15000);
}

/* A row of the table and a macro that names another member would go unnoticed otherwise. */
Test(limits, each_name_is_its_own)
{
#define LIMITS_ROW(member, constant)                                                       \
    cr_expect_eq(limits_adjust(#member "=1", problem, sizeof(problem)), 0, "%s", problem); \
    cr_expect_eq(constant, 1, #member);                                                    \
    cr_expect_eq(limits.member, 1, #member);                                               \
    limits.member = limits_##member;                                                       \
    cr_expect_eq(constant, (unsigned int)limits_##member, #member);
    LIMITS_ADJUSTABLE(LIMITS_ROW)
#undef LIMITS_ROW
}

Test(limits, several_are_taken)
{
    cr_expect_eq(limits_adjust("login_ms=700,sweep_ms=1000,retry_min_ms=1", problem, 10), 0);
    cr_expect_eq(LIMIT_LOGIN_MS, 700);
    cr_expect_eq(LIMIT_SWEEP_MS, 1000, "the real value is one as well");
    cr_expect_eq(LIMIT_RETRY_MIN_MS, 1);
    cr_expect_eq(LIMIT_SILENT_MS, limits_silent_ms, "the others stay");
}

Test(limits, what_is_wrong_changes_nothing)
{
    static const char *const wrong[] = {
        "",
        ",",
        "login_ms",
        "login_ms=",
        "login_ms=x",
        "login_ms=1x",
        "login_ms=0",
        "login_ms=-1",
        "login_ms=+1",
        "login_ms= 1",
        "login_ms=15001",
        "login_ms=18446744073709551617",
        "login=1",
        "LOGIN_MS=1",
        "=1",
        " login_ms=1",
        "login_ms=1,",
        "login_ms=1,,sweep_ms=1",
        "login_ms=1,no_such=1",
        "login_ms=1;sweep_ms=1",
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        *problem = '\0';
        cr_expect_eq(limits_adjust(wrong[i], problem, sizeof(problem)), -EINVAL, "%s", wrong[i]);
        cr_expect_not_null(strstr(problem, "RATHOLE_URING_LIMITS: \""), "%s", wrong[i]);
        cr_expect_eq(LIMIT_LOGIN_MS, limits_login_ms, "%s", wrong[i]);
        cr_expect_eq(LIMIT_SWEEP_MS, limits_sweep_ms, "%s", wrong[i]);
    }
}

Test(limits, the_problem_names_the_part)
{
    char text[300];
    (void)snprintf(text, sizeof(text), "login_ms=1,%0200d", 7);
    cr_expect_eq(limits_adjust("login_ms=1,what=2,sweep_ms=1", problem, sizeof(problem)), -EINVAL);
    cr_expect_not_null(strstr(problem, "\"what=2\""), "%s", problem);
    cr_expect_eq(limits_adjust(text, problem, 40), -EINVAL);
    cr_expect_lt(strlen(problem), 40);
}

#endif
