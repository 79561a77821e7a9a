#include "base/error.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/macros.h"

Test(error, own_codes_have_their_own_texts)
{
    for (int a = ERR_FIRST; a <= ERR_LAST; a++) {
        cr_assert_not_null(error_text(a));
        cr_expect_str_neq(error_text(a), "unknown error");
        for (int b = ERR_FIRST; b < a; b++)
            cr_expect_str_neq(error_text(a), error_text(b));
    }
    cr_expect_str_eq(error_text(ERR_AUTH), "wrong token");
}

Test(error, errno_of_our_own_words)
{
    cr_expect_str_eq(error_text(-ECONNREFUSED), "connection refused");
    cr_expect_str_eq(error_text(-EADDRINUSE), "address in use");
}

Test(error, every_errno_has_a_text)
{
    for (int e = 1; e <= EHWPOISON; e++) {
        if (e == 41 || e == 58) /* Linux has no such errors */
            continue;
        cr_expect_str_neq(error_text(-e), "unknown error", "%d", e);
        cr_expect(strlen(error_text(-e)) > 0, "%d", e);
    }
}

Test(error, never_null)
{
    static const int odd[] = {INT_MIN, INT_MIN + 1,    ERR_FIRST - 1, ERR_LAST + 1, -4096,
                              -4095,   -EHWPOISON - 1, -41,           -58};
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++)
        cr_expect_str_eq(error_text(odd[i]), "unknown error", "%d", odd[i]);
    cr_expect_str_eq(error_text(0), "success");
    cr_expect_str_eq(error_text(37), "success");
    cr_expect_str_eq(error_text(INT_MAX), "success");
}
