#include "base/host_name.h"

#include <criterion/criterion.h>
#include <string.h>

static const char *form_of(const char *text)
{
    static char out[HOST_NAME_SIZE];
    return host_name_canonical(text, strlen(text), out) == 0 ? out : NULL;
}

Test(host_name, names_have_one_form)
{
    cr_expect_str_eq(form_of("A.Example.COM"), "a.example.com");
    cr_expect_str_eq(form_of("a.example.com."), "a.example.com");
    cr_expect_str_eq(form_of("localhost"), "localhost");
    cr_expect_str_eq(form_of("_dmarc.xn--bcher-kva.example"), "_dmarc.xn--bcher-kva.example");
    cr_expect_str_eq(form_of("192.0.2.1"), "192.0.2.1");
}

Test(host_name, what_is_none)
{
    static const char *const none[] = {"",      ".",    "a..b", ".a",        "a b", "a/b", "a,b",
                                       "[::1]", "a:80", "*.a",  "b\xc3\xbc", "a\n", "a..", "a@b"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        cr_expect_null(form_of(none[i]), "%s", none[i]);
}

Test(host_name, sizes)
{
    char text[300], out[HOST_NAME_SIZE];
    memset(text, 'a', sizeof(text));
    cr_expect_eq(host_name_canonical(text, 63, out), 0);
    cr_expect_lt(host_name_canonical(text, 64, out), 0);
    for (size_t i = 63; i < sizeof(text); i += 64)
        text[i] = '.';
    cr_expect_eq(host_name_canonical(text, 253, out), 0);
    cr_expect_eq(strlen(out), 253);
    cr_expect_lt(host_name_canonical(text, 254, out), 0);
    text[253] = '.';
    cr_expect_eq(host_name_canonical(text, 254, out), 0, "the dot at the end does not count");
    cr_expect_lt(host_name_canonical("a\0b", 3, out), 0);
}
