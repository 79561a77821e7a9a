#include "base/host_name.h"

#include <errno.h>
#include <stdbool.h>

static bool is_host_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

int host_name_canonical(const char *text, size_t size, char out[static HOST_NAME_SIZE])
{
    enum { LABEL_MAX = 63 };
    size_t label = 0;
    if (size > 0 && text[size - 1] == '.')
        size--;
    if (size == 0 || size >= HOST_NAME_SIZE)
        return -EINVAL;
    for (size_t i = 0; i < size; i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] - 'A' + 'a') : text[i];
        bool ends_label = c == '.';
        if (ends_label ? label == 0 : !is_host_byte(c) || label == LABEL_MAX)
            return -EINVAL;
        label = ends_label ? 0 : label + 1;
        out[i] = c;
    }
    out[size] = '\0';
    return label > 0 ? 0 : -EINVAL;
}
