#include "draft_priv.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "config/ini_reader.h"
#include "report_priv.h"
#include "secret_priv.h"
#include "text_priv.h"

struct config_peer *draft_peer(struct draft *draft, enum config_role role)
{
    return role == CONFIG_SERVER ? &draft->config->server : &draft->config->client;
}

struct draft_lines *draft_lines(struct draft *draft, const struct draft_place *place)
{
    struct draft_role *role = &draft->roles[place->role];
    return place->section == SECTION_SERVICE ? &role->service_lines[place->service_index]
                                             : &role->lines;
}

unsigned int draft_line_of(struct draft *draft, const struct draft_place *place, const char *key)
{
    size_t row = option_row(place->section, place->role, key);
    return draft_lines(draft, place)->of_row[row];
}

void *draft_field(struct draft *draft, const struct draft_place *place, const struct option *option)
{
    struct config_peer *peer = draft_peer(draft, place->role);
    if (place->section == SECTION_STATUS)
        return (char *)&draft->config->status + option->offset;
    char *object = place->section == SECTION_SERVICE ? (char *)&peer->services[place->service_index]
                                                     : (char *)peer;
    return object + option->offset;
}

static bool is_bare(const char *name)
{
    while (isalnum((unsigned char)*name) || (*name != '\0' && strchr("_.-", *name) != NULL))
        name++;
    return *name == '\0';
}

const char *draft_service_path(enum config_role role, const char *name, const char *key,
                               char out[static DRAFT_PATH_SIZE])
{
    const char *quote = is_bare(name) ? "" : "\"";
    char echo[REPORT_ECHO_SIZE];
    (void)snprintf(out, DRAFT_PATH_SIZE, "%s.services.%s%s%s%s%s", option_role_name(role), quote,
                   text_escape(name, echo, sizeof echo), quote, key == NULL ? "" : ".",
                   key == NULL ? "" : key);
    return out;
}

const char *draft_path(const struct draft *draft, const struct draft_place *place, const char *key,
                       char out[static DRAFT_PATH_SIZE])
{
    char section[64];
    if (place->section == SECTION_SERVICE) {
        const struct config_peer *peer =
            place->role == CONFIG_SERVER ? &draft->config->server : &draft->config->client;
        return draft_service_path(place->role, peer->services[place->service_index].name, key, out);
    }
    (void)snprintf(out, DRAFT_PATH_SIZE, "%s%s%s",
                   option_section_path(place->section, place->role, section, sizeof section),
                   key == NULL ? "" : ".", key == NULL ? "" : key);
    return out;
}

bool draft_say(struct draft *draft, enum draft_message kind, unsigned int line,
               const struct draft_place *place, const char *key, const char *format, ...)
{
    CLEANUP_FREE char *text = NULL;
    char path[DRAFT_PATH_SIZE];
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0) {
        text = NULL;
        draft->is_out_of_memory = true;
        return false;
    }
    bool is_error = kind == DRAFT_ERROR || kind == DRAFT_BAD_SHAPE;
    (void)draft_path(draft, place, key, path);
    bool is_added = kind == DRAFT_ERROR && place->section != SECTION_STATUS
                        ? report_add_of_half(draft->report, draft->file, place->role, line,
                                             "%s: %s", path, text)
                        : report_add(kind == DRAFT_NOTE ? &draft->config->notes : draft->report,
                                     draft->file, is_error, line, "%s: %s", path, text);
    return is_added || !is_error;
}

/* Finds the section of `rest`, "transport.tcp" for [server.transport.tcp]. The number of parts has
 * to match: [server."transport.tcp"] is not that section. A service name with dots needs no quotes
 * in a section line, but does elsewhere. */
static bool find_section(const struct ini_table *table, const char *rest, enum option_section *ret)
{
    for (enum option_section known = SECTION_ROLE; known < SECTION_STATUS; known++) {
        const char *name = option_section_name(known);
        size_t part_count = *name == '\0' ? 1 : 2;
        for (const char *at = name; *at != '\0'; at++)
            part_count += *at == '.';
        if (known != SECTION_SERVICE && strcmp(name, rest) == 0 &&
            part_count == table->part_count) {
            *ret = known;
            return true;
        }
    }
    *ret = SECTION_SERVICE;
    return (table->form == INI_SECTION ? table->part_count >= 3 : table->part_count == 3) &&
           strcmp(table->parts[1], "services") == 0;
}

