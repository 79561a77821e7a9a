#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "text_priv.h"

size_t utf8_length(const char *text, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    if (size == 0)
        return 0;
    if (bytes[0] < 0x80)
        return 1;
    size_t length = bytes[0] < 0xc2   ? 0
                    : bytes[0] < 0xe0 ? 2
                    : bytes[0] < 0xf0 ? 3
                    : bytes[0] < 0xf5 ? 4
                                      : 0;
    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    /* The second byte tells overlong forms, surrogates and codes beyond U+10FFFF. */
    if ((bytes[0] == 0xe0 && bytes[1] < 0xa0) || (bytes[0] == 0xed && bytes[1] >= 0xa0) ||
        (bytes[0] == 0xf0 && bytes[1] < 0x90) || (bytes[0] == 0xf4 && bytes[1] >= 0x90))
        return 0;
    return length;
}

size_t utf8_encode(uint32_t code_point, char out[static 4])
{
    if (code_point == 0 || code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000))
        return 0;
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {[2] = 0xc0, [3] = 0xe0, [4] = 0xf0};
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    out[0] = (char)(lead[length] | code_point);
    return length;
}

/* Escapes one byte or character into piece (at most 8 bytes). Returns the bytes consumed. */
static size_t escape_unit(const char *text, size_t size, char piece[static 9])
{
    unsigned char byte = (unsigned char)text[0];
    size_t length = utf8_length(text, size);
    bool is_c1 = length == 2 && byte == 0xc2 && (unsigned char)text[1] < 0xa0;
    if (length == 0 || byte < 0x20 || byte == 0x7f) {
        (void)snprintf(piece, 9, "\\x%02x", byte);
        return 1;
    }
    if (is_c1) {
        (void)snprintf(piece, 9, "\\x%02x\\x%02x", byte, (unsigned char)text[1]);
        return 2;
    }
    size_t used = 0;
    if (byte == '"' || byte == '\\')
        piece[used++] = '\\';
    memcpy(piece + used, text, length);
    piece[used + length] = '\0';
    return length;
}

const char *text_escape(const char *text, char *out, size_t out_size)
{
    static const char cut[] = "...";
    assert(out_size > sizeof cut);
    size_t left = strlen(text), used = 0, safe = 0;
    while (left > 0) {
        char piece[9];
        size_t consumed = escape_unit(text, left, piece);
        size_t piece_size = strlen(piece);
        if (used + piece_size >= out_size) {
            memcpy(out + safe, cut, sizeof cut);
            return out;
        }
        memcpy(out + used, piece, piece_size);
        used += piece_size;
        text += consumed;
        left -= consumed;
        /* Up to here "..." still fits. */
        if (used + sizeof cut <= out_size)
            safe = used;
    }
    out[used] = '\0';
    return out;
}
