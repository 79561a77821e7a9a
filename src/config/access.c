#include "access_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "report_priv.h"
#include "secret_priv.h"
#include "text_priv.h"

/* A list while it is parsed: the value of a key, or the file that it names. */
struct list_source {
    struct option_value *value;
    struct config_access *access;
    bool is_denied;
    const char *file; /* NULL: the value itself */
    unsigned int line;
};

/* Begins a message: with the place in the file, if it is one. */
static int list_refuse(const struct list_source *source, const char *text)
{
    struct option_value *value = source->value;
    char echo[REPORT_ECHO_SIZE];
    if (source->file == NULL)
        (void)snprintf(value->problem, value->problem_size, "%s", text);
    else if (source->line == 0)
        (void)snprintf(value->problem, value->problem_size, "\"%s\": %s",
                       text_escape(source->file, echo, sizeof echo), text);
    else
        (void)snprintf(value->problem, value->problem_size, "%s:%u: %s",
                       text_escape(source->file, echo, sizeof echo), source->line, text);
    return ERR_CONFIG;
}

static int list_add(struct config_access *access, const struct cidr *prefix)
{
    if (access->count == access->capacity) {
        size_t capacity = MAX(2 * access->capacity, (size_t)16);
        struct cidr *prefixes = realloc(access->prefixes, capacity * sizeof *prefixes);
        if (prefixes == NULL)
            return -ENOMEM;
        access->prefixes = prefixes;
        access->capacity = capacity;
    }
    access->prefixes[access->count++] = *prefix;
    return 0;
}

/* Adds an address or a prefix. Bits behind its length are refused: it is not clear whether the one
 * address was meant or all of them. */
static int take_prefix(const struct list_source *source, const char *text, size_t size)
{
    struct cidr prefix;
    char problem[256], echo[REPORT_ECHO_SIZE], meant[CIDR_TEXT_SIZE];
    int result = cidr_parse(text, size, &prefix);
    prefix.is_denied = source->is_denied;
    if (result == 0 && source->access->count < LIMIT_ACCESS_PREFIXES)
        return list_add(source->access, &prefix);
    if (result == 0) {
        (void)snprintf(problem, sizeof problem, "more than %d prefixes", LIMIT_ACCESS_PREFIXES);
        return list_refuse(source, problem);
    }
    CLEANUP_FREE char *copy = strndup(text, MIN(size, (size_t)REPORT_ECHO_SIZE));
    if (copy == NULL)
        return -ENOMEM;
    (void)text_escape(copy, echo, sizeof echo);
    if (result == -EDOM)
        (void)snprintf(problem, sizeof problem,
                       "\"%s\" has bits behind its length: %s, or the address alone?", echo,
                       cidr_format(&prefix, meant));
    else
        (void)snprintf(problem, sizeof problem,
                       "expected an address or a prefix (10.0.0.0/8)%s, got \"%s\"",
                       source->file == NULL ? " or file:PATH" : "", echo);
    return list_refuse(source, problem);
}

static bool is_list_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Moves *text to the first byte that is not blank, and returns the size without blanks behind. */
static size_t trim_list_item(const char **text, size_t size)
{
    while (size > 0 && is_list_blank(**text)) {
        (*text)++;
        size--;
    }
    while (size > 0 && is_list_blank((*text)[size - 1]))
        size--;
    return size;
}

/* One address or prefix a line, and comments. */
static int take_lines(struct list_source *source, const char *text, size_t size)
{
    const char *end = text + size;
    int result = 0;
    while (text < end && result == 0) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline != NULL ? newline : end, *at = text;
        const char *comment = memchr(text, '#', (size_t)(line_end - text));
        size_t length = (size_t)((comment != NULL ? comment : line_end) - text);
        source->line++;
        length = trim_list_item(&at, length);
        if (length > 0)
            result = take_prefix(source, at, length);
        text = newline != NULL ? newline + 1 : end;
    }
    return result;
}

static int take_file(const struct list_source *list, const char *text, size_t size)
{
    struct option_value *value = list->value;
    struct list_source source = *list;
    struct secret_file file;
    CLEANUP_FREE char *given = strndup(text, size), *path = NULL;
    if (given == NULL)
        return -ENOMEM;
    int result = secret_path_copy(given, &path, value->problem, value->problem_size);
    if (result < 0)
        return result;
    source.file = path;
    result = secret_file_read(path, LIMIT_ACCESS_FILE, &file);
    if (result == -ENOMEM)
        return result;
    if (result == -EFBIG) {
        char problem[64];
        (void)snprintf(problem, sizeof problem, "the file is larger than %d MiB",
                       LIMIT_ACCESS_FILE >> 20);
        return list_refuse(&source, problem);
    }
    if (result < 0)
        return list_refuse(&source, result == -EILSEQ ? "the file is UTF-16; save it as UTF-8"
                                                      : error_text(result));
    size_t count = source.access->count;
    result = take_lines(&source, file.text, file.size);
    secret_file_finish(&file);
    source.line = 0;
    /* A file that is being written, or a script that failed? Who means nobody says so in deny. */
    if (result == 0 && !source.is_denied && source.access->count == count)
        return list_refuse(&source, "the file has no address in it, so nobody could come");
    if (result == 0 && source.access->count == count)
        (void)list_refuse(&source, "the file has no address in it, so it denies nobody");
    return result;
}

static int take_list(struct option_value *value, struct config_access *access, bool is_denied)
{
    static const char prefix[] = "file:";
    const struct list_source source = {.value = value, .access = access, .is_denied = is_denied};
    const char *at = value->text;
    for (;;) {
        const char *item = at;
        size_t size = strcspn(at, ","), length = trim_list_item(&item, size);
        int result =
            strncmp(item, prefix, sizeof prefix - 1) == 0
                ? take_file(&source, item + sizeof prefix - 1, length - (sizeof prefix - 1))
                : take_prefix(&source, item, length);
        if (result < 0 || at[size] == '\0')
            return result;
        at += size + 1;
    }
}

int value_allow(struct option_value *value, void *target)
{
    struct config_access *access = target;
    access->has_allow = true;
    return take_list(value, access, false);
}

/* An empty list denies nobody. */
int value_deny(struct option_value *value, void *target)
{
    if (*value->text != '\0')
        return take_list(value, target, true);
    value->is_void = true;
    (void)snprintf(value->problem, value->problem_size, "is empty and counts as not given");
    return 0;
}

int config_access_settle(struct config_access *access)
{
    int result = 0;
    if (access->has_allow || access->count > 0)
        result = cidr_set_create(access->prefixes, access->count, !access->has_allow, &access->set);
    free(access->prefixes);
    access->prefixes = NULL;
    access->count = access->capacity = 0;
    return result;
}

void config_access_share(struct config_access *access)
{
    (void)cidr_set_use(access->set);
}

void config_access_finish(struct config_access *access)
{
    free(access->prefixes);
    cidr_set_drop(access->set);
    *access = (struct config_access){0};
}