/* Joins the parts from `first` on with dots. They fit: the reader bounds their total length. */
static void join_parts(const struct ini_table *table, size_t first,
                       char out[static LIMIT_CONFIG_TEXT + 1])
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = first; i < table->part_count; i++)
        used += (size_t)snprintf(out + used, LIMIT_CONFIG_TEXT + 1 - used, "%s%s",
                                 i == first ? "" : ".", table->parts[i]);
}

static bool grow_services(struct draft *draft, enum config_role role_index)
{
    struct draft_role *role = &draft->roles[role_index];
    struct config_peer *peer = draft_peer(draft, role_index);
    if (peer->service_count < role->service_capacity)
        return true;
    size_t capacity = role->service_capacity == 0 ? 8 : 2 * role->service_capacity;
    struct config_service *services = realloc(peer->services, capacity * sizeof *services);
    if (services == NULL)
        return false;
    peer->services = services;
    struct draft_lines *lines = realloc(role->service_lines, capacity * sizeof *lines);
    if (lines == NULL)
        return false;
    role->service_lines = lines;
    role->service_capacity = capacity;
    return true;
}

/* FNV-1a. Dotted keys may come in any order, and each has to find its service. */
static uint32_t hash_name(const char *name)
{
    uint32_t hash = 2166136261;
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619;
    return hash;
}

static bool find_dotted_service(struct draft *draft, unsigned int dots_of, const char *name,
                                struct draft_place *place)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    uint32_t hash = hash_name(name);
    for (size_t i = peer->service_count; i > 0; i--) {
        const struct draft_lines *lines = &draft->roles[place->role].service_lines[i - 1];
        if (lines->dots_of != dots_of || lines->name_hash != hash ||
            strcmp(peer->services[i - 1].name, name) != 0)
            continue;
        place->service_index = i - 1;
        return true;
    }
    return false;
}

static bool draft_start_service(struct draft *draft, const struct ini_table *table,
                                unsigned int dots_of, struct draft_table *ret)
{
    enum config_role role = ret->place.role;
    struct config_peer *peer = draft_peer(draft, role);
    char name[LIMIT_CONFIG_TEXT + 1];
    join_parts(table, 2, name);
    if (dots_of != 0 && find_dotted_service(draft, dots_of, name, &ret->place))
        return true;
    if (peer->service_count == LIMIT_SERVICES) {
        (void)report_add(draft->report, draft->file, true, table->line,
                         "more than %d services of a %s", LIMIT_SERVICES, option_role_name(role));
        return false;
    }
    if (name[0] == '\0' || strlen(name) > LIMIT_SERVICE_NAME) {
        ret->is_refused = true;
        return report_add(draft->report, draft->file, true, table->line,
                          "the name of a service has 1 to %d bytes, this one has %zu",
                          LIMIT_SERVICE_NAME, strlen(name));
    }
    char *copy = strdup(name);
    if (copy == NULL || !grow_services(draft, role)) {
        free(copy);
        draft->is_out_of_memory = true;
        return false;
    }
    ret->place.service_index = peer->service_count++;
    peer->services[ret->place.service_index] =
        (struct config_service){.name = copy, .nodelay = CONFIG_UNSET, .line = table->line};
    draft->roles[role].service_lines[ret->place.service_index] =
        (struct draft_lines){.dots_of = dots_of, .name_hash = hash_name(name)};
    return true;
}

static bool refuse_section(struct draft *draft, const struct ini_table *table)
{
    char name[LIMIT_CONFIG_TEXT + 1], echo[REPORT_ECHO_SIZE], hint[128];
    join_parts(table, 0, name);
    return report_add(draft->report, draft->file, true, table->line, "[%s]: unknown section, %s",
                      text_escape(name, echo, sizeof echo),
                      option_suggest_section(name, hint, sizeof hint));
}

/* Finds the place in the configuration that a table stands for. A place may be given once: by a
 * section, by a pair of braces, or by any number of dotted keys of one table. dots_of identifies
 * that table; 0: the table is not dotted. */
