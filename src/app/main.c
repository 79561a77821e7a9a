/* The commands, from the command line to the exit code, and the table of the two roles. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/check_addresses.h"
#include "app/cli.h"
#include "app/convert.h"
#include "app/first_process.h"
#include "app/init_command.h"
#include "app/key_commands.h"
#include "app/new_file.h"
#include "app/privileges.h"
#include "app/process.h"
#include "app/program.h"
#include "app/reload.h"
#include "app/run.h"
#include "app/sandbox.h"
#include "app/source.h"
#include "app/status_command.h"
#include "app/transport_check.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/text.h"
#include "client/client.h"
#include "config/config.h"
#include "crypto/keys.h"
#include "crypto/tls.h"
#include "io/file_watch.h"
#include "io/kernel.h"
#include "net/recipe.h"
#include "server/server.h"

/* Only main.c includes the headers of the roles, which scripts/check_layers verifies. The rest of
 * app/ uses struct role. */
static const struct role *const roles[] = {
    [CONFIG_SERVER] = &server_role, [CONFIG_CLIENT] = &client_role};

/* ---- the commands ---- */

/* result: of the reading. Without memory the report may be empty, or end before its first error. */
static void print_report(const char *path, const struct config_report *report, int result)
{
    for (size_t i = 0; i < report->count; i++)
        (void)fprintf(stderr, "%s%s\n",
                      report->messages[i].is_error ? "" : "warning: ", report->messages[i].text);
    if (result == -ENOMEM || (result < 0 && report->count == 0))
        (void)fprintf(stderr, "%s: %s\n", path, error_text(result));
}

static void print_warning(const char *text)
{
    (void)fprintf(stderr, "warning: %s\n", text);
}

static void log_warning(const char *text)
{
    log_warn("%s", text);
}

static void command_log_warnings(const struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++) {
        if (!report->messages[i].is_error)
            log_warning(report->messages[i].text);
    }
}

/* Checks `user` and `group` against this machine's accounts, as a start by root would use them: a
 * start by anybody else has given up root already. */
static int command_check_account(const char *path, const struct config *config,
                                 const struct role *role)
{
    const struct config_peer *peer = config_half(config, role->half);
    struct account account;
    char problem[PRIVILEGES_PROBLEM_SIZE];
    if (peer == NULL)
        return 0;
    if (*peer->user == '\0') {
        if (geteuid() == 0)
            (void)fprintf(stderr,
                          "warning: %s: %s.user: not given: a process that root starts stays root; "
                          "set it, or User= in the unit\n",
                          path, role->name);
        return 0;
    }
    int result = privileges_find(peer->user, peer->group, &account, problem);
    if (result < 0)
        (void)fprintf(stderr, "%s: %s.user: %s\n", path, role->name, problem);
    return result;
}

static int check_accounts(const char *path, const struct config *config)
{
    int result = 0;
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        int account = command_check_account(path, config, roles[i]);
        result = result < 0 ? result : account;
    }
    return result;
}

static int command_load(const struct cli *cli, const struct source *source, struct config **ret,
                        struct config_report *report)
{
    enum config_role half;
    return source_load(source, cli_is_half_chosen(cli, &half) ? &half : NULL, ret, report);
}

/* True, with the transport's recipe if it is wanted, or prints why not. */
static bool command_has_transport(const char *path, const struct config_peer *peer,
                                  const struct role *role, void (*warn)(const char *text),
                                  struct recipe **ret)
{
    char said[TRANSPORT_PROBLEM_SIZE];
    if (transport_check(path, role->half, peer, said, ret) < 0) {
        (void)fprintf(stderr, "%s\n", said);
        return false;
    }
    if (said[0] != '\0')
        warn(said);
    return true;
}

/* After a file with both halves was refused, and the command line does not choose one: says which
 * half is valid. */
static void say_which_half_is_fit(const struct cli *cli)
{
    enum config_role half;
    for (size_t i = 0; !cli_is_half_chosen(cli, &half) && i < ARRAY_SIZE(roles); i++) {
        struct config *config = NULL;
        struct config_report report;
        char problem[TRANSPORT_PROBLEM_SIZE];
        int result = config_load_half(cli->config_path, roles[i]->half, &config, &report);
        const struct config_peer *peer = result == 0 ? config_half(config, roles[i]->half) : NULL;
        if (peer != NULL &&
            transport_check(cli->config_path, roles[i]->half, peer, problem, NULL) == 0)
            (void)fprintf(stderr, "%s: valid for --%s alone\n", cli->config_path, roles[i]->name);
        config_report_finish(&report);
        config_destroy(config);
    }
}

static int check_transports(const struct cli *cli, const struct config *config)
{
    enum config_role chosen;
    bool is_chosen = cli_is_half_chosen(cli, &chosen), are_fit = true;
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        const struct config_peer *peer = config_half(config, roles[i]->half);
        if (peer != NULL && (!is_chosen || chosen == roles[i]->half))
            are_fit &= command_has_transport(cli->config_path, peer, roles[i], print_warning, NULL);
    }
    return are_fit ? 0 : ERR_CONFIG;
}

