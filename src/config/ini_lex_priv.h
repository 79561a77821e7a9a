/* The words of a configuration file: its lines, and on them names, strings and bare values, in the
 * forms that TOML has for them. What they mean together is ini_reader.c's.
 *
 * Each function that reads a word moves lex->at behind it and returns NULL, or says what is wrong;
 * the text is valid for ever and holds nothing of the file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"

struct lex {
    const char *at, *line_end; /* what is left of the current line; its newline is no part of it */
    const char *next, *end;    /* the lines below */
    unsigned int line;         /* number of the current one; 0 before the first */
    unsigned int problem_line; /* where the last problem was: a string may go over many lines */
    bool is_cut;               /* one had no end: nothing below its beginning has been looked at */
};

/* Where words are copied to, decoded, with a NUL behind each. */
struct lex_room {
    char text[LIMIT_CONFIG_TEXT + 1];
    size_t used;
};

/* Goes on to the next line; false at the end of the text. A line that has a problem is not to be
 * looked at. */
bool lex_next_line(struct lex *lex, const char **ret_problem);
/* NUL at the end of the line: no line that may be looked at holds one. */
char lex_peek(const struct lex *lex);
void lex_skip_blanks(struct lex *lex);
/* At the end of the line, or at a comment. */
bool lex_is_over(const struct lex *lex);
/* Nothing but a comment may follow. */
const char *lex_rest(const struct lex *lex);

bool lex_is_name(char c);
/* A bare or a quoted name; *ret is in the room. */
const char *lex_name(struct lex *lex, struct lex_room *room, const char **ret);
/* A value on a line of its own: a string of any of TOML's four kinds, or bare to the end of the
 * line or a comment behind white space. */
const char *lex_value(struct lex *lex, struct lex_room *room, bool *ret_is_bare);
/* The same in an inline table, where a bare value ends at a comma, a brace or white space. */
const char *lex_inline_value(struct lex *lex, struct lex_room *room, bool *ret_is_bare);