static bool enter(struct draft *draft, const struct ini_table *table, unsigned int dots_of,
                  struct draft_table *ret)
{
    char rest[LIMIT_CONFIG_TEXT + 1];
    join_parts(table, 1, rest);
    bool is_server = strcmp(table->parts[0], "server") == 0;
    bool is_client = strcmp(table->parts[0], "client") == 0;
    bool is_status = strcmp(table->parts[0], "status") == 0 && table->part_count == 1;
    enum option_section found = SECTION_STATUS;
    *ret = (struct draft_table){.is_refused = true};
    if (!is_status && ((!is_server && !is_client) || !find_section(table, rest, &found)))
        return refuse_section(draft, table);

    /* [status] is of both roles, and is kept with the server's. */
    *ret = (struct draft_table){
        .place = {.role = is_client ? CONFIG_CLIENT : CONFIG_SERVER, .section = found}};
    draft->config->has_server |= is_server;
    draft->config->has_client |= is_client;
    struct draft_role *role = &draft->roles[ret->place.role];
    if (role->line == 0 && !is_status)
        role->line = table->line;
    if (found == SECTION_SERVICE)
        return draft_start_service(draft, table, dots_of, ret);
    if (role->section_lines[found] == 0) {
        role->section_lines[found] = table->line;
        role->section_dots_of[found] = dots_of;
        return true;
    }
    if (dots_of != 0 && role->section_dots_of[found] == dots_of)
        return true;
    ret->is_refused = true;
    char path[DRAFT_PATH_SIZE];
    return report_add(draft->report, draft->file, true, table->line,
                      "[%s]: defined twice, first in line %u",
                      draft_path(draft, &ret->place, NULL, path), role->section_lines[found]);
}

static bool on_table(void *owner, const struct ini_table *table)
{
    struct draft *draft = owner;
    struct draft_table *ret = &draft->tables[table->part_count];
    if (draft->tables[table->outer_count].is_refused) { /* tables[0] is the file: never refused */
        ret->is_refused = true;
        return true;
    }
    return enter(draft, table, 0, ret);
}

static bool refuse_key(struct draft *draft, unsigned int line, const char *key)
{
    char echo[REPORT_ECHO_SIZE], hint[512];
    return draft_say(draft, DRAFT_BAD_SHAPE, line, &draft->at, text_escape(key, echo, sizeof echo),
                     "unknown key, %s",
                     option_suggest_key(draft->at.section, draft->at.role, key, hint, sizeof hint));
}

static const char *use_of_table(enum option_section section)
{
    return section == SECTION_TRANSPORT_NOISE ? "for type = noise"
           : section == SECTION_TRANSPORT_TLS ? "for type = tls, or websocket with tls = true"
                                              : "for type = websocket";
}

void draft_pass_over(struct draft *draft, const struct draft_place *place, size_t row,
                     const char *text)
{
    const struct option *option = &options[row];
    if ((option->flags & OPTION_SECRET) != 0 && secret_is_inline(text))
        draft->config->has_inline_secrets = true;
    (void)draft_say(draft, DRAFT_NOTE, draft_lines(draft, place)->of_row[row], place, option->key,
                    "has no effect (%s)",
                    (option->flags & OPTION_HELD) != 0 ? use_of_table(option->section)
                                                       : option->help);
}

void draft_take_default(struct draft *draft, const struct draft_place *place, size_t row)
{
    const struct option *option = &options[row];
    char problem[128];
    struct option_value value = {.option = option,
                                 .text = option->default_text,
                                 .problem = problem,
                                 .problem_size = sizeof problem};
    if (option->default_text == NULL)
        return;
    int result = option->parse(&value, draft_field(draft, place, option));
    assert(result == 0);
    (void)result;
}

bool draft_take(struct draft *draft, const struct draft_place *place, size_t row, const char *text)
{
    const struct option *option = &options[row];
    unsigned int line = draft_lines(draft, place)->of_row[row];
    char problem[512] = "";
    struct option_value value = {
        .option = option, .text = text, .problem = problem, .problem_size = sizeof problem};
    int result = option->parse(&value, draft_field(draft, place, option));
    if (result == ERR_CONFIG) {
        draft_take_default(draft, place, row); /* so that no later check complains about a zero */
        return draft_say(draft, DRAFT_ERROR, line, place, option->key, "%s", problem);
    }
    if (result < 0) {
        draft->is_out_of_memory = true;
        return false;
    }
    if (value.is_void)
        draft_lines(draft, place)->of_row[row] = 0;
    if (*problem != '\0')
        (void)draft_say(draft, DRAFT_WARNING, line, place, option->key, "%s", problem);
    /* For config_check. */
    if (value.is_inline_secret)
        draft->config->has_inline_secrets = true;
    if (value.is_world_readable_secret)
        (void)draft_say(draft, DRAFT_NOTE, line, place, option->key,
                        "every user can read the file with the secret; chmod 600 fixes it");
    return true;
}

