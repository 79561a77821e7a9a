/* Numbers as text: lists of digits (base/numbers.h), and the forms of a configuration file
 * (config/number_priv.h), against slower readings of the same text. The first byte says how many
 * digits may stand behind a point. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/numbers.h"
#include "fuzz.h"
#include "number_priv.h"

enum { TEXT_MAX = 256, NUMBERS = 4 };

static void check_list(const char *text)
{
    uint64_t numbers[NUMBERS] = {0};
    const char *end = NULL, *at = text;
    size_t count = numbers_parse(text, numbers, NUMBERS, &end);
    FUZZ_CHECK(count <= NUMBERS && end >= text && end <= text + strlen(text));
    for (size_t i = 0; i < count; i++) {
        char again[32];
        while (*at == '0' && isdigit((unsigned char)at[1]))
            at++;
        size_t size =
            (size_t)snprintf(again, sizeof(again), "%llu", (unsigned long long)numbers[i]);
        FUZZ_CHECK(strncmp(at, again, size) == 0);
        at += size;
        FUZZ_CHECK(i + 1 < count || at == end);
        at++;
    }
    FUZZ_CHECK(count > 0 || end == text);
}

/* The text without single underscores between digits of the base; false: others are in it. */
static bool strip(const char *text, int base, char *out)
{
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (text[i] != '_') {
            *out++ = text[i];
            continue;
        }
        char pair[2] = {0}, *end;
        pair[0] = text[i + 1];
        if (i == 0 || text[i - 1] == '_' || !isxdigit((unsigned char)text[i - 1]) ||
            !isxdigit((unsigned char)text[i + 1]))
            return false;
        (void)strtol(pair, &end, base);
        if (end == pair)
            return false;
    }
    *out = '\0';
    return true;
}

/* A whole number, as strtoull(3) reads it; -1: none. */
static int64_t model(const char *text)
{
    char digits[TEXT_MAX], *end;
    int base = 10;
    if (text[0] == '0' && text[1] != '\0' && strchr("xob", text[1]) != NULL) {
        base = text[1] == 'x' ? 16 : text[1] == 'o' ? 8 : 2;
        text += 2;
    } else if (*text == '+') {
        text++;
    }
    if (!strip(text, base, digits) || !isxdigit((unsigned char)digits[0]))
        return -1;
    /* strtoull takes a second prefix. */
    if (digits[0] == '0' && digits[1] != '\0' &&
        strchr(base == 16  ? "xX"
               : base == 2 ? "bB"
                           : "",
               digits[1]) != NULL)
        return -1;
    errno = 0;
    unsigned long long value = strtoull(digits, &end, base);
    if (end == digits || *end != '\0')
        return -1;
    return errno != 0 || value > (unsigned long long)NUMBER_LARGEST ? NUMBER_LARGEST
                                                                    : (int64_t)value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[TEXT_MAX];
    int64_t whole = -1, number = -1;
    if (size == 0 || size > sizeof(text))
        return 0;
    unsigned int fraction_digits = data[0] % 4;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    check_list(text);
    bool is_whole = number_parse(text, 0, &whole);
    FUZZ_CHECK(is_whole == (model(text) >= 0));
    FUZZ_CHECK(!is_whole || whole == model(text));
    bool is_number = number_parse(text, fraction_digits, &number);
    FUZZ_CHECK(is_number || !is_whole);
    FUZZ_CHECK(!is_number || (number >= 0 && number <= NUMBER_LARGEST));
    for (unsigned int i = 0; i < fraction_digits && is_whole; i++)
        whole = whole > NUMBER_LARGEST / 10 ? NUMBER_LARGEST : whole * 10;
    FUZZ_CHECK(!is_whole || number == whole);
    return 0;
}
