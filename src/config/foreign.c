#include "foreign_priv.h"

#include <string.h>

#include "base/macros.h"
#include "report_priv.h"

/* Words that begin a line in frp's files and never in rathole's: TOML, INI (with '_'), YAML,
 * JSON. */
static const char *const sections[] = {"[common]", "[[proxies]]", "[[visitors]]"};
static const char *const keys[] = {
    "serverAddr",  "server_addr", "serverPort", "server_port",   "bindAddr",        "bindPort",
    "bind_port",   "localIP",     "local_ip",   "localPort",     "local_port",      "remotePort",
    "remote_port", "proxies",     "visitors",   "vhostHTTPPort", "vhost_http_port",
};

struct line {
    const char *at, *end;
};

static bool takes(struct line *line, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(line->end - line->at) < size || memcmp(line->at, word, size) != 0)
        return false;
    line->at += size;
    return true;
}

static void skip(struct line *line, const char *bytes)
{
    while (line->at < line->end && *line->at != '\0' && strchr(bytes, *line->at) != NULL)
        line->at++;
}

/* The key, perhaps quoted, and "=" or ":". */
static bool begins_with_key(struct line line, const char *key)
{
    if (!takes(&line, key))
        return false;
    skip(&line, "\"' \t");
    return line.at < line.end && (*line.at == '=' || *line.at == ':');
}

/* [server], server.bind_addr = ..., server = { ... } */
static bool is_of_rathole(struct line line)
{
    skip(&line, "[\"' \t");
    if (!takes(&line, "server") && !takes(&line, "client"))
        return false;
    skip(&line, "\"' \t");
    return line.at < line.end && strchr("].=", *line.at) != NULL;
}

static const char *find_mark(struct line line)
{
    for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
        struct line rest = line;
        if (takes(&rest, sections[i]))
            return sections[i];
    }
    skip(&line, "{-,\"' \t"); /* of JSON, and of a list in YAML */
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (begins_with_key(line, keys[i]))
            return keys[i];
    return NULL;
}

/* JSON may be all on one line, so keys are looked for in the whole line. */
static const char *find_mark_of_json(struct line line)
{
    skip(&line, " \t");
    if (line.at == line.end || *line.at != '{')
        return NULL;
    for (; line.at < line.end; line.at++) {
        struct line rest = {line.at + 1, line.end};
        for (size_t i = 0; *line.at == '"' && i < ARRAY_SIZE(keys); i++)
            if (begins_with_key(rest, keys[i]))
                return keys[i];
    }
    return NULL;
}

bool foreign_refuse(const char *file, const char *text, size_t size, struct config_report *report)
{
    const char *mark = NULL, *next = text, *end = text + size;
    unsigned int line_count = 0, mark_line = 0;
    while (next < end) {
        const char *newline = memchr(next, '\n', (size_t)(end - next));
        struct line line = {next, newline != NULL ? newline : end};
        next = newline != NULL ? newline + 1 : end;
        line_count++;
        skip(&line, " \t");
        if (is_of_rathole(line))
            return false;
        if (mark != NULL)
            continue;
        mark = find_mark(line);
        if (mark == NULL)
            mark = find_mark_of_json(line);
        mark_line = line_count;
    }
    if (mark != NULL)
        (void)report_add(report, file, true, REPORT_WHOLE_FILE,
                         "looks like a file of frp's (%s in line %u): frp has another protocol and "
                         "other keys, see docs/moving.md",
                         mark, mark_line);
    return mark != NULL;
}
