#include "ini_lex_priv.h"

#include <ctype.h>
#include <string.h>

#include "base/macros.h"
#include "text_priv.h"

static const char not_finished[] = "the string is not finished";

/* ---- lines ---- */

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

bool lex_next_line(struct lex *lex, const char **ret_problem)
{
    *ret_problem = NULL;
    lex->at = lex->line_end = lex->next;
    if (lex->next == lex->end)
        return false;
    const char *newline = memchr(lex->at, '\n', (size_t)(lex->end - lex->at));
    lex->line_end = newline != NULL ? newline : lex->end;
    lex->next = newline != NULL ? newline + 1 : lex->end;
    lex->problem_line = ++lex->line;
    if (lex->line_end > lex->at && lex->line_end[-1] == '\r')
        lex->line_end--;
    *ret_problem = check_bytes(lex->at, (size_t)(lex->line_end - lex->at));
    return true;
}

char lex_peek(const struct lex *lex)
{
    return lex->at < lex->line_end ? *lex->at : '\0';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

void lex_skip_blanks(struct lex *lex)
{
    while (is_blank(lex_peek(lex)))
        lex->at++;
}

static bool is_comment(char c)
{
    return c == '#' || c == ';';
}

bool lex_is_over(const struct lex *lex)
{
    char c = lex_peek(lex);
    return c == '\0' || is_comment(c);
}

const char *lex_rest(const struct lex *lex)
{
    struct lex rest = *lex;
    lex_skip_blanks(&rest);
    return lex_is_over(&rest) ? NULL : "text after the end of the value or section";
}

/* ---- strings ---- */

static const char too_long[] = "a name or a value is longer than 4096 bytes";

static const char *put(struct lex_room *room, const char *text, size_t size)
{
    if (room->used + size >= sizeof room->text)
        return too_long;
    memcpy(room->text + room->used, text, size);
    room->used += size;
    return NULL;
}

static const char *finish_word(struct lex_room *room)
{
    if (room->used == sizeof room->text)
        return too_long;
    room->text[room->used++] = '\0';
    return NULL;
}

static const char *read_unicode(struct lex *lex, size_t digit_count, struct lex_room *room)
{
    uint32_t code_point = 0;
    for (size_t i = 0; i < digit_count; i++, lex->at++) {
        char c = lex_peek(lex);
        if (!isxdigit((unsigned char)c))
            return "\\u needs 4 and \\U 8 hexadecimal digits";
        int digit = isdigit((unsigned char)c) ? c - '0' : (c | 0x20) - 'a' + 10;
        code_point = code_point << 4 | (uint32_t)digit;
    }
    char bytes[4];
    size_t length = utf8_encode(code_point, bytes);
    return length > 0 ? put(room, bytes, length) : "the escape is not a valid character";
}

/* lex->at is at the backslash. */
static const char *read_escape(struct lex *lex, struct lex_room *room)
{
    static const char letters[] = "btnfr\"\\", meanings[] = "\b\t\n\f\r\"\\";
    lex->at++;
    char letter = lex_peek(lex);
    if (letter == '\0')
        return not_finished;
    lex->at++;
    if (letter == 'u' || letter == 'U')
        return read_unicode(lex, letter == 'u' ? 4 : 8, room);
    const char *found = strchr(letters, letter);
    return found != NULL ? put(room, &meanings[found - letters], 1)
                         : "unknown escape in a string ('...' takes a backslash as it is)";
}

/* "basic" or 'literal'. */
static const char *read_line_string(struct lex *lex, char quote, struct lex_room *room)
{
    lex->at++;
    for (char c = lex_peek(lex); c != quote; c = lex_peek(lex)) {
        const char *problem;
        if (c == '\0')
            return not_finished;
        if (c == '\\' && quote == '"')
            problem = read_escape(lex, room);
        else
            problem = put(room, lex->at++, 1);
        if (problem != NULL)
            return problem;
    }
    lex->at++;
    return finish_word(room);
}

/* A backslash at the end of a line removes the newline and the white space that follows. */
static bool is_continued(const struct lex *lex)
{
    struct lex rest = *lex;
    rest.at++;
    lex_skip_blanks(&rest);
    return lex_peek(&rest) == '\0';
}

static const char *skip_continuation(struct lex *lex)
{
    const char *problem;
    lex->at = lex->line_end;
    while (lex_peek(lex) == '\0') {
        if (!lex_next_line(lex, &problem))
            return not_finished;
        if (problem != NULL)
            return problem;
        lex_skip_blanks(lex);
    }
    return NULL;
}

/* Reads one piece of a multi-line string. Of five quotes in a row, the last three end it. */
static const char *read_piece(struct lex *lex, char quote, struct lex_room *room, bool *ret_is_end)
{
    const char *problem;
    char c = lex_peek(lex);
    if (c == '\0') {
        problem = put(room, "\n", 1);
        const char *line_problem;
        if (!lex_next_line(lex, &line_problem))
            return not_finished;
        return line_problem != NULL ? line_problem : problem;
    }
    if (c == quote) {
        const char *first = lex->at;
        while (lex_peek(lex) == quote && lex->at - first < 5)
            lex->at++;
        size_t count = (size_t)(lex->at - first);
        *ret_is_end = count >= 3;
        return put(room, first, *ret_is_end ? count - 3 : count);
    }
    if (c == '\\' && quote == '"')
        return is_continued(lex) ? skip_continuation(lex) : read_escape(lex, room);
    return put(room, lex->at++, 1);
}

/* """basic""" or '''literal'''. After an error it is still read to its end: the rest may be a
 * secret, and must not be parsed (and quoted in messages) as lines of the file. */
static const char *read_long_string(struct lex *lex, char quote, struct lex_room *room)
{
    const char *first_problem = NULL, *problem = NULL;
    unsigned int first_line = lex->line, problem_line = 0;
    bool is_end = false;
    lex->at += 3;
    if (lex_peek(lex) == '\0' && !lex_next_line(lex, &problem)) /* the first newline is dropped */
        problem = not_finished;
    for (;;) {
        if (problem == not_finished) {
            lex->is_cut = true;
            lex->problem_line = first_line;
            return problem;
        }
        if (problem != NULL && first_problem == NULL) {
            first_problem = problem;
            problem_line = lex->line;
        }
        if (is_end)
            break;
        problem = read_piece(lex, quote, room, &is_end);
    }
    lex->problem_line = first_problem != NULL ? problem_line : lex->line;
    return first_problem != NULL ? first_problem : finish_word(room);
}

static bool is_long_string(const struct lex *lex)
{
    return lex->line_end - lex->at >= 3 && lex->at[1] == lex->at[0] && lex->at[2] == lex->at[0];
}

static bool is_quote(char c)
{
    return c == '"' || c == '\'';
}

/* ---- arrays ---- */

/* Reads a string of an array, a comma, its end, or goes on to the next line. */
static const char *read_array_piece(struct lex *lex, struct lex_room *room, bool *is_behind_item,
                                    bool *ret_is_end)
{
    lex_skip_blanks(lex);
    char c = lex_peek(lex);
    if (c == '\0' || c == '#') {
        const char *problem;
        return lex_next_line(lex, &problem) ? problem : not_finished;
    }
    if (is_quote(c) && !*is_behind_item && !is_long_string(lex)) {
        const char *problem = room->used > 0 ? put(room, ",", 1) : NULL;
        *is_behind_item = true;
        const char *string_problem = read_line_string(lex, c, room);
        if (problem != NULL || string_problem != NULL)
            return problem != NULL ? problem : string_problem;
        room->used--; /* its NUL */
        return NULL;
    }
    lex->at++;
    *ret_is_end = c == ']';
    if (*ret_is_end || (c == ',' && *is_behind_item)) {
        *is_behind_item = false;
        return NULL;
    }
    return "expected an array of strings in quotes, with commas between them and ] at its end";
}

/* As a long string it is read to its end after an error, too. */
static const char *read_array(struct lex *lex, struct lex_room *room)
{
    const char *first_problem = NULL;
    unsigned int first_line = lex->line, problem_line = 0;
    bool is_end = false, is_behind_item = false;
    lex->at++;
    while (!is_end) {
        const char *problem = read_array_piece(lex, room, &is_behind_item, &is_end);
        if (problem != NULL && first_problem == NULL) {
            first_problem = problem;
            problem_line = lex->line;
        }
        if (problem != NULL && lex->at == lex->end) {
            lex->is_cut = true;
            lex->problem_line = first_line;
            return "the array is not finished";
        }
    }
    lex->problem_line = first_problem != NULL ? problem_line : lex->line;
    return first_problem != NULL ? first_problem : finish_word(room);
}

/* ---- names and values ---- */

bool lex_is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

const char *lex_name(struct lex *lex, struct lex_room *room, const char **ret)
{
    *ret = room->text + room->used;
    char c = lex_peek(lex);
    if (is_quote(c))
        return is_long_string(lex) ? "a name must not span lines" : read_line_string(lex, c, room);
    const char *first = lex->at;
    while (lex_is_name(lex_peek(lex)))
        lex->at++;
    if (lex->at == first)
        return c == '\0' || c == '.' || c == ']' || c == '='
                   ? "a name is missing"
                   : "a name with other characters than A-Z a-z 0-9 _ - needs quotes";
    const char *problem = put(room, first, (size_t)(lex->at - first));
    return problem != NULL ? problem : finish_word(room);
}

static size_t span(const struct lex *lex, size_t from, const char *accepted)
{
    const char *at = lex->at + from;
    while (at < lex->line_end && strchr(accepted, *at) != NULL)
        at++;
    return (size_t)(at - lex->at);
}

/* [v6]:port is the one bare value that begins like a TOML array. No array contains "]:". */
static bool is_bracketed_addr(const struct lex *lex)
{
    size_t end = span(lex, 1, "0123456789abcdefABCDEF:.");
    if (lex->at + end < lex->line_end && lex->at[end] == '%') /* a scope */
        while (lex->at + end < lex->line_end && strchr("]\"'{,", lex->at[end]) == NULL)
            end++;
    return end > 1 && lex->line_end - lex->at - (ptrdiff_t)end >= 2 && lex->at[end] == ']' &&
           lex->at[end + 1] == ':';
}

/* True if the value begins with a date or a time (2024-12-31, 23:59:59). */
static bool is_date(const struct lex *lex)
{
    static const char *const shapes[] = {"dddd-dd-dd", "dd:dd:dd"};
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const char *shape = shapes[i], *in = lex->at;
        while (*shape != '\0' && in < lex->line_end &&
               (*shape == 'd' ? isdigit((unsigned char)*in) : *in == *shape)) {
            shape++;
            in++;
        }
        if (*shape == '\0')
            return true;
    }
    return false;
}

