#include "app/log_filter.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/macros.h"

enum { WORD_SIZE = 32 }; /* longer than every word that is understood */

/* Copies a word of the filter without the spaces around it. A word that is too long becomes "": it
 * can't be one that is understood. */
static const char *copy_word(const char *from, size_t size, char out[static WORD_SIZE])
{
    while (size > 0 && *from == ' ') {
        from++;
        size--;
    }
    while (size > 0 && from[size - 1] == ' ')
        size--;
    (void)snprintf(out, WORD_SIZE, "%.*s", size < WORD_SIZE ? (int)size : 0, from);
    return out;
}

static bool level_of(const char *word, enum log_level *ret)
{
    for (int level = 0; level < LOG_LEVEL_COUNT; level++) {
        if (strcasecmp(word, log_level_name((enum log_level)level)) == 0) {
            *ret = (enum log_level)level;
            return true;
        }
    }
    *ret = LOG_ERROR;
    return strcasecmp(word, "off") == 0;
}

static bool is_own_name(const char *word)
{
    return strcmp(word, "rathole") == 0 || strcmp(word, "rathole_uring") == 0;
}

/* "level", "target=level", or "target", which means every level. False: the directive is not for
 * this program. *ret_is_exact: it names this program. */
static bool read_directive(const char *text, size_t size, bool *ret_is_exact, enum log_level *ret)
{
    char name[WORD_SIZE], word[WORD_SIZE];
    const char *equals = memchr(text, '=', size);
    size_t name_size = equals != NULL ? (size_t)(equals - text) : size;
    (void)copy_word(text, name_size, name);
    *ret_is_exact = is_own_name(name);
    if (equals == NULL) {
        *ret = LOG_TRACE;
        return *ret_is_exact || level_of(name, ret);
    }
    return *ret_is_exact && level_of(copy_word(equals + 1, size - name_size - 1, word), ret);
}

void log_filter_level(const char *filter, enum log_level *level)
{
    bool has_exact = false;
    for (const char *at = filter; *at != '\0';) {
        size_t size = strcspn(at, ",");
        bool is_exact;
        enum log_level found;
        if (read_directive(at, size, &is_exact, &found) && (is_exact || !has_exact)) {
            *level = found;
            has_exact |= is_exact;
        }
        at += size + (at[size] == ',');
    }
}
