#include "app/init_command.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "crypto/keys.h"

static char place[] = "/tmp/test_init.XXXXXX";

static void begin(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_not_null(mkdtemp(place));
    cr_assert_eq(chdir(place), 0);
}

static void end(void)
{
    char command[80];
    cr_assert_eq(chdir("/"), 0);
    (void)snprintf(command, sizeof command, "rm -rf %s", place);
    cr_expect_eq(system(command), 0);
}

TestSuite(init_command, .init = begin, .fini = end);

static struct config *load(const char *path)
{
    struct config *config = NULL;
    struct config_report report;
    struct stat about;
    cr_assert_eq(stat(path, &about), 0);
    cr_expect_eq(about.st_mode & 07777, 0600);
    cr_assert_eq(config_load(path, &config, &report), 0);
    cr_expect_eq(report.count, 0);
    config_report_finish(&report);
    return config;
}

/* A fresh token on both sides, and the public key of the server's fresh private key. */
Test(init_command, pair)
{
    char before[KEYS_TEXT_SIZE] = "";
    uint8_t public_key[KEYS_X25519_SIZE];
    for (int i = 0; i < 2; i++) {
        (void)umask(i == 0 ? 0 : 0777);
        cr_assert_eq(init_command("."), 0);
        (void)umask(022);
        struct config *server = load("server.ini"), *client = load("client.ini");
        cr_expect_str_eq(server->server.default_token, client->client.default_token);
        cr_expect_neq(strcmp(server->server.default_token, before), 0);
        cr_expect_eq(strlen(server->server.default_token), KEYS_TEXT_SIZE - 1);
        keys_pair_public(server->server.transport.noise.local_private_key, public_key);
        cr_expect_arr_eq(client->client.transport.noise.remote_public_key, public_key,
                         sizeof public_key);
        cr_expect_eq(server->server.addr.port, client->client.addr.port);
        cr_expect_str_eq(server->server.services[0].name, client->client.services[0].name);
        (void)snprintf(before, sizeof before, "%s", server->server.default_token);
        config_destroy(server);
        config_destroy(client);
        cr_assert(unlink("server.ini") == 0 && unlink("client.ini") == 0);
    }
}

/* Nothing is overwritten, and there is never one file without the other. */
Test(init_command, files_that_are_there)
{
    cr_assert_eq(mkdir("a", 0700), 0);
    cr_assert_eq(symlink("nowhere", "a/client.ini"), 0);
    cr_expect_eq(init_command("a"), -EEXIST);
    cr_expect_eq(access("server.ini", F_OK), -1); /* it has gone there */
    cr_assert_eq(chdir(place), 0);
    cr_assert_eq(init_command("."), 0);
    cr_expect_eq(init_command("."), -EEXIST);
    cr_expect_eq(access("client.ini", F_OK), 0);
}

Test(init_command, directories_that_are_wrong)
{
    static char far[5000];
    memset(far, 'f', sizeof far - 1);
    cr_expect_eq(init_command(far), -ENAMETOOLONG);
    cr_expect_eq(init_command("nowhere"), -ENOENT);
}
