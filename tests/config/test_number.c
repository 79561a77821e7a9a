#include <criterion/criterion.h>

#include "base/macros.h"
#include "number_priv.h"

Test(number, whole)
{
    static const struct {
        const char *text;
        int64_t expected;
    } rows[] = {
        {"0", 0},
        {"30", 30},
        {"007", 7},
        {"+30", 30},
        {"1_000", 1000},
        {"1_2_3", 123},
        {"0x1e", 30},
        {"0x1E", 30},
        {"0xdead_beef", 0xdeadbeef},
        {"0o36", 30},
        {"0b1_1110", 30},
        {"9007199254740992", NUMBER_LARGEST},
        {"9007199254740993", NUMBER_LARGEST},
        {"99999999999999999999999999999999999999", NUMBER_LARGEST},
        {"0xffffffffffffffffffffffffffffffffffff", NUMBER_LARGEST},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int64_t number = -1;
        cr_expect(number_parse(rows[i].text, 0, &number), "%s", rows[i].text);
        cr_expect_eq(number, rows[i].expected, "%s", rows[i].text);
    }
}

Test(number, fractions)
{
    static const struct {
        const char *text;
        int64_t expected;
    } rows[] = {
        {"5", 5000},      {"0.5", 500},    {"1.005", 1005}, {"+2.50", 2500},
        {"1_0.1", 10100}, {"0x10", 16000}, {"0.000", 0},    {"9007199254740992", NUMBER_LARGEST},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int64_t number = -1;
        cr_expect(number_parse(rows[i].text, 3, &number), "%s", rows[i].text);
        cr_expect_eq(number, rows[i].expected, "%s", rows[i].text);
    }
}

Test(number, none)
{
    static const char *const texts[] = {
        "",     " ",      "-1",   "+",    "++1",   "+-1",  "1 ",   " 1",    "1x",   "_1",  "1_",
        "1__0", "0x",     "0x_1", "0x1_", "0xg",   "0o8",  "0b2",  "+0x1",  "0X1",  "1e3", "0_x1",
        "inf",  "1.0005", ".5",   "5.",   "1.2.3", "1._5", "1_.5", "0x1.5", "true",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        int64_t number;
        cr_expect_not(number_parse(texts[i], 3, &number), "%s", texts[i]);
    }
    int64_t number;
    cr_expect_not(number_parse("1.5", 0, &number));
}
