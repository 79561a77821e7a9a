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
    const char *section = option_section_name(place->section);
    if (place->section == SECTION_SERVICE) {
        const struct config_peer *peer =
            place->role == CONFIG_SERVER ? &draft->config->server : &draft->config->client;
        return draft_service_path(place->role, peer->services[place->service_index].name, key, out);
    }
    (void)snprintf(out, DRAFT_PATH_SIZE, "%s%s%s%s%s", option_role_name(place->role),
                   section[0] == '\0' ? "" : ".", section, key == NULL ? "" : ".",
                   key == NULL ? "" : key);
    return out;
}

bool draft_say(struct draft *draft, enum draft_message kind, unsigned int line,
               const struct draft_place *place, const char *key, const char *format, ...)
{
    char *text = NULL, path[DRAFT_PATH_SIZE];
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0) {
        draft->is_out_of_memory = true;
        return false;
    }
    struct config_report *report = kind == DRAFT_NOTE ? &draft->config->notes : draft->report;
    bool is_added = report_add(report, draft->file, kind == DRAFT_ERROR, line, "%s: %s",
                               draft_path(draft, place, key, path), text);
    free(text);
    return is_added || kind != DRAFT_ERROR;
}

/* "transport.tcp" of [server.transport.tcp]; a quoted name with dots in it is no such section. */
static bool find_section(const struct ini_section *section, const char *rest,
                         enum option_section *ret)
{
    for (enum option_section known = SECTION_ROLE; known < SECTION_COUNT; known++) {
        const char *name = option_section_name(known);
        size_t part_count = *name == '\0' ? 1 : 2;
        for (const char *at = name; *at != '\0'; at++)
            part_count += *at == '.';
        if (known != SECTION_SERVICE && strcmp(name, rest) == 0 &&
            part_count == section->part_count) {
            *ret = known;
            return true;
        }
    }
    *ret = SECTION_SERVICE;
    return section->part_count >= 3 && strcmp(section->parts[1], "services") == 0;
}

/* Parts from `first` on with dots between them. A line holds them all, so they fit. */
static void join_parts(const struct ini_section *section, size_t first,
                       char out[static LIMIT_CONFIG_LINE + 1])
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = first; i < section->part_count; i++)
        used += (size_t)snprintf(out + used, LIMIT_CONFIG_LINE + 1 - used, "%s%s",
                                 i == first ? "" : ".", section->parts[i]);
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

static bool start_service(struct draft *draft, const struct ini_section *section)
{
    enum config_role role = draft->at.role;
    struct config_peer *peer = draft_peer(draft, role);
    if (peer->service_count == LIMIT_SERVICES) {
        (void)report_add(draft->report, draft->file, true, section->line,
                         "more than %d services of a %s", LIMIT_SERVICES, option_role_name(role));
        return false;
    }
    char name[LIMIT_CONFIG_LINE + 1];
    join_parts(section, 2, name);
    if (name[0] == '\0' || strlen(name) > LIMIT_SERVICE_NAME) {
        draft->is_skipping = true;
        return report_add(draft->report, draft->file, true, section->line,
                          "the name of a service has 1 to %d bytes, this one has %zu",
                          LIMIT_SERVICE_NAME, strlen(name));
    }
    char *copy = strdup(name);
    if (copy == NULL || !grow_services(draft, role)) {
        free(copy);
        draft->is_out_of_memory = true;
        return false;
    }
    draft->at.service_index = peer->service_count++;
    peer->services[draft->at.service_index] =
        (struct config_service){.name = copy, .nodelay = CONFIG_UNSET, .line = section->line};
    draft->roles[role].service_lines[draft->at.service_index] = (struct draft_lines){0};
    return true;
}

static bool refuse_section(struct draft *draft, const struct ini_section *section)
{
    char name[LIMIT_CONFIG_LINE + 1], echo[REPORT_ECHO_SIZE], hint[128];
    join_parts(section, 0, name);
    draft->is_skipping = true;
    return report_add(draft->report, draft->file, true, section->line, "[%s]: unknown section, %s",
                      text_escape(name, echo, sizeof echo),
                      option_suggest_section(name, hint, sizeof hint));
}

