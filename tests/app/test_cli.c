#include "app/cli.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { WORDS_MAX = 6 };

struct example {
    const char *words[WORDS_MAX]; /* argv[1] and on */
    enum cli_command command;
    enum cli_role role;
    const char *path;
    bool is_path_from_flag;
    const char *problem; /* NULL: accepted */
};

static int parse(const char *const words[WORDS_MAX], struct cli *ret,
                 char problem[static CLI_PROBLEM_SIZE])
{
    char name[] = "rathole-uring", *argv[WORDS_MAX + 2] = {name}, copies[WORDS_MAX][64];
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        (void)snprintf(copies[argc - 1], sizeof copies[0], "%s", words[argc - 1]);
        argv[argc] = copies[argc - 1];
    }
    int result = cli_parse(argc, argv, ret, problem);
    if (result == 0 && ret->config_path != NULL) {
        static char path[64];
        (void)snprintf(path, sizeof path, "%s", ret->config_path);
        ret->config_path = path;
    }
    cli_finish(ret);
    return result;
}

#define FROM_FILE CLI_ROLE_FROM_FILE
#define GENKEY    "--genkey: expected x25519, the one curve there is, got "
#define NO_FILE   "a configuration FILE is missing, see --help"

static const struct example examples[] = {
    {{"f"}, CLI_RUN, FROM_FILE, "f", false, NULL},
    {{"--server", "f"}, CLI_RUN, CLI_ROLE_SERVER, "f", false, NULL},
    {{"-s", "f"}, CLI_RUN, CLI_ROLE_SERVER, "f", false, NULL},
    {{"f", "-s"}, CLI_RUN, CLI_ROLE_SERVER, "f", false, NULL},
    {{"--client", "f"}, CLI_RUN, CLI_ROLE_CLIENT, "f", false, NULL},
    {{"--client", "--client", "f"}, CLI_RUN, CLI_ROLE_CLIENT, "f", false, NULL},
    {{"-c", "f"}, CLI_RUN, FROM_FILE, "f", true, NULL},
    {{"--config", "f"}, CLI_RUN, FROM_FILE, "f", true, NULL},
    {{"--config=f"}, CLI_RUN, FROM_FILE, "f", true, NULL},
    {{"-s", "-c", "f"}, CLI_RUN, CLI_ROLE_SERVER, "f", true, NULL},
    {{"-c", "f", "--client"}, CLI_RUN, CLI_ROLE_CLIENT, "f", true, NULL},
    {{"-c", "-s"}, CLI_RUN, FROM_FILE, "-s", true, NULL}, /* -c takes the next word */
    {{"--", "-s"}, CLI_RUN, FROM_FILE, "-s", false, NULL},
    {{"-"}, CLI_RUN, FROM_FILE, "-", false, NULL},
    {{"--check", "f"}, CLI_CHECK, FROM_FILE, "f", false, NULL},
    {{"f", "--check"}, CLI_CHECK, FROM_FILE, "f", false, NULL},
    {{"--check", "-c", "f"}, CLI_CHECK, FROM_FILE, "f", true, NULL},
    {{"--genkey"}, CLI_GENKEY, FROM_FILE, NULL, false, NULL},
    {{"--genkey", "x25519"}, CLI_GENKEY, FROM_FILE, NULL, false, NULL},
    {{"--genkey=x25519"}, CLI_GENKEY, FROM_FILE, NULL, false, NULL},
    /* The last command wins. */
    {{"--genkey", "--check", "f"}, CLI_CHECK, FROM_FILE, "f", false, NULL},
    {{"--genkey", "--help"}, CLI_HELP, FROM_FILE, NULL, false, NULL},
    {{"--pubkey"}, CLI_PUBKEY, FROM_FILE, NULL, false, NULL},
    {{"--version"}, CLI_VERSION, FROM_FILE, NULL, false, NULL},
    {{"-V"}, CLI_VERSION, FROM_FILE, NULL, false, NULL},
    {{"--help"}, CLI_HELP, FROM_FILE, NULL, false, NULL},
    {{"-h", "--nonsense"}, CLI_HELP, FROM_FILE, NULL, false, NULL},
    {{"f", "--help"}, CLI_HELP, FROM_FILE, "f", false, NULL},
    /* What follows is the other program's to understand. */
    {{"--from-frp", "f", "g", "--half", "server"}, CLI_CONVERT, FROM_FILE, NULL, false, NULL},
    {{"--from-rathole=f"}, CLI_CONVERT, FROM_FILE, NULL, false, NULL},
    {{"--check", "--from-frp"}, CLI_CONVERT, FROM_FILE, NULL, false, NULL},
    {{"init"}, CLI_INIT, FROM_FILE, ".", false, NULL},
    {{"init", "d"}, CLI_INIT, FROM_FILE, "d", false, NULL},
    {{"init", "--help", "x"}, CLI_HELP, FROM_FILE, NULL, false, NULL},
    {{"server", "--ports", "1"}, CLI_QUICK, CLI_ROLE_SERVER, QUICK_FILE, false, NULL},
    {{"client", "a:1", "2=3"}, CLI_QUICK, CLI_ROLE_CLIENT, QUICK_FILE, false, NULL},
    {{"client", "-h"}, CLI_HELP, CLI_ROLE_CLIENT, QUICK_FILE, false, NULL},
    /* Files that are called like the commands. */
    {{"./server"}, CLI_RUN, FROM_FILE, "./server", false, NULL},
    {{"-c", "client"}, CLI_RUN, FROM_FILE, "client", true, NULL},
    {{"--check", "init"}, CLI_CHECK, FROM_FILE, "init", false, NULL},
    {{"--", "server"}, CLI_RUN, FROM_FILE, "server", false, NULL},

    {{NULL}, .problem = NO_FILE},
    {{"--server"}, .problem = NO_FILE},
    {{"--check"}, .problem = NO_FILE},
    {{"--"}, .problem = NO_FILE},
    {{"-c"}, .problem = "--config needs a FILE"},
    {{"f", "-c"}, .problem = "--config needs a FILE"},
    {{"-c", ""}, .problem = "the name of FILE is empty"},
    {{"--config="}, .problem = "the name of FILE is empty"},
    {{""}, .problem = "the name of FILE is empty"},
    {{"f", "g"}, .problem = "one FILE is enough, \"g\" is another"},
    {{"-c", "f", "g"}, .problem = "one FILE is enough, \"g\" is another"},
    {{"-s", "--client", "f"}, .problem = "--server and --client exclude each other"},
    {{"--server=f"}, .problem = "--server takes no value"},
    {{"--serve", "f"}, .problem = "unknown argument \"--serve\", see --help"},
    {{"--servers", "f"}, .problem = "unknown argument \"--servers\", see --help"},
    {{"--", "-s", "f"}, .problem = "one FILE is enough, \"f\" is another"},
    {{"-x\x1b\n"}, .problem = "unknown argument \"-x??\", see --help"},
    {{"--genkey", "x448"}, .problem = GENKEY "\"x448\""},
    {{"--genkey=x448"}, .problem = GENKEY "\"x448\""},
    {{"--genkey", "f"}, .problem = GENKEY "\"f\""}, /* the next word is rathole's name of a curve */
    {{"--genkey="}, .problem = GENKEY "\"\""},
    {{"--genkey", "X25519"}, .problem = GENKEY "\"X25519\""},
    {{"--genkey", "x25519", "f"}, .problem = "--genkey takes no FILE"},
    {{"f", "--genkey"}, .problem = "--genkey takes no FILE"},
    {{"--pubkey", "f"}, .problem = "--pubkey takes no FILE"}, /* not even the same one */
    {{"--pubkey=f"}, .problem = "--pubkey takes no value"},
    {{"init", "a", "b"}, .problem = "one FILE is enough, \"b\" is another"},
    {{"init", ""}, .problem = "the name of FILE is empty"},
    {{"init", "--force"}, .problem = "unknown argument \"--force\", see --help"},
    {{"server"}, .problem = "server needs --ports, as in --ports 6000-6999"},
};

