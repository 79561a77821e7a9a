#include "base/numbers.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static uint64_t numbers[3];
static const char *end;

static size_t parse(const char *text)
{
    return numbers_parse(text, numbers, 3, &end);
}

Test(numbers, separated_by_one_byte_each)
{
    cr_assert_eq(parse("6.12.44-amd64"), 3);
    cr_assert_eq(numbers[0], 6);
    cr_assert_eq(numbers[1], 12);
    cr_assert_eq(numbers[2], 44);
    cr_assert_str_eq(end, "-amd64");
    cr_assert_eq(parse("32768\t60999\n"), 2);
    cr_assert_str_eq(end, "\n");
    cr_assert_eq(parse("7"), 1);
    cr_assert_str_eq(end, "");
}

Test(numbers, other_texts)
{
    cr_assert_eq(parse(""), 0);
    cr_assert_eq(parse("max 100000"), 0);
    cr_assert_str_eq(end, "max 100000");
    cr_assert_eq(parse("-1"), 0);
    cr_assert_eq(parse("+1"), 0);
    cr_assert_eq(parse(" 1"), 0);
    cr_assert_eq(parse("1  2"), 1);
    cr_assert_eq(parse("1 2 3 4"), 3);
    cr_assert_str_eq(end, " 4");
}

Test(numbers, the_largest)
{
    cr_assert_eq(parse("18446744073709551615"), 1);
    cr_assert_eq(numbers[0], UINT64_MAX);
    cr_assert_eq(parse("1 18446744073709551616"), 1);
    cr_assert_str_eq(end, " 18446744073709551616");
}

Test(numbers, of_a_file)
{
    char path[] = "/tmp/test_numbers.XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "16384\n", 6), 6);
    (void)close(fd);
    cr_assert_eq(numbers_read(path, numbers, 3), 1);
    cr_assert_eq(numbers[0], 16384);
    (void)unlink(path);
    cr_assert_eq(numbers_read(path, numbers, 3), 0);
}
