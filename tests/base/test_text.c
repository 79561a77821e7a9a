#include "base/text.h"

#include <criterion/criterion.h>
#include <string.h>

enum { MAX_SIZE = 100000 };

Test(text, grows)
{
    struct text text;
    text_init(&text, MAX_SIZE);
    for (unsigned int i = 0; i < 10000; i++)
        text_printf(&text, "%05u\n", i);
    cr_assert_not(text.failed);
    cr_assert_eq(text.len, 60000);
    cr_assert_eq(memcmp(text.bytes + 6 * 1234, "01234\n", 6), 0);
    text_finish(&text);
}

Test(text, a_long_piece_is_whole)
{
    static char piece[20000];
    struct text text;
    memset(piece, 'x', sizeof(piece) - 1);
    text_init(&text, MAX_SIZE);
    text_printf(&text, "<%s>", piece);
    text_puts(&text, "end");
    cr_assert_not(text.failed);
    cr_assert_eq(text.len, sizeof(piece) - 1 + 5);
    cr_assert_eq(memcmp(text.bytes + text.len - 4, ">end", 4), 0);
    text_finish(&text);
}

Test(text, stops_at_its_limit)
{
    struct text text;
    text_init(&text, 1000);
    for (unsigned int i = 0; i < 1000; i++)
        text_puts(&text, "0123456789");
    cr_assert(text.failed);
    cr_assert_eq(text.len, 1000);
    text_puts(&text, "");
    cr_assert_eq(text.len, 1000);
    text_finish(&text);
    cr_assert_eq(text.bytes, NULL);
}