static int check_role(const struct cli *cli, const struct config *config)
{
    char problem[CLI_PROBLEM_SIZE];
    enum config_role role;
    int result = cli_select_role(cli, config, &role, problem);
    if (result == ERR_CONFIG)
        (void)fprintf(stderr, "rathole-uring: %s\n", problem);
    if (result == -EINVAL) /* either half may run */
        return check_accounts(cli->config_path, config);
    if (result < 0)
        return result;
    return command_check_account(cli->config_path, config, roles[role]);
}

static void print_valid(const char *path, const struct config *config)
{
    char text[LIMIT_CONFIG_TEXT];
    if (config->has_client && config->client.more_addr_count > 0)
        (void)printf("%s: client of %s: %s\n", path,
                     config->client.servers == CONFIG_SERVERS_ALL ? "all" : "the first of",
                     config_addrs_format(&config->client, text, sizeof(text)));
    (void)printf("%s: valid\n", path);
}

/* Prints what a start would print about the file, and what can only be checked on request. */
static int command_check(const struct cli *cli)
{
    struct config *config = NULL;
    struct config_report report;
    const struct source source = {.path = cli->config_path};
    int result = command_load(cli, &source, &config, &report);
    if (result == 0)
        config_check(cli->config_path, config, &report);
    if (result == 0 && config->has_server)
        check_addresses(cli->config_path, &config->server, &report);
    print_report(cli->config_path, &report, result);
    if (result == 0 && report.error_count > 0)
        result = ERR_CONFIG;
    if (result == 0)
        result = check_transports(cli, config);
    if (result == 0)
        result = check_role(cli, config);
    else
        say_which_half_is_fit(cli);
    if (result == 0)
        print_valid(cli->config_path, config);
    config_report_finish(&report);
    config_destroy(config);
    return result == 0 ? EXIT_STOPPED : EXIT_START_ERROR;
}

static int command_status(const struct cli *cli)
{
    struct config *config = NULL;
    struct config_report report;
    const struct source source = {.path = cli->config_path};
    int result = command_load(cli, &source, &config, &report);
    if (result < 0)
        print_report(cli->config_path, &report, result);
    int exit_code = result < 0
                        ? EXIT_START_ERROR
                        : status_command(cli->config_path, &config->status, cli->is_watching);
    config_report_finish(&report);
    config_destroy(config);
    return exit_code;
}

#ifdef HAVE_TLS
#define TRANSPORTS "tcp, noise, tls, websocket"
#else
#define TRANSPORTS "tcp, noise, websocket without TLS"
#endif

static int command_version(void)
{
    char kernel[KERNEL_TEXT_SIZE], sandbox[SANDBOX_TEXT_SIZE];
    (void)printf("rathole-uring " PROJECT_VERSION "\n"
                 "protocol: rathole v0.5 (version 1); transports: " TRANSPORTS
                 "; services: tcp, udp\n"
                 "built with: liburing " LIBURING_BUILD_VERSION ", libsodium " SODIUM_BUILD_VERSION
                 "\n%s\n%s\n",
                 kernel_describe(kernel, sizeof(kernel)), sandbox_describe(sandbox));
#ifdef HAVE_TLS
    const char *library = tls_description();
    (void)printf("TLS: %s\n", library != NULL ? library : "no OpenSSL 3 on this machine");
#endif
    return EXIT_STOPPED;
}

static int command_genkey(void)
{
    int result = key_commands_generate(STDOUT_FILENO);
    if (result < 0)
        (void)fprintf(stderr, "rathole-uring: --genkey: cannot write: %s\n", error_text(result));
    return result == 0 ? EXIT_STOPPED : EXIT_START_ERROR;
}

static int command_pubkey(void)
{
    int result = key_commands_public(STDIN_FILENO, STDOUT_FILENO);
    if (result == -EINVAL)
        (void)fprintf(stderr, "rathole-uring: --pubkey: expected a private key on standard input, "
                              "32 bytes in base64 as --genkey prints them\n");
    else if (result < 0)
        (void)fprintf(stderr, "rathole-uring: --pubkey: %s\n", error_text(result));
    return result == 0 ? EXIT_STOPPED : EXIT_START_ERROR;
}

enum { WELCOME_MAX = 4096 }; /* all of it at once: it may hold the token */

