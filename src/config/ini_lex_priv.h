/* The lexer of configuration files: lines, and on them names, strings and bare values in TOML's
 * forms. ini_reader.c has the grammar.
 *
 * A function that reads a word moves lex->at behind it and returns NULL, or returns what is wrong:
 * a constant that quotes nothing from the file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"

struct lex {
    const char *at, *line_end; /* the rest of the current line, without its newline */
    const char *next, *end;    /* the lines below */
    unsigned int line;         /* number of the current line; 0 before the first */
    unsigned int problem_line; /* of the last problem: a string may span many lines */
    bool is_cut; /* a string or an array was not terminated: the lines below it were not parsed */
};

/* The buffer for decoded words, with a NUL behind each. */
struct lex_room {
    char text[LIMIT_CONFIG_TEXT + 1];
    size_t used;
};

/* Goes on to the next line; false at the end of the text. The caller must skip a line with a
 * problem (invalid UTF-8, control bytes). */
bool lex_next_line(struct lex *lex, const char **ret_problem);
/* The next byte; NUL at the end of the line, because no line without a problem holds one. */
char lex_peek(const struct lex *lex);
void lex_skip_blanks(struct lex *lex);
/* True at the end of the line, or at a comment. */
bool lex_is_over(const struct lex *lex);
/* A problem unless the rest of the line is white space or a comment. */
const char *lex_rest(const struct lex *lex);

bool lex_is_name(char c);
/* Reads a bare or quoted name; *ret points into the room. */
const char *lex_name(struct lex *lex, struct lex_room *room, const char **ret);
enum lex_form { LEX_BARE, LEX_STRING, LEX_ARRAY };
/* Reads the value of a "key = value" line: a string of any of TOML's four kinds, an array of
 * strings, which may span lines, or a bare value, which ends with the line or at a comment behind
 * white space. Of an array the room gets the strings, with commas between them. */
const char *lex_value(struct lex *lex, struct lex_room *room, enum lex_form *ret_form);
/* The same in an inline table, where a bare value ends at a comma, a brace or white space. */
const char *lex_inline_value(struct lex *lex, struct lex_room *room, enum lex_form *ret_form);
