/* The command line as a value: pure functions of argv, so that tests can ask for every form. Texts
 * in struct cli are argv's own. Errors are usage errors (exit code 2) unless said otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/macros.h"
#include "config/config.h"

enum cli_command { CLI_RUN, CLI_CHECK, CLI_GENKEY, CLI_PUBKEY, CLI_VERSION, CLI_HELP };
enum cli_role { CLI_ROLE_FROM_FILE, CLI_ROLE_SERVER, CLI_ROLE_CLIENT };

struct cli {
    enum cli_command command;
    enum cli_role role;
    const char *config_path; /* never NULL for CLI_RUN and CLI_CHECK, NULL for keys */
    bool is_path_from_flag;  /* -c or --config: such a file with both roles means client */
};

enum { CLI_PROBLEM_SIZE = 256 };

/* -EINVAL: problem says what is wrong, in one line. The first --help or --version wins over all
 * that follows it. */
MUST_CHECK int cli_parse(int argc, char *const argv[], struct cli *ret,
                         char problem[static CLI_PROBLEM_SIZE]);

/* Which half of the file will run, if it has both; false: nothing says it. */
bool cli_is_half_chosen(const struct cli *cli, enum config_role *ret);
/* Which half of the file runs. ERR_CONFIG (exit code 1): the file has no section for the role that
 * is asked for. -EINVAL: it has both, and nothing says which. */
MUST_CHECK int cli_select_role(const struct cli *cli, const struct config *config,
                               enum config_role *ret, char problem[static CLI_PROBLEM_SIZE]);

/* What --help prints: made from the table of arguments. */
void cli_print_usage(FILE *out);
