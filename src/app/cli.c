#include "app/cli.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

enum argument_effect {
    SET_COMMAND,
    SET_ROLE,
    SET_GENKEY,
    SET_WATCH,
    SET_NOISE,
    SET_PRINT,
    SET_CONVERT,
    WITH_VALUE, /* from here on */
    SET_CONFIG = WITH_VALUE,
    SET_TOKEN_FILE,
    SET_SERVER_KEY,
    SET_BIND,
    SET_PORTS,
};

/* What the first word may be. */
enum argument_place { IN_FILE = 1, IN_SERVER = 2, IN_CLIENT = 4, IN_INIT = 8, ANYWHERE = 15 };

struct argument {
    const char *flag, *short_flag; /* short_flag may be NULL */
    unsigned char effect, places;
    unsigned char number; /* enum cli_command or enum cli_role */
    const char *help;
};

static const struct argument arguments[] = {
    {"--server", "-s", SET_ROLE, IN_FILE, CLI_ROLE_SERVER, "run the [server] half of FILE"},
    {"--client", NULL, SET_ROLE, IN_FILE, CLI_ROLE_CLIENT, "run the [client] half of FILE"},
    {"--config", "-c", SET_CONFIG, IN_FILE, 0, "use FILE; one with both halves runs as client"},
    {"--check", NULL, SET_COMMAND, IN_FILE, CLI_CHECK,
     "check FILE, warn of what is unsafe, and exit"},
    {"--status", NULL, SET_COMMAND, IN_FILE, CLI_STATUS,
     "a table of the services of the running process"},
    {"--watch", NULL, SET_WATCH, IN_FILE, 0, "with --status: again every second"},
    {"--genkey", NULL, SET_GENKEY, IN_FILE, CLI_GENKEY, "print a new key pair for noise (x25519)"},
    {"--pubkey", NULL, SET_COMMAND, IN_FILE, CLI_PUBKEY,
     "read a private key, print its public key"},
    {"--from-frp", NULL, SET_CONVERT, IN_FILE, 0,
     "print what FILE of frp means, as a FILE of ours"},
    {"--from-rathole", NULL, SET_CONVERT, IN_FILE, 0, "the same for a FILE of rathole"},
    {"--version", "-V", SET_COMMAND, ANYWHERE, CLI_VERSION, "version, build and kernel features"},
    {"--help", "-h", SET_COMMAND, ANYWHERE, CLI_HELP, "this text"},
    {"--ports", NULL, SET_PORTS, IN_SERVER, 0,
     "server: of services, 6000-6999 or 6000-6999/udp; may be repeated"},
    {"--bind", NULL, SET_BIND, IN_SERVER, 0, "server: where clients connect, default :2333"},
    {"--noise", NULL, SET_NOISE, IN_SERVER, 0,
     "server: encrypt, with a key that is made once and kept"},
    {"--server-key", NULL, SET_SERVER_KEY, IN_CLIENT, 0,
     "client: encrypt; the public key of the server"},
    {"--token-file", NULL, SET_TOKEN_FILE, IN_SERVER | IN_CLIENT, 0,
     "both: FILE with the token, or RATHOLE_URING_TOKEN is the token"},
    {"--print-config", NULL, SET_PRINT, IN_SERVER | IN_CLIENT, 0,
     "both: print the FILE that does the same, and exit"},
};

/* Finds an argument by its flag. For "--config=FILE" *ret_value is FILE, else NULL. */
static const struct argument *find(const char *text, enum argument_place place,
                                   const char **ret_value)
{
    size_t size = strcspn(text, "=");
    *ret_value = text[size] == '=' ? text + size + 1 : NULL;
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++) {
        const struct argument *argument = &arguments[i];
        if ((argument->places & place) == 0)
            continue;
        if (strncmp(text, argument->flag, size) == 0 && argument->flag[size] == '\0')
            return argument;
        if (argument->short_flag != NULL && strcmp(text, argument->short_flag) == 0)
            return argument;
    }
    return NULL;
}

