#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM_MIN = 4096 };

void text_finish(struct text *text)
{
    free(text->bytes);
    *text = (struct text){.max = text->max};
}

static bool reserve(struct text *text, size_t len)
{
    size_t room = text->room != 0 ? text->room : ROOM_MIN;
    if (text->failed || len > text->max - text->len) {
        text->failed = true;
        return false;
    }
    while (room < text->len + len)
        room *= 2;
    if (room == text->room)
        return true;
    char *bytes = realloc(text->bytes, room);
    text->failed = bytes == NULL;
    if (text->failed)
        return false;
    text->bytes = bytes;
    text->room = room;
    return true;
}

void text_put(struct text *text, const void *bytes, size_t len)
{
    if (!reserve(text, len))
        return;
    memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
}

void text_puts(struct text *text, const char *string)
{
    text_put(text, string, strlen(string));
}

void text_printf(struct text *text, const char *format, ...)
{
    enum { GUESS = 128 };
    va_list args;
    if (!reserve(text, GUESS))
        return;
    size_t left = text->room - text->len;
    va_start(args, format);
    int len = vsnprintf(text->bytes + text->len, left, format, args);
    va_end(args);
    if (len >= 0 && (size_t)len >= left && reserve(text, (size_t)len + 1)) {
        va_start(args, format);
        len = vsnprintf(text->bytes + text->len, text->room - text->len, format, args);
        va_end(args);
    }
    if (len < 0)
        text->failed = true;
    if (!text->failed)
        text->len += (size_t)len;
}