static bool on_section(void *owner, const struct ini_section *section)
{
    struct draft *draft = owner;
    char rest[LIMIT_CONFIG_LINE + 1];
    join_parts(section, 1, rest);
    bool is_server = strcmp(section->parts[0], "server") == 0;
    bool is_client = strcmp(section->parts[0], "client") == 0;
    enum option_section found;
    if ((!is_server && !is_client) || !find_section(section, rest, &found))
        return refuse_section(draft, section);

    draft->is_skipping = false;
    draft->at =
        (struct draft_place){.role = is_server ? CONFIG_SERVER : CONFIG_CLIENT, .section = found};
    draft->config->has_server |= is_server;
    draft->config->has_client |= is_client;
    struct draft_role *role = &draft->roles[draft->at.role];
    if (role->line == 0)
        role->line = section->line;
    if (found == SECTION_SERVICE)
        return start_service(draft, section);
    unsigned int *first = &role->section_lines[found];
    if (*first != 0) {
        draft->is_skipping = true;
        char path[DRAFT_PATH_SIZE];
        return report_add(draft->report, draft->file, true, section->line,
                          "[%s]: stands twice, first in line %u",
                          draft_path(draft, &draft->at, NULL, path), *first);
    }
    *first = section->line;
    return true;
}

static bool refuse_key(struct draft *draft, unsigned int line, const char *key)
{
    char echo[REPORT_ECHO_SIZE], hint[512];
    return draft_say(draft, DRAFT_ERROR, line, &draft->at, text_escape(key, echo, sizeof echo),
                     "unknown key, %s",
                     option_suggest_key(draft->at.section, draft->at.role, key, hint, sizeof hint));
}

void draft_pass_over(struct draft *draft, const struct draft_place *place, size_t row,
                     const char *text)
{
    const struct option *option = &options[row];
    if ((option->flags & OPTION_SECRET) != 0 && secret_is_inline(text))
        draft->config->has_inline_secrets = true;
    (void)draft_say(draft, DRAFT_NOTE, draft_lines(draft, place)->of_row[row], place, option->key,
                    "has no effect (%s)",
                    (option->flags & OPTION_NOISE) != 0 ? "for type = noise" : option->help);
}

bool draft_take(struct draft *draft, const struct draft_place *place, size_t row, const char *text)
{
    const struct option *option = &options[row];
    unsigned int line = draft_lines(draft, place)->of_row[row];
    char problem[512];
    struct option_value value = {
        .option = option, .text = text, .problem = problem, .problem_size = sizeof problem};
    int result = option->parse(&value, draft_field(draft, place, option));
    if (result == ERR_CONFIG)
        return draft_say(draft, DRAFT_ERROR, line, place, option->key, "%s", problem);
    if (result < 0) {
        draft->is_out_of_memory = true;
        return false;
    }
    /* What config_check will want to know. */
    if (value.is_inline_secret)
        draft->config->has_inline_secrets = true;
    if (value.is_world_readable_secret)
        (void)draft_say(draft, DRAFT_NOTE, line, place, option->key,
                        "every user can read the file with the secret; chmod 600 mends it");
    return true;
}

static bool hold(struct draft *draft, size_t row, const char *text)
{
    char *copy = strdup(text);
    draft->roles[draft->at.role].held[row] = copy;
    draft->is_out_of_memory |= copy == NULL;
    return copy != NULL;
}

static bool on_entry(void *owner, unsigned int line, const char *key, const char *text)
{
    struct draft *draft = owner;
    if (draft->is_skipping)
        return true;
    int row = option_find(draft->at.section, draft->at.role, key);
    if (row < 0)
        return refuse_key(draft, line, key);
    const struct option *option = &options[row];
    unsigned int *first = &draft_lines(draft, &draft->at)->of_row[row];
    if (*first != 0)
        return draft_say(draft, DRAFT_ERROR, line, &draft->at, key,
                         "stands twice, first in line %u", *first);
    *first = line;

    if ((option->flags & OPTION_NOISE) != 0)
        return hold(draft, (size_t)row, text);
    if ((option->flags & OPTION_UNUSED) == 0)
        return draft_take(draft, &draft->at, (size_t)row, text);
    draft_pass_over(draft, &draft->at, (size_t)row, text);
    return true;
}

static bool on_error(void *owner, unsigned int line, const char *problem)
{
    struct draft *draft = owner;
    return report_add(draft->report, draft->file, true, line, "%s", problem);
}

int draft_read(struct draft *draft, const char *text, size_t size)
{
    static const struct ini_reader_ops ops = {on_section, on_entry, on_error};
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