static int set_path(struct cli *cli, const char *path, bool is_from_flag,
                    char problem[static CLI_PROBLEM_SIZE])
{
    if (*path == '\0')
        return usage_refuse(problem, "the name of FILE is empty", "", "");
    if (cli->config_path != NULL)
        return usage_refuse(problem, "one FILE is enough, \"", path, "\" is another");
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
        return usage_refuse(problem, "--genkey: expected x25519, the one curve there is, got \"",
                            curve, "\"");
    cli->command = CLI_GENKEY;
    return 0;
}

static int apply_value(const struct argument *argument, const char *value, struct cli *cli,
                       char problem[static CLI_PROBLEM_SIZE])
{
    switch (argument->effect) {
    case SET_TOKEN_FILE:
        cli->quick.token_file = value;
        return 0;
    case SET_SERVER_KEY:
        cli->quick.server_key = value;
        return 0;
    case SET_BIND:
        return quick_set_bind(&cli->quick, value, problem);
    case SET_PORTS:
        return quick_add_ports(&cli->quick, value, problem);
    default:
        return set_path(cli, value, true, problem);
    }
}

/* next: the word that follows, or NULL; *ret_used says whether it was taken. */
static int apply(const struct argument *argument, const char *value, const char *next,
                 struct cli *cli, bool *ret_used, char problem[static CLI_PROBLEM_SIZE])
{
    *ret_used = false;
    if (argument->effect >= WITH_VALUE) {
        *ret_used = value == NULL;
        if (value == NULL && next == NULL)
            return usage_refuse(problem, "", argument->flag,
                                argument->effect <= SET_TOKEN_FILE ? " needs a FILE"
                                                                   : " needs a value");
        return apply_value(argument, value != NULL ? value : next, cli, problem);
    }
    if (value != NULL && argument->effect != SET_GENKEY && argument->effect != SET_CONVERT)
        return usage_refuse(problem, "", argument->flag, " takes no value");
    switch (argument->effect) {
    case SET_ROLE:
        if (cli->role != CLI_ROLE_FROM_FILE && cli->role != (enum cli_role)argument->number)
            return usage_refuse(problem, "--server and --client exclude each other", "", "");
        cli->role = (enum cli_role)argument->number;
        return 0;
    case SET_GENKEY:
        return set_genkey(cli, value, next, ret_used, problem);
    case SET_WATCH:
        cli->is_watching = true;
        return 0;
    case SET_CONVERT:
        cli->command = CLI_CONVERT;
        return 0;
    case SET_NOISE:
        cli->quick.has_noise = true;
        return 0;
    case SET_PRINT:
        cli->quick.prints_config = true;
        return 0;
    default:
        cli->command = (enum cli_command)argument->number;
        return 0;
    }
}

/* Of the first word. */
static enum argument_place cli_place_of(const char *word)
{
    return word == NULL                  ? IN_FILE
           : strcmp(word, "server") == 0 ? IN_SERVER
           : strcmp(word, "client") == 0 ? IN_CLIENT
           : strcmp(word, "init") == 0   ? IN_INIT
                                         : IN_FILE;
}

static int cli_begin(struct cli *cli, enum argument_place place, int words)
{
    if (place == IN_FILE)
        return 0;
    if (place == IN_INIT) {
        cli->command = CLI_INIT;
        return 0;
    }
    cli->command = CLI_QUICK;
    cli->role = place == IN_SERVER ? CLI_ROLE_SERVER : CLI_ROLE_CLIENT;
    cli->config_path = QUICK_FILE;
    return quick_begin(place == IN_SERVER ? CONFIG_SERVER : CONFIG_CLIENT, words, &cli->quick);
}