static bool hold(struct draft *draft, size_t row, const char *text)
{
    char *copy = strdup(text);
    draft->roles[draft->at.role].held[row] = copy;
    draft->is_out_of_memory |= copy == NULL;
    return copy != NULL;
}

void draft_take_held(struct draft *draft, const struct draft_place *place, bool is_used)
{
    struct draft_role *role = &draft->roles[place->role];
    for (size_t row = 0; row < option_count; row++) {
        const char *text = role->held[row];
        size_t error_count = draft->report->error_count;
        if (text == NULL || options[row].section != place->section)
            continue;
        if (is_used)
            (void)draft_take(draft, place, row, text);
        else
            draft_pass_over(draft, place, row, text);
        role->is_held_refused[row] = draft->report->error_count > error_count;
    }
}

/* As in TOML, a '#' ends a bare value even without white space before it. Secrets and paths without
 * quotes are exempt: they may contain a '#'. */
static void cut_comment(const struct option *option, char *text)
{
    if ((option->flags & (OPTION_SECRET | OPTION_PATH)) != 0)
        return;
    size_t size = strcspn(text, "#");
    while (size > 0 && isblank((unsigned char)text[size - 1]))
        size--;
    if (size > 0)
        text[size] = '\0';
}

static bool take_entry(struct draft *draft, const struct ini_entry *entry)
{
    int row = option_find(draft->at.section, draft->at.role, entry->key);
    if (row < 0)
        return refuse_key(draft, entry->line, entry->key);
    const struct option *option = &options[row];
    unsigned int *first = &draft_lines(draft, &draft->at)->of_row[row];
    if (*first != 0)
        return draft_say(draft, DRAFT_BAD_SHAPE, entry->line, &draft->at, entry->key,
                         "defined twice, first in line %u", *first);
    *first = entry->line;

    if (entry->is_array && (option->flags & OPTION_LIST) == 0)
        return draft_say(draft, DRAFT_BAD_SHAPE, entry->line, &draft->at, entry->key,
                         "expected one value, not an array");
    if (entry->is_bare)
        cut_comment(option, entry->value);
    if ((option->flags & OPTION_HELD) != 0)
        return hold(draft, (size_t)row, entry->value);
    if ((option->flags & OPTION_UNUSED) == 0)
        return draft_take(draft, &draft->at, (size_t)row, entry->value);
    draft_pass_over(draft, &draft->at, (size_t)row, entry->value);
    return true;
}

static bool on_entry(void *owner, const struct ini_entry *entry)
{
    struct draft *draft = owner;
    const struct ini_table *table = entry->table;
    struct draft_table dotted;
    const struct draft_table *at = &draft->tables[table->part_count];
    if (table->form == INI_DOTTED) {
        if (draft->tables[table->outer_count].is_refused)
            return true;
        if (!enter(draft, table, table->id + 1, &dotted))
            return false;
        at = &dotted;
    }
    draft->at = at->place;
    return at->is_refused || take_entry(draft, entry);
}

static bool on_error(void *owner, unsigned int line, const char *problem)
{
    struct draft *draft = owner;
    return report_add(draft->report, draft->file, true, line, "%s", problem);
}

int draft_read(struct draft *draft, const char *text, size_t size)
{
    static const struct ini_reader_ops ops = {on_table, on_entry, on_error};
    return ini_read(text, size, &ops, draft);
}

void draft_finish(struct draft *draft)
{
    for (size_t i = 0; i < ARRAY_SIZE(draft->roles); i++) {
        free(draft->roles[i].service_lines);
        for (size_t row = 0; row < option_count; row++)
            secret_free(draft->roles[i].held[row]);
    }
}