Test(cli, forms)
{
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *example = &examples[i];
        char problem[CLI_PROBLEM_SIZE] = "";
        struct cli cli = {.command = CLI_HELP};
        int result = parse(example->words, &cli, problem);
        if (example->problem != NULL) {
            cr_expect_eq(result, -EINVAL, "row %zu", i);
            cr_expect_str_eq(problem, example->problem, "row %zu", i);
            continue;
        }
        cr_expect_eq(result, 0, "row %zu: %s", i, problem);
        cr_expect_eq(cli.command, example->command, "row %zu", i);
        cr_expect_eq(cli.role, example->role, "row %zu", i);
        cr_expect_eq(cli.is_path_from_flag, example->is_path_from_flag, "row %zu", i);
        cr_expect_eq(cli.config_path == NULL, example->path == NULL, "row %zu", i);
        if (cli.config_path != NULL && example->path != NULL)
            cr_expect_str_eq(cli.config_path, example->path, "row %zu", i);
    }
}

Test(cli, role)
{
    const enum config_role S = CONFIG_SERVER, C = CONFIG_CLIENT;
    const struct {
        enum cli_role asked;
        bool is_path_from_flag, has_server, has_client;
        int result;
        enum config_role expected;
        const char *problem;
    } rows[] = {
        {FROM_FILE, false, true, false, 0, S, ""},
        {FROM_FILE, false, false, true, 0, C, ""},
        {FROM_FILE, true, true, false, 0, S, ""},
        {FROM_FILE, true, false, true, 0, C, ""},
        {FROM_FILE, true, true, true, 0, C, ""},
        {FROM_FILE, false, true, true, -EINVAL, S,
         "f has [server] and [client]: choose with --server or --client"},
        {CLI_ROLE_SERVER, false, true, true, 0, S, ""},
        {CLI_ROLE_SERVER, true, true, true, 0, S, ""},
        {CLI_ROLE_CLIENT, false, true, true, 0, C, ""},
        {CLI_ROLE_SERVER, false, false, true, ERR_CONFIG, S,
         "f: no [server] section, as --server asks for"},
        {CLI_ROLE_CLIENT, true, true, false, ERR_CONFIG, S,
         "f: no [client] section, as --client asks for"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct cli cli = {.role = rows[i].asked,
                          .config_path = "f",
                          .is_path_from_flag = rows[i].is_path_from_flag};
        struct config config = {.has_server = rows[i].has_server, .has_client = rows[i].has_client};
        char problem[CLI_PROBLEM_SIZE] = "";
        enum config_role role = CONFIG_SERVER;
        cr_expect_eq(cli_select_role(&cli, &config, &role, problem), rows[i].result, "row %zu", i);
        cr_expect_eq(role, rows[i].expected, "row %zu", i);
        cr_expect_str_eq(problem, rows[i].problem, "row %zu", i);
    }
}

/* Errors in the other half are only warnings if the command line says which half runs. */
Test(cli, half_that_is_chosen)
{
    static const struct {
        struct cli cli;
        bool is_chosen;
        enum config_role half;
    } rows[] = {
        {{.role = CLI_ROLE_SERVER}, true, CONFIG_SERVER},
        {{.role = CLI_ROLE_CLIENT}, true, CONFIG_CLIENT},
        {{.role = CLI_ROLE_SERVER, .is_path_from_flag = true}, true, CONFIG_SERVER},
        {{.is_path_from_flag = true}, true, CONFIG_CLIENT},
        {{.role = CLI_ROLE_FROM_FILE}, false, CONFIG_CLIENT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        enum config_role half;
        cr_expect_eq(cli_is_half_chosen(&rows[i].cli, &half), rows[i].is_chosen, "row %zu", i);
        if (rows[i].is_chosen)
            cr_expect_eq(half, rows[i].half, "row %zu", i);
    }
}

Test(cli, usage_names_every_argument)
{
    static const char *const flags[] = {
        "--server", "-s,",        "--client",       "--config",     "-c,",
        "--check",  "--genkey",   "--pubkey",       "--version",    "--help",
        "--bind",   "--ports",    "--noise",        "--server-key", "--token-file",
        "--status", "--from-frp", "--print-config", "init",         "RATHOLE_URING_TOKEN"};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    cr_assert_not_null(out);
    cli_print_usage(out);
    (void)fclose(out);
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        cr_expect_not_null(strstr(text, flags[i]), "%s", flags[i]);
    free(text);
}
