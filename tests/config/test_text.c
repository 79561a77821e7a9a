#include <criterion/criterion.h>
#include <string.h>

#include "base/macros.h"
#include "text_priv.h"

Test(text, utf8_length)
{
    static const struct {
        const char *bytes;
        size_t expected;
    } examples[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\xc3\xa9", 2},
        {"\xe2\x82\xac", 3},
        {"\xf0\x9f\x98\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\x80", 0},             /* a continuation byte first */
        {"\xc0\x80", 0},         /* overlong */
        {"\xe0\x9f\xbf", 0},     /* overlong */
        {"\xf0\x8f\xbf\xbf", 0}, /* overlong */
        {"\xed\xa0\x80", 0},     /* a surrogate */
        {"\xf4\x90\x80\x80", 0}, /* beyond U+10FFFF */
        {"\xff", 0},
        {"\xc3", 0}, /* cut off */
        {"\xe2\x82", 0},
        {"\xc3(", 0},
        {"", 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++)
        cr_expect_eq(utf8_length(examples[i].bytes, strlen(examples[i].bytes)),
                     examples[i].expected, "row %zu", i);
}

Test(text, every_code_point_encodes_to_what_is_valid)
{
    for (uint32_t code_point = 0; code_point < 0x110100; code_point++) {
        char bytes[4];
        size_t length = utf8_encode(code_point, bytes);
        bool is_character = code_point > 0 && code_point <= 0x10ffff &&
                            (code_point < 0xd800 || code_point > 0xdfff);
        cr_assert_eq(length > 0, is_character, "U+%04x", code_point);
        if (length > 0)
            cr_assert_eq(utf8_length(bytes, length), length, "U+%04x", code_point);
    }
}

Test(text, escape)
{
    static const struct {
        const char *text, *expected;
    } examples[] = {
        {"", ""},
        {"plain", "plain"},
        {"a\nb\x1b[0m\x7f", "a\\x0ab\\x1b[0m\\x7f"},
        {"say \"x\\y\"", "say \\\"x\\\\y\\\""},
        {"\xc3\xa9\xe2\x82\xac", "\xc3\xa9\xe2\x82\xac"},
        {"\xc2\x9b"
         "31m",
         "\\xc2\\x9b31m"}, /* C1: terminals act on it */
        {"\xff\xc3", "\\xff\\xc3"},
        {"0123456789012345678901234567890", "0123456789012345678901234567890"},
        {"01234567890123456789012345678901", "0123456789012345678901234567..."},
        {"01234567890123456789012345\xe2\x82\xac\xe2\x82\xac", "01234567890123456789012345..."},
    };
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        char out[32];
        cr_expect_str_eq(text_escape(examples[i].text, out, sizeof out), examples[i].expected,
                         "row %zu: %s", i, out);
    }
}
