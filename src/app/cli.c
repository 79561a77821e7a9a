#include "app/cli.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

enum argument_effect { SET_COMMAND, SET_ROLE, SET_CONFIG, SET_GENKEY, SET_WATCH };

struct argument {
    const char *flag, *short_flag; /* short_flag may be NULL */
    enum argument_effect effect;
    int number; /* enum cli_command or enum cli_role */
    const char *help;
};

static const struct argument arguments[] = {
    {"--server", "-s", SET_ROLE, CLI_ROLE_SERVER, "run the [server] half of FILE"},
    {"--client", NULL, SET_ROLE, CLI_ROLE_CLIENT, "run the [client] half of FILE"},
    {"--config", "-c", SET_CONFIG, 0, "use FILE; one with both halves runs as client"},
    {"--check", NULL, SET_COMMAND, CLI_CHECK, "check FILE, warn of what is unsafe, and exit"},
    {"--status", NULL, SET_COMMAND, CLI_STATUS, "a table of the services of the running process"},
    {"--watch", NULL, SET_WATCH, 0, "with --status: again every second"},
    {"--genkey", NULL, SET_GENKEY, CLI_GENKEY, "print a new key pair for noise (x25519)"},
    {"--pubkey", NULL, SET_COMMAND, CLI_PUBKEY, "read a private key, print its public key"},
    {"--version", "-V", SET_COMMAND, CLI_VERSION, "version, build and kernel features"},
    {"--help", "-h", SET_COMMAND, CLI_HELP, "this text"},
};

/* Finds an argument by its flag. For "--config=FILE" *ret_value is FILE, else NULL. */
static const struct argument *find(const char *text, const char **ret_value)
{
    size_t size = strcspn(text, "=");
    *ret_value = text[size] == '=' ? text + size + 1 : NULL;
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++) {
        const struct argument *argument = &arguments[i];
        if (strncmp(text, argument->flag, size) == 0 && argument->flag[size] == '\0')
            return argument;
        if (argument->short_flag != NULL && strcmp(text, argument->short_flag) == 0)
            return argument;
    }
    return NULL;
}

static int cli_refuse(char problem[static CLI_PROBLEM_SIZE], const char *before, const char *text,
                      const char *after)
{
    /* argv may hold control characters, and a message has to stay one line. */
    char echo[80];
    (void)snprintf(echo, sizeof echo, "%s", text);
    for (char *at = echo; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    (void)snprintf(problem, CLI_PROBLEM_SIZE, "%s%s%s", before, echo, after);
    return -EINVAL;
}

static int set_path(struct cli *cli, const char *path, bool is_from_flag,
                    char problem[static CLI_PROBLEM_SIZE])
{
    if (*path == '\0')
        return cli_refuse(problem, "the name of FILE is empty", "", "");
    if (cli->config_path != NULL)
        return cli_refuse(problem, "one FILE is enough, \"", path, "\" is another");
    cli->config_path = path;
    cli->is_path_from_flag = is_from_flag;
    return 0;
}

/* rathole's --genkey takes the name of a curve: the next word, unless it is a flag. */
static int set_genkey(struct cli *cli, const char *value, const char *next, bool *ret_used,
                      char problem[static CLI_PROBLEM_SIZE])
{
    *ret_used = value == NULL && next != NULL && next[0] != '-';
    const char *curve = value != NULL ? value : *ret_used ? next : "x25519";
    if (strcmp(curve, "x25519") != 0)
        return cli_refuse(problem, "--genkey: expected x25519, the one curve there is, got \"",
                          curve, "\"");
    cli->command = CLI_GENKEY;
    return 0;
}

/* next: the word that follows, or NULL; *ret_used says whether it was taken. */
static int apply(const struct argument *argument, const char *value, const char *next,
                 struct cli *cli, bool *ret_used, char problem[static CLI_PROBLEM_SIZE])
{
    *ret_used = false;
    if (value != NULL && argument->effect != SET_CONFIG && argument->effect != SET_GENKEY)
        return cli_refuse(problem, "", argument->flag, " takes no value");
    switch (argument->effect) {
    case SET_COMMAND:
        cli->command = (enum cli_command)argument->number;
        return 0;
    case SET_ROLE:
        if (cli->role != CLI_ROLE_FROM_FILE && cli->role != (enum cli_role)argument->number)
            return cli_refuse(problem, "--server and --client exclude each other", "", "");
        cli->role = (enum cli_role)argument->number;
        return 0;
    case SET_WATCH:
        cli->is_watching = true;
        return 0;
    case SET_CONFIG:
        *ret_used = value == NULL;
        if (value == NULL && next == NULL)
            return cli_refuse(problem, "", argument->flag, " needs a FILE");
        return set_path(cli, value != NULL ? value : next, true, problem);
    case SET_GENKEY:
        return set_genkey(cli, value, next, ret_used, problem);
    }
    return -EINVAL;
}

int cli_parse(int argc, char *const argv[], struct cli *ret, char problem[static CLI_PROBLEM_SIZE])
{
    struct cli cli = {.command = CLI_RUN};
    bool is_only_files = false;
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i], *value;
        int result;
        if (!is_only_files && strcmp(text, "--") == 0) {
            is_only_files = true;
            continue;
        }
        if (is_only_files || text[0] != '-' || text[1] == '\0') {
            result = set_path(&cli, text, false, problem);
        } else {
            const struct argument *argument = find(text, &value);
            bool is_next_used;
            if (argument == NULL)
                return cli_refuse(problem, "unknown argument \"", text, "\", see --help");
            result = apply(argument, value, i + 1 < argc ? argv[i + 1] : NULL, &cli, &is_next_used,
                           problem);
            i += result == 0 && is_next_used;
        }
        if (result < 0)
            return result;
        if (cli.command == CLI_HELP || cli.command == CLI_VERSION)
            break;
    }
    if (cli.is_watching && cli.command != CLI_STATUS)
        return cli_refuse(problem, "--watch goes with --status", "", "");
    if (cli.config_path == NULL &&
        (cli.command == CLI_RUN || cli.command == CLI_CHECK || cli.command == CLI_STATUS))
        return cli_refuse(problem, "a configuration FILE is missing, see --help", "", "");
    if (cli.config_path != NULL && (cli.command == CLI_GENKEY || cli.command == CLI_PUBKEY))
        return cli_refuse(problem, cli.command == CLI_GENKEY ? "--genkey" : "--pubkey",
                          " takes no FILE", "");
    *ret = cli;
    return 0;
}