static int command_run(const struct cli *cli, struct source *source, const struct program *program)
{
    struct config *config = NULL;
    struct config_report report;
    char problem[CLI_PROBLEM_SIZE];
    enum config_role role;
    struct recipe *recipe = NULL;
    struct text welcome;
    int result = command_load(cli, source, &config, &report);
    if (result < 0) {
        print_report(cli->config_path, &report, result);
        config_report_finish(&report);
        return EXIT_START_ERROR;
    }
    int exit_code;
    text_init(&welcome, WELCOME_MAX);
    result = cli_select_role(cli, config, &role, problem);
    if (result < 0) {
        (void)fprintf(stderr, "rathole-uring: %s\n", problem);
        exit_code = result == -EINVAL ? EXIT_USAGE : EXIT_START_ERROR;
    } else {
        const struct config_peer *peer = config_half(config, role);
        reload_configure_log(peer);
        config_check(cli->config_path, config, &report);
        command_log_warnings(&report);
        if (cli->command == CLI_QUICK && role == CONFIG_SERVER) {
            quick_write_welcome(&cli->quick, peer, &welcome);
            source->welcome = &welcome;
        }
        exit_code = command_has_transport(cli->config_path, peer, roles[role], log_warning, &recipe)
                        ? run_role(roles[role], peer, &recipe, source, program)
                        : EXIT_START_ERROR;
    }
    source->welcome = NULL;
    keys_wipe(welcome.bytes, welcome.len);
    text_finish(&welcome);
    config_report_finish(&report);
    recipe_destroy(recipe);
    config_destroy(config);
    return exit_code;
}

/* ---- the commands without a file ---- */

/* The words of the command line as a file, printed or run. */
static int command_quick(struct cli *cli, const struct program *program)
{
    char problem[CLI_PROBLEM_SIZE] = "";
    struct text text;
    int result = quick_prepare(&cli->quick, problem);
    if (result < 0) {
        (void)fprintf(stderr, "rathole-uring: %s\n", problem);
        return result == -EINVAL ? EXIT_USAGE : EXIT_START_ERROR;
    }
    text_init(&text, LIMIT_CONFIG_FILE);
    quick_write(&cli->quick, &text);
    struct source source = {.path = QUICK_FILE, .text = text.bytes, .text_size = text.len};
    result = text.failed                ? -ENOMEM
             : cli->quick.prints_config ? write_all(STDOUT_FILENO, text.bytes, text.len)
                                        : 0;
    int exit_code = EXIT_START_ERROR;
    if (result < 0)
        (void)fprintf(stderr, "rathole-uring: " QUICK_FILE ": %s\n", error_text(result));
    else
        exit_code = cli->quick.prints_config ? EXIT_STOPPED : command_run(cli, &source, program);
    text_finish(&text);
    return exit_code;
}

static int command_init(const char *directory)
{
    int result = init_command(directory);
    if (result < 0)
        (void)fprintf(stderr, "rathole-uring: init: new files in %s: %s\n", directory,
                      error_text(result));
    return result == 0 ? EXIT_STOPPED : EXIT_START_ERROR;
}

/* True, or prints why not. */
static bool command_has_random(void)
{
    int result = process_wait_random();
    if (result == 0)
        result = keys_init();
    if (result == -ETIMEDOUT)
        (void)fprintf(stderr,
                      "rathole-uring: the kernel has still no random numbers: give the machine a "
                      "source of them (virtio-rng, rngd, haveged) and start again\n");
    else if (result < 0)
        (void)fprintf(stderr, "rathole-uring: the system provides no random numbers: %s\n",
                      error_text(result));
    return result == 0;
}

static int run_and_forget(struct cli *cli, char *argv[])
{
    struct program program;
    sandbox_init();
    first_process_step_aside(); /* the kernel shields PID 1 from signals, also while it waits */
    if (!command_has_random())
        return EXIT_START_ERROR;
    program_init(&program, argv);
    int exit_code = EXIT_USAGE;
    if (cli->command == CLI_QUICK) {
        exit_code = command_quick(cli, &program);
    } else {
        struct source source = {.path = cli->config_path,
                                .seen = file_watch_stat(cli->config_path)};
        exit_code = command_run(cli, &source, &program);
    }
    program_finish(&program);
    return exit_code;
}

static int command(struct cli *cli, char *argv[])
{
    switch (cli->command) {
    case CLI_RUN:
    case CLI_QUICK:
        return run_and_forget(cli, argv);
    case CLI_INIT:
        return command_has_random() ? command_init(cli->config_path) : EXIT_START_ERROR;
    case CLI_CONVERT:
        (void)convert_exec(cli->convert_words);
        return EXIT_START_ERROR;
    case CLI_CHECK:
        return command_check(cli);
    case CLI_STATUS:
        return command_status(cli);
    case CLI_GENKEY:
        return command_has_random() ? command_genkey() : EXIT_START_ERROR;
    case CLI_PUBKEY:
        return command_pubkey();
    case CLI_VERSION:
        return command_version();
    case CLI_HELP:
        cli_print_usage(stdout);
        return EXIT_STOPPED;
    }
    return EXIT_USAGE;
}

int main(int argc, char *argv[])
{
    struct cli cli;
    char problem[CLI_PROBLEM_SIZE];
    process_secure_start();
    if (limits_from_environment(problem, sizeof(problem)) < 0) {
        (void)fprintf(stderr, "rathole-uring: %s\n", problem);
        return EXIT_START_ERROR;
    }
    if (cli_parse(argc, argv, &cli, problem) < 0) {
        (void)fprintf(stderr, "rathole-uring: %s\n", problem);
        cli_print_usage(stderr);
        cli_finish(&cli);
        return EXIT_USAGE;
    }
    privileges_protect_memory();
    int exit_code = command(&cli, argv);
    cli_finish(&cli);
    return exit_code;
}