/* The end of the bare value that begins here, without white space behind it. */
static const char *bare_end(const struct lex *lex, bool is_inline)
{
    const char *end = lex->at;
    for (const char *at = lex->at; at < lex->line_end; at++) {
        bool is_word_over = at == lex->at || is_blank(at[-1]);
        if (is_inline ? is_blank(*at) || *at == ',' || *at == '}' || *at == '#'
                      : is_comment(*at) && is_word_over)
            break;
        if (!is_blank(*at))
            end = at + 1;
    }
    return end;
}

static const char *read_value(struct lex *lex, bool is_inline, struct lex_room *room,
                              enum lex_form *ret_form)
{
    char c = lex_peek(lex);
    room->used = 0;
    *ret_form = is_quote(c) ? LEX_STRING : LEX_BARE;
    if (is_quote(c))
        return is_long_string(lex) ? read_long_string(lex, c, room)
                                   : read_line_string(lex, c, room);
    if (c == '[' && !is_bracketed_addr(lex)) {
        *ret_form = LEX_ARRAY;
        return read_array(lex, room);
    }
    if (is_date(lex))
        return "dates are not supported here (a text needs quotes)";
    const char *end = bare_end(lex, is_inline);
    if (end == lex->at)
        return "a value is missing";
    const char *problem = put(room, lex->at, (size_t)(end - lex->at));
    lex->at = end;
    return problem != NULL ? problem : finish_word(room);
}

const char *lex_value(struct lex *lex, struct lex_room *room, enum lex_form *ret_form)
{
    return read_value(lex, false, room, ret_form);
}

const char *lex_inline_value(struct lex *lex, struct lex_room *room, enum lex_form *ret_form)
{
    return read_value(lex, true, room, ret_form);
}
