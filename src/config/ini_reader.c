#include "config/ini_reader.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "crypto/keys.h"
#include "ini_lex_priv.h"

struct level {
    struct ini_table table;
    size_t names_used; /* of reader.names, by this table and those around it */
};

struct reader {
    struct lex lex;
    const struct ini_reader_ops *ops;
    void *owner;
    bool is_stopped;
    bool is_broken; /* the section line was refused, so its entries are not reported */

    /* levels[0] is the section, the others are the open braces. */
    struct level levels[INI_PARTS_MAX + 1];
    size_t depth;
    bool is_behind_value; /* in braces: a comma or a closing brace comes next */
    unsigned int table_count;

    struct lex_room names, value;
    struct ini_table dotted; /* of the entry, if its key is dotted */
    struct ini_entry entry;
    unsigned int entry_count;
};

static struct level *top(struct reader *reader)
{
    return &reader->levels[reader->depth];
}

static void announce(struct reader *reader, struct ini_table *table)
{
    table->id = ++reader->table_count;
    if (!reader->is_broken && !reader->ops->on_table(reader->owner, table))
        reader->is_stopped = true;
}

/* ---- sections ---- */

static const char *read_section_name(struct reader *reader, struct ini_table *ret)
{
    struct lex *lex = &reader->lex;
    lex->at++;
    if (lex_peek(lex) == '[')
        return "arrays of tables are not supported here";
    for (;; lex->at++) {
        lex_skip_blanks(lex);
        const char *name, *problem = lex_name(lex, &reader->names, &name);
        if (problem != NULL)
            return problem;
        if (ret->part_count == INI_PARTS_MAX)
            return "too many dots in the name of a section";
        ret->parts[ret->part_count++] = name;

        lex_skip_blanks(lex);
        char delimiter = lex_peek(lex);
        if (delimiter == '\0')
            return "the ] of the section is missing";
        if (delimiter == ']') {
            lex->at++;
            return lex_rest(lex);
        }
        if (delimiter != '.')
            return "a name with other characters than A-Z a-z 0-9 _ - needs quotes";
    }
}

static const char *read_section(struct reader *reader)
{
    struct level *section = &reader->levels[0];
    section->table = (struct ini_table){.form = INI_SECTION, .line = reader->lex.line};
    reader->names.used = 0;
    const char *problem = read_section_name(reader, &section->table);
    reader->is_broken = problem != NULL;
    section->names_used = reader->names.used;
    if (problem == NULL)
        announce(reader, &section->table);
    return problem;
}

/* ---- keys and values ---- */

/* Reads a key. If it is dotted, the names before the last dot make *ret a table inside the current
 * one. */
static const char *read_key(struct reader *reader, struct ini_table *ret, const char **ret_key)
{
    struct lex *lex = &reader->lex;
    *ret = top(reader)->table;
    reader->names.used = top(reader)->names_used;
    for (;;) {
        const char *problem = lex_name(lex, &reader->names, ret_key);
        if (problem != NULL)
            return problem;
        lex_skip_blanks(lex);
        if (lex_peek(lex) != '.')
            return NULL;
        if (ret->part_count == INI_PARTS_MAX)
            return "too many dots in a key";
        ret->form = INI_DOTTED;
        ret->line = lex->line;
        ret->outer_count = top(reader)->table.part_count;
        ret->parts[ret->part_count++] = *ret_key;
        lex->at++;
        lex_skip_blanks(lex);
    }
}

static const char *open_table(struct reader *reader, const struct ini_table *around,
                              const char *name)
{
    if (around->part_count == INI_PARTS_MAX)
        return "braces are nested too deeply";
    /* Each table has more parts than the one around it, so the levels cannot run out. */
    size_t outer_count = top(reader)->table.part_count;
    struct level *level = &reader->levels[++reader->depth];
    *level = (struct level){.table = *around, .names_used = reader->names.used};
    level->table.form = INI_INLINE;
    level->table.line = reader->lex.line;
    level->table.outer_count = outer_count;
    level->table.parts[level->table.part_count++] = name;
    reader->lex.at++;
    reader->is_behind_value = false;
    announce(reader, &level->table);
    return NULL;
}

static const char *close_table(struct reader *reader)
{
    reader->lex.at++;
    reader->depth--;
    reader->is_behind_value = true;
    return reader->depth == 0 ? lex_rest(&reader->lex) : NULL;
}

