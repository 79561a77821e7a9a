/* The command line as a value. Pure functions of argv, so that tests can check every form. The
 * strings in struct cli are those of argv. The first word may be a command: server, client (both:
 * app/quick.h) or init. An error is a usage error (exit code 2) unless its function says
 * otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "app/quick.h"
#include "app/usage.h"
#include "base/macros.h"
#include "config/config.h"

enum cli_command {
    CLI_RUN,
    CLI_QUICK,
    CLI_INIT,
    CLI_CONVERT,
    CLI_CHECK,
    CLI_STATUS,
    CLI_GENKEY,
    CLI_PUBKEY,
    CLI_VERSION,
    CLI_HELP,
};
enum cli_role { CLI_ROLE_FROM_FILE, CLI_ROLE_SERVER, CLI_ROLE_CLIENT };

struct cli {
    enum cli_command command;
    enum cli_role role;
    /* Never NULL for CLI_RUN, CLI_CHECK, CLI_STATUS; NULL for keys. CLI_QUICK: the name of its text
     * in messages. CLI_INIT: the directory. */
    const char *config_path;
    char *const *convert_words; /* with CLI_CONVERT: from one before its flag on; not parsed */
    struct quick quick;         /* with CLI_QUICK */
    bool is_watching;           /* with CLI_STATUS */
    bool is_path_from_flag; /* from -c or --config: of a file with both halves the client runs */
};

/* -EINVAL: problem says in one line what is wrong. Parsing stops at the first --help, --version,
 * --from-frp or --from-rathole, so these never fail because of what follows them. cli_finish is
 * needed in either case. */
MUST_CHECK int cli_parse(int argc, char *const argv[], struct cli *ret,
                         char problem[static CLI_PROBLEM_SIZE]);
void cli_finish(struct cli *cli);

/* True: the command line says which half runs of a file that has both, and *ret is that half. */
bool cli_is_half_chosen(const struct cli *cli, enum config_role *ret);
/* Which half of the file runs. ERR_CONFIG (exit code 1): the file has no section for the role that
 * the command line asks for. -EINVAL: the file has both halves, and the command line does not
 * choose. */
MUST_CHECK int cli_select_role(const struct cli *cli, const struct config *config,
                               enum config_role *ret, char problem[static CLI_PROBLEM_SIZE]);

/* Writes the text of --help, made from the table of arguments. */
void cli_print_usage(FILE *out);