/* What is missing, or too much. */
static int cli_check(struct cli *cli, char problem[static CLI_PROBLEM_SIZE])
{
    if (cli->command == CLI_QUICK)
        return quick_end(&cli->quick, problem);
    if (cli->is_watching && cli->command != CLI_STATUS)
        return usage_refuse(problem, "--watch goes with --status", "", "");
    if (cli->config_path == NULL && cli->command == CLI_INIT)
        cli->config_path = ".";
    if (cli->config_path == NULL &&
        (cli->command == CLI_RUN || cli->command == CLI_CHECK || cli->command == CLI_STATUS))
        return usage_refuse(problem, "a configuration FILE is missing, see --help", "", "");
    if (cli->config_path != NULL && (cli->command == CLI_GENKEY || cli->command == CLI_PUBKEY))
        return usage_refuse(problem, cli->command == CLI_GENKEY ? "--genkey" : "--pubkey",
                            " takes no FILE", "");
    return 0;
}

int cli_parse(int argc, char *const argv[], struct cli *ret, char problem[static CLI_PROBLEM_SIZE])
{
    enum argument_place place = cli_place_of(argc > 1 ? argv[1] : NULL);
    bool is_only_files = false;
    *ret = (struct cli){.command = CLI_RUN};
    if (cli_begin(ret, place, argc) < 0)
        return usage_refuse(problem, "out of memory", "", "");
    for (int i = place == IN_FILE ? 1 : 2; i < argc; i++) {
        const char *text = argv[i], *value;
        int result;
        if (!is_only_files && strcmp(text, "--") == 0) {
            is_only_files = true;
            continue;
        }
        bool is_word = is_only_files || text[0] != '-' || text[1] == '\0', is_next_used = false;
        const struct argument *argument = is_word ? NULL : find(text, place, &value);
        if (is_word && place == IN_CLIENT)
            result = quick_add_word(&ret->quick, text, problem);
        else if (is_word && place != IN_SERVER)
            result = set_path(ret, text, false, problem);
        else if (argument == NULL)
            result = usage_refuse(problem, "unknown argument \"", text, "\", see --help");
        else
            result = apply(argument, value, i + 1 < argc ? argv[i + 1] : NULL, ret, &is_next_used,
                           problem);
        i += is_next_used;
        if (result < 0)
            return result;
        ret->convert_words = argv + i - 1;
        if (ret->command == CLI_HELP || ret->command == CLI_VERSION || ret->command == CLI_CONVERT)
            return 0;
    }
    return cli_check(ret, problem);
}

void cli_finish(struct cli *cli)
{
    quick_finish(&cli->quick);
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
        (void)usage_refuse(problem, "", cli->config_path,
                           is_server ? ": no [server] section, as --server asks for"
                                     : ": no [client] section, as --client asks for");
        return ERR_CONFIG;
    }
    if (cli->role == CLI_ROLE_FROM_FILE) {
        is_server = config->has_server && !config->has_client;
        is_client = config->has_client && (!config->has_server || cli->is_path_from_flag);
    }
    if (!is_server && !is_client)
        return usage_refuse(problem, "", cli->config_path,
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
                "       rathole-uring --pubkey < PRIVATE_KEY\n"
                "       rathole-uring --from-frp FILE...\n"
                "       rathole-uring server --ports PORTS... [--bind ADDR] [--noise]\n"
                "       rathole-uring client HOST:PORT SERVICE=ADDR... [--server-key KEY]\n"
                "       rathole-uring init [DIR]\n\n",
                out);
    for (size_t i = 0; i < ARRAY_SIZE(arguments); i++) {
        const struct argument *argument = &arguments[i];
        (void)fprintf(out, "  %2s%s %-14s %s\n",
                      argument->short_flag != NULL ? argument->short_flag : "",
                      argument->short_flag != NULL ? "," : " ", argument->flag, argument->help);
    }
    (void)fputs("\nSERVICE=ADDR: 6022=:22, 53/udp=dns:53, web=unix:/path\n"
                "A FILE called server is ./server\n",
                out);
    (void)fputs("\nsignals: TERM, INT  let open connections finish; once more: stop at once\n"
                "         USR2       start the program anew, which takes over every socket\n"
                "         HUP        read FILE again; if the program file has changed: as USR2\n"
                "         USR1       write the counters to the log\n",
                out);
}
