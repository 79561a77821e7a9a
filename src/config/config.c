#include "config/config.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "access_priv.h"
#include "base/error.h"
#include "base/limits.h"
#include "config/config_copy.h"
#include "draft_priv.h"
#include "foreign_priv.h"
#include "report_priv.h"
#include "secret_priv.h"

static void finish_peer(struct config_peer *peer)
{
    for (size_t i = 0; i < peer->service_count; i++)
        config_service_finish(&peer->services[i]);
    free(peer->services);
    config_access_finish(&peer->access);
    secret_free(peer->default_token);
    config_transport_finish(&peer->transport);
}

void config_destroy(struct config *config)
{
    if (config == NULL)
        return;
    finish_peer(&config->server);
    finish_peer(&config->client);
    secret_free(config->status.token);
    config_report_finish(&config->notes);
    free(config);
}

static void say_too_large(const char *name, struct config_report *report)
{
    (void)report_add(report, name, true, REPORT_WHOLE_FILE, "larger than %d MiB",
                     LIMIT_CONFIG_FILE >> 20);
}

/* Drops the half that this process does not run, if that half has errors of its own. */
static void leave_out(struct draft *draft, enum config_role half)
{
    struct config *config = draft->config;
    if (!config->has_server || !config->has_client || report_demote(draft->report, half) == 0)
        return;
    struct config_peer *peer = draft_peer(draft, half);
    finish_peer(peer);
    *peer = (struct config_peer){0};
    *(half == CONFIG_SERVER ? &config->has_server : &config->has_client) = false;
}

/* half: the role that this process runs; NULL = either. */
static int parse(const char *name, const char *text, size_t size, const enum config_role *half,
                 struct config **ret, struct config_report *report)
{
    *report = (struct config_report){0};
    if (size > LIMIT_CONFIG_FILE) {
        say_too_large(name, report);
        return ERR_CONFIG;
    }
    if (foreign_refuse(name, text, size, report))
        return ERR_CONFIG;
    struct draft draft = {.file = name,
                          .report = report,
                          .config = calloc(1, sizeof *draft.config)};
    if (draft.config == NULL)
        return -ENOMEM;
    if (draft_read(&draft, text, size) == 0)
        draft_validate(&draft);
    if (half != NULL)
        leave_out(&draft, *half == CONFIG_SERVER ? CONFIG_CLIENT : CONFIG_SERVER);
    if (report->error_count == 0 && !draft.is_out_of_memory)
        draft_expand_ranges(&draft);
    if (report->error_count == 0 && !draft.is_out_of_memory)
        draft_add_fronts(&draft);
    draft_finish(&draft);

    int result = draft.is_out_of_memory ? -ENOMEM : report->error_count > 0 ? ERR_CONFIG : 0;
    if (result < 0) {
        config_destroy(draft.config);
        return result;
    }
    draft.config->is_cut_off = size == 0 || text[size - 1] != '\n';
    *ret = draft.config;
    return 0;
}

int config_parse(const char *name, const char *text, size_t size, struct config **ret,
                 struct config_report *report)
{
    return parse(name, text, size, NULL, ret, report);
}

static int config_load_file(const char *path, const enum config_role *half, struct config **ret,
                            struct config_report *report)
{
    struct secret_file file;
    *report = (struct config_report){0};
    int result = secret_file_read(path, LIMIT_CONFIG_FILE, &file);
    if (result == -EFBIG) {
        say_too_large(path, report);
        return ERR_CONFIG;
    }
    if (result == -EILSEQ) {
        (void)report_add(report, path, true, REPORT_WHOLE_FILE,
                         "is UTF-16, expected UTF-8: save it as UTF-8");
        return ERR_CONFIG;
    }
    if (result < 0) {
        (void)report_add(report, path, true, REPORT_WHOLE_FILE, "cannot be read: %s",
                         error_text(result));
        return result;
    }
    result = parse(path, file.text, file.size, half, ret, report);
    secret_file_finish(&file);
    return result;
}

int config_load(const char *path, struct config **ret, struct config_report *report)
{
    return config_load_file(path, NULL, ret, report);
}

int config_load_half(const char *path, enum config_role half, struct config **ret,
                     struct config_report *report)
{
    return config_load_file(path, &half, ret, report);
}

const struct config_peer *config_half(const struct config *config, enum config_role half)
{
    if (half == CONFIG_SERVER)
        return config->has_server ? &config->server : NULL;
    return config->has_client ? &config->client : NULL;
}

bool config_is_same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcasecmp(a->host, b->host) == 0;
}

void config_check(const char *path, const struct config *config, struct config_report *report)
{
    struct stat status;
    report_append(report, &config->notes);
    if (config->has_inline_secrets && stat(path, &status) == 0 && (status.st_mode & S_IROTH) != 0)
        (void)report_add(report, path, false, REPORT_WHOLE_FILE,
                         "every user can read the secrets in it; chmod 600 fixes it");
}
