#include "number_priv.h"

#include <ctype.h>
#include <stddef.h>

static int digit_of(char c, int base)
{
    int digit = isdigit((unsigned char)c)    ? c - '0'
                : isxdigit((unsigned char)c) ? (c | 0x20) - 'a' + 10
                                             : base;
    return digit < base ? digit : -1;
}

static void append(int64_t *number, int base, int digit)
{
    *number = *number * base + digit;
    if (*number > NUMBER_LARGEST)
        *number = NUMBER_LARGEST;
}

/* Digits with single underscores between them. Returns the rest of the text; NULL: no digits. */
static const char *read_whole(const char *text, int base, int64_t *number)
{
    if (digit_of(*text, base) < 0)
        return NULL;
    for (; digit_of(*text, base) >= 0; text += text[1] == '_' ? 2 : 1) {
        append(number, base, digit_of(*text, base));
        if (text[1] == '_' && digit_of(text[2], base) < 0)
            return NULL;
    }
    return text;
}

static int base_of(const char *text)
{
    if (text[0] != '0')
        return 10;
    return text[1] == 'x' ? 16 : text[1] == 'o' ? 8 : text[1] == 'b' ? 2 : 10;
}

bool number_parse(const char *text, unsigned int fraction_digits, int64_t *ret)
{
    int64_t number = 0;
    int base = base_of(text);
    text += base != 10 ? 2 : *text == '+' ? 1 : 0;
    text = read_whole(text, base, &number);
    if (text == NULL)
        return false;
    if (*text == '.' && base == 10 && fraction_digits > 0 && isdigit((unsigned char)text[1]))
        for (text++; fraction_digits > 0 && isdigit((unsigned char)*text); fraction_digits--)
            append(&number, 10, digit_of(*text++, 10));
    for (; fraction_digits > 0; fraction_digits--)
        append(&number, 10, 0);
    *ret = number;
    return *text == '\0';
}
