#include "config/ini_reader.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "crypto/keys.h"
#include "text_priv.h"

enum section_state {
    SECTION_NONE,   /* before the first section */
    SECTION_OPEN,   /* entries are shown */
    SECTION_BROKEN, /* its line was refused: its entries belong to nothing */
};

struct reader {
    const char *at, *end;
    unsigned int line;
    const struct ini_reader_ops *ops;
    void *owner;
    bool is_stopped;
    enum section_state state;

    /* What the handles [sN] and kN = vN stand for that inih has been given last. */
    unsigned int section_handle, entry_handle;
    const char *key, *value;

    char buffer[LIMIT_CONFIG_LINE + 1]; /* the current line, decoded in place */
};

/* Each lex_ function moves *at behind what it has read and returns NULL, or says what is wrong. */

static char *skip_blanks(char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

static bool is_comment(char c)
{
    return c == '#' || c == ';';
}

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

static const char *lex_unicode(char **at, size_t digit_count, char **out)
{
    uint32_t code_point = 0;
    char *in = *at;
    for (size_t i = 0; i < digit_count; i++, in++) {
        if (!isxdigit((unsigned char)*in))
            return "\\u needs 4 and \\U 8 hexadecimal digits";
        int digit = isdigit((unsigned char)*in) ? *in - '0' : (*in | 0x20) - 'a' + 10;
        code_point = code_point << 4 | (uint32_t)digit;
    }
    char bytes[4];
    size_t length = utf8_encode(code_point, bytes);
    if (length == 0)
        return "the escape stands for no character that a text may have";
    memcpy(*out, bytes, length); /* 6 or 10 characters become at most 4 */
    *out += length;
    *at = in;
    return NULL;
}

static const char *lex_escape(char **at, char **out)
{
    static const char letters[] = "btnfr\"\\", meanings[] = "\b\t\n\f\r\"\\";
    char letter = (*at)[1];
    const char *found = letter != '\0' ? strchr(letters, letter) : NULL;
    *at += letter != '\0' ? 2 : 1;
    if (letter == 'u' || letter == 'U')
        return lex_unicode(at, letter == 'u' ? 4 : 8, out);
    if (found == NULL)
        return letter == '\0' ? "the string is not finished"
                              : "unknown escape in a string ('...' takes a backslash as it is)";
    *(*out)++ = meanings[found - letters];
    return NULL;
}

/* "basic" or 'literal'; *at is the opening quote. The text is decoded onto itself: it only gets
 * shorter. */
static const char *lex_string(char **at, char **ret)
{
    char *in = *at, *out = in, quote = *in++;
    if (in[0] == quote && in[1] == quote)
        return "multi-line strings are not supported here";
    *ret = out;
    while (*in != quote) {
        if (*in == '\0')
            return "the string is not finished";
        if (quote == '"' && *in == '\\') {
            const char *problem = lex_escape(&in, &out);
            if (problem != NULL)
                return problem;
        } else {
            *out++ = *in++;
        }
    }
    *out = '\0';
    *at = in + 1;
    return NULL;
}

/* A bare or quoted name. The caller writes the NUL at *ret_end once it has seen what follows. */
static const char *lex_name(char **at, char **ret, char **ret_end)
{
    if (**at == '"' || **at == '\'') {
        const char *problem = lex_string(at, ret);
        if (problem == NULL)
            *ret_end = *ret + strlen(*ret);
        return problem;
    }
    char *end = *at;
    while (is_name_char(*end))
        end++;
    if (end == *at)
        return *end == '\0' || *end == '.' || *end == ']' || *end == '='
                   ? "a name is missing"
                   : "a name with other characters than A-Z a-z 0-9 _ - needs quotes";
    *ret = *at;
    *ret_end = *at = end;
    return NULL;
}

/* Nothing but a comment may follow. */
static const char *lex_end(char *at)
{
    at = skip_blanks(at);
    return *at == '\0' || is_comment(*at) ? NULL : "text after the end of the value or section";
}

static const char *lex_section(char *at, struct ini_section *ret)
{
    if (*++at == '[')
        return "arrays of tables are not supported here";
    for (ret->part_count = 0;; at++) {
        char *name, *name_end;
        at = skip_blanks(at);
        const char *problem = lex_name(&at, &name, &name_end);
        if (problem != NULL)
            return problem;
        if (ret->part_count == INI_PARTS_MAX)
            return "too many dots in the name of a section";
        ret->parts[ret->part_count++] = name;

        at = skip_blanks(at);
        char delimiter = *at;
        *name_end = '\0';
        if (delimiter == ']')
            return lex_end(at + 1);
        if (delimiter == '\0')
            return "the ] of the section is missing";
        if (delimiter != '.')
            return "a name with other characters than A-Z a-z 0-9 _ - needs quotes";
    }
}

/* [v6]:port is the one bare value that begins like a TOML array; no array has a "]:" in it. */
static bool is_bracketed_addr(const char *at)
{
    size_t length = strspn(at + 1, "0123456789abcdefABCDEF:.");
    if (at[1 + length] == '%') /* a scope */
        length += strcspn(at + 1 + length, "]\"'{,");
    return length > 0 && at[1 + length] == ']' && at[2 + length] == ':';
}

/* 2024-12-31 and 23:59:59, alone or before more. */
static bool is_date(const char *at)
{
    static const char *const shapes[] = {"dddd-dd-dd", "dd:dd:dd"};
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const char *shape = shapes[i], *in = at;
        while (*shape != '\0' && (*shape == 'd' ? isdigit((unsigned char)*in) : *in == *shape)) {
            shape++;
            in++;
        }
        if (*shape == '\0')
            return true;
    }
    return false;
}