static const char *read_key_and_value(struct reader *reader, bool *ret_is_entry)
{
    static const char expected[] = "expected [section] or key = value";
    struct lex *lex = &reader->lex;
    struct ini_entry *entry = &reader->entry;
    char first = lex_peek(lex);
    if (!lex_is_name(first) && first != '"' && first != '\'')
        return reader->depth == 0 ? expected : "expected key = value between the braces";
    const char *problem = read_key(reader, &reader->dotted, &entry->key);
    if (problem != NULL)
        return problem;
    if (lex_peek(lex) != '=')
        return expected;
    lex->at++;
    lex_skip_blanks(lex);
    if (lex_peek(lex) == '{')
        return open_table(reader, &reader->dotted, entry->key);
    entry->line = lex->line;
    entry->table = reader->dotted.form == INI_DOTTED ? &reader->dotted : &top(reader)->table;
    entry->value = reader->value.text;
    enum lex_form form = LEX_STRING;
    problem = reader->depth == 0 ? lex_value(lex, &reader->value, &form)
                                 : lex_inline_value(lex, &reader->value, &form);
    entry->is_bare = form == LEX_BARE;
    entry->is_array = form == LEX_ARRAY;
    if (problem == NULL && reader->depth == 0)
        problem = lex_rest(lex);
    if (problem == NULL && entry->table->part_count == 0 && !reader->is_broken)
        problem = "a key before the first [section]";
    reader->is_behind_value = true;
    *ret_is_entry = problem == NULL && !reader->is_broken;
    return problem;
}

static const char *read_in_braces(struct reader *reader, bool *ret_is_entry)
{
    struct lex *lex = &reader->lex;
    lex_skip_blanks(lex);
    if (lex_is_over(lex))
        return "the } is missing: a table in braces ends on its line";
    if (lex_peek(lex) == '}') /* braces may be empty */
        return close_table(reader);
    if (!reader->is_behind_value)
        return read_key_and_value(reader, ret_is_entry);
    if (lex_peek(lex) != ',')
        return "expected a comma or } behind a value";
    lex->at++;
    lex_skip_blanks(lex);
    if (lex_peek(lex) == '}')
        return "a comma before } is not supported here";
    reader->is_behind_value = false;
    return NULL;
}

static void ini_refuse(struct reader *reader, const char *problem)
{
    reader->depth = 0;
    if (!reader->ops->on_error(reader->owner, reader->lex.problem_line, problem))
        reader->is_stopped = true;
}

/* Parses the next line, up to its first entry. False at the end of the text. */
static bool read_line(struct reader *reader, bool *ret_is_entry)
{
    struct lex *lex = &reader->lex;
    const char *problem;
    if (!lex_next_line(lex, &problem))
        return false;
    lex_skip_blanks(lex);
    if (problem != NULL)
        reader->is_broken |= lex_peek(lex) == '[';
    else if (lex_peek(lex) == '[')
        problem = read_section(reader);
    else if (!lex_is_over(lex))
        problem = read_key_and_value(reader, ret_is_entry);
    if (problem != NULL)
        ini_refuse(reader, problem);
    return true;
}

/* Reads up to the next entry. False when there is none. */
static bool next_entry(struct reader *reader)
{
    bool is_entry = false;
    while (!is_entry && !reader->is_stopped) {
        if (reader->depth == 0) {
            if (!read_line(reader, &is_entry))
                return false;
            continue;
        }
        const char *problem = read_in_braces(reader, &is_entry);
        if (problem != NULL)
            ini_refuse(reader, problem);
    }
    return !reader->is_stopped;
}

/* ---- inih ---- */

/* The fgets of inih. Each entry becomes one short line, "k1 = v1", with handles instead of its
 * texts, so that inih's own lexing changes nothing. */
static char *next_line(char *out, int out_size, void *stream)
{
    struct reader *reader = stream;
    if (!next_entry(reader))
        return NULL;
    reader->entry_count++;
    (void)snprintf(out, (size_t)out_size, "k%u = v%u\n", reader->entry_count, reader->entry_count);
    return out;
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
    if (*section != '\0' || !is_handle(name, 'k', reader->entry_count) ||
        !is_handle(value, 'v', reader->entry_count))
        return 0;
    if (!reader->ops->on_entry(reader->owner, &reader->entry))
        reader->is_stopped = true;
    return 1;
}

int ini_read(const char *text, size_t size, const struct ini_reader_ops *ops, void *owner)
{
    struct reader reader = {.lex = {.next = text, .end = text + size}, .ops = ops, .owner = owner};
    int result = ini_parse_stream(next_line, &reader, entry_seen, &reader);
    keys_wipe(&reader.names, sizeof reader.names);
    keys_wipe(&reader.value, sizeof reader.value);
    if (reader.is_stopped || reader.lex.is_cut)
        return -ECANCELED;
    return result == 0 ? 0 : -EIO; /* cannot happen: inih sees only lines that next_line made */
}