bool cli_is_half_chosen(const struct cli *cli, enum config_role *ret)
{
    *ret = cli->role == CLI_ROLE_SERVER ? CONFIG_SERVER : CONFIG_CLIENT;
    return cli->role != CLI_ROLE_FROM_FILE || cli->is_path_from_flag;
}

int cli_select_role(const struct cli *cli, const struct config *config, enum config_role *ret,
                    char problem[static CLI_PROBLEM_SIZE])
{
    bool is_server = cli->role == CLI_ROLE_SERVER, is_client = cli->role == CLI_ROLE_CLIENT;
    if ((is_server && !config->has_server) || (is_client && !config->has_client)) {
        (void)cli_refuse(problem, "", cli->config_path,
                         is_server ? ": no [server] section, as --server asks for"
                                   : ": no [client] section, as --client asks for");
        return ERR_CONFIG;
    }
    if (cli->role == CLI_ROLE_FROM_FILE) {
        is_server = config->has_server && !config->has_client;
        is_client = config->has_client && (!config->has_server || cli->is_path_from_flag);
    }
    if (!is_server && !is_client)
        return cli_refuse(problem, "", cli->config_path,
                          " has [server] and [client]: choose with --server or --client");
    *ret = is_server ? CONFIG_SERVER : CONFIG_CLIENT;
    return 0;
}

void cli_print_usage(FILE *out)
{
    (void)fputs("usage: rathole-uring [--server | --client] FILE\n"
                "       rathole-uring [--server | --client] -c FILE\n"
                "       rathole-uring --check [--server | --client] FILE\n"
                "       rathole-uring --status [--watch] FILE\n"
                "       rathole-uring --genkey\n"
                "       rathole-uring --pubkey < PRIVATE_KEY\n\n",
                out);
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++) {
        const struct argument *argument = &arguments[i];
        (void)fprintf(out, "  %2s%s %-10s %s\n",
                      argument->short_flag != NULL ? argument->short_flag : "",
                      argument->short_flag != NULL ? "," : " ", argument->flag, argument->help);
    }
    (void)fputs("\nsignals: TERM, INT  let open connections finish; once more: stop at once\n"
                "         USR2       start the program anew, which takes over every socket\n"
                "         HUP        read FILE again; if the program file has changed: as USR2\n"
                "         USR1       write the counters to the log\n",
                out);
}