static const char *lex_bare_value(char *at, char **ret)
{
    if (*at == '[' && !is_bracketed_addr(at))
        return "arrays are not supported here";
    if (*at == '{')
        return "inline tables are not supported here";
    if (is_date(at))
        return "dates are not supported here (a text needs quotes)";
    *ret = at;
    char *end = at;
    for (; *at != '\0'; at++) {
        bool is_blank = *at == ' ' || *at == '\t';
        if (is_comment(*at) && (at == *ret || at[-1] == ' ' || at[-1] == '\t'))
            break;
        if (!is_blank)
            end = at + 1;
    }
    if (end == *ret)
        return "a value is missing";
    *end = '\0';
    return NULL;
}

static const char *lex_entry(char *at, char **ret_key, char **ret_value)
{
    static const char expected[] = "expected [section] or key = value";
    if (!is_name_char(*at) && *at != '"' && *at != '\'')
        return expected;
    char *key_end;
    const char *problem = lex_name(&at, ret_key, &key_end);
    if (problem != NULL)
        return problem;
    at = skip_blanks(at);
    char delimiter = *at;
    *key_end = '\0';
    if (delimiter == '.')
        return "dotted keys are not supported here";
    if (delimiter != '=')
        return expected;
    at = skip_blanks(at + 1);
    if (*at != '"' && *at != '\'')
        return lex_bare_value(at, ret_value);
    problem = lex_string(&at, ret_value);
    return problem != NULL ? problem : lex_end(at);
}

static void refuse(struct reader *reader, const char *problem)
{
    if (!reader->ops->on_error(reader->owner, reader->line, problem))
        reader->is_stopped = true;
}

static const char *check_bytes(const char *text, size_t size)
{
    while (size > 0) {
        unsigned char byte = (unsigned char)*text;
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
            return "control bytes are not supported here (\"\\n\" or \"\\u001b\" are)";
        size_t length = utf8_length(text, size);
        if (length == 0)
            return "the line is not valid UTF-8";
        text += length;
        size -= length;
    }
    return NULL;
}

/* Copies the next line into the buffer, without its end. False when there is none, or none that can
 * be used: *ret_refused says so. */
static bool take_line(struct reader *reader, bool *ret_refused)
{
    if (reader->at == reader->end)
        return false;
    const char *start = reader->at;
    const char *newline = memchr(start, '\n', (size_t)(reader->end - start));
    size_t size = (size_t)((newline != NULL ? newline : reader->end) - start);
    reader->at = newline != NULL ? newline + 1 : reader->end;
    reader->line++;
    if (size > 0 && start[size - 1] == '\r')
        size--;

    const char *problem =
        size > LIMIT_CONFIG_LINE ? "the line is longer than 4096 bytes" : check_bytes(start, size);
    *ret_refused = problem != NULL;
    if (problem != NULL) {
        size_t indent = 0;
        while (indent < size && (start[indent] == ' ' || start[indent] == '\t'))
            indent++;
        if (indent < size && start[indent] == '[')
            reader->state = SECTION_BROKEN;
        refuse(reader, problem);
        return true;
    }
    memcpy(reader->buffer, start, size);
    reader->buffer[size] = '\0';
    return true;
}

static bool handle_section(struct reader *reader, char *at, char *out, size_t out_size)
{
    struct ini_section section = {.line = reader->line};
    const char *problem = lex_section(at, &section);
    if (problem != NULL) {
        reader->state = SECTION_BROKEN;
        refuse(reader, problem);
        return false;
    }
    reader->state = SECTION_OPEN;
    reader->section_handle++;
    if (!reader->ops->on_section(reader->owner, &section))
        reader->is_stopped = true;
    (void)snprintf(out, out_size, "[s%u]\n", reader->section_handle);
    return true;
}

static bool handle_entry(struct reader *reader, char *at, char *out, size_t out_size)
{
    char *key, *value;
    const char *problem = lex_entry(at, &key, &value);
    if (problem == NULL && reader->state == SECTION_NONE)
        problem = "a key before the first [section]";
    if (problem != NULL) {
        refuse(reader, problem);
        return false;
    }
    if (reader->state == SECTION_BROKEN)
        return false;
    reader->key = key;
    reader->value = value;
    reader->entry_handle++;
    (void)snprintf(out, out_size, "k%u = v%u\n", reader->entry_handle, reader->entry_handle);
    return true;
}

/* inih's fgets: gives it one short line with handles, so that none of its own lexing is used. */
static char *next_line(char *out, int out_size, void *stream)
{
    struct reader *reader = stream;
    bool is_refused;
    while (!reader->is_stopped && take_line(reader, &is_refused)) {
        if (is_refused)
            continue;
        char *at = skip_blanks(reader->buffer);
        if (*at == '\0' || is_comment(*at))
            continue;
        bool is_filled = *at == '[' ? handle_section(reader, at, out, (size_t)out_size)
                                    : handle_entry(reader, at, out, (size_t)out_size);
        if (is_filled)
            return out;
    }
    return NULL;
}

static bool is_handle(const char *text, char kind, unsigned int number)
{
    char expected[16];
    (void)snprintf(expected, sizeof expected, "%c%u", kind, number);
    return strcmp(text, expected) == 0;
}

static int entry_seen(void *user, const char *section, const char *name, const char *value)
{
    struct reader *reader = user;
    if (reader->is_stopped)
        return 1;
    if (!is_handle(section, 's', reader->section_handle) ||
        !is_handle(name, 'k', reader->entry_handle) || !is_handle(value, 'v', reader->entry_handle))
        return 0;
    if (!reader->ops->on_entry(reader->owner, reader->line, reader->key, reader->value))
        reader->is_stopped = true;
    return 1;
}

int ini_read(const char *text, size_t size, const struct ini_reader_ops *ops, void *owner)
{
    static const char bom[] = "\xef\xbb\xbf";
    struct reader reader = {.at = text, .end = text + size, .ops = ops, .owner = owner};
    if (size >= 3 && memcmp(text, bom, 3) == 0)
        reader.at += 3;
    int result = ini_parse_stream(next_line, &reader, entry_seen, &reader);
    keys_wipe(reader.buffer, sizeof reader.buffer);
    if (reader.is_stopped)
        return -ECANCELED;
    return result == 0 ? 0 : -EIO; /* never: each line given to inih is one of ours */
}
