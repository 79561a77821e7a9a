/* [*.transport.noise]: what its keys are read as, which of them a pattern needs on which side, and
 * the messages, none of which quotes a key. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/keys.h"
#include "whole_files.h"

/* Two key pairs. */
#define SERVER_PRIVATE "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM="
#define SERVER_PUBLIC  "Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4="
#define CLIENT_PRIVATE "xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQlMI8Q="
#define CLIENT_PUBLIC  "CMxj8TvuDnoa2cq3NOWIKYIJeuHOrToqhb/ZUJ9DNm4="

#define NK "Noise_NK_25519_ChaChaPoly_BLAKE2s"
#define XX "Noise_XX_25519_ChaChaPoly_BLAKE2s"
#define KK "Noise_KK_25519_ChaChaPoly_BLAKE2s"

/* Lines 6 to 9 ("pattern"); the keys that follow begin in line 10. */
#define SERVER_NOISE \
    SERVER SERVICE   \
        "[server.transport]\ntype=noise\n[server.transport.noise]\npattern=" /* value follows */
#define CLIENT_NOISE \
    CLIENT LOCAL "[client.transport]\ntype=noise\n[client.transport.noise]\npattern="
#define OWN(key)    "\nlocal_private_key=" key
#define REMOTE(key) "\nremote_public_key=" key

static void init_keys(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(noise, .init = init_keys);

static void check_key(bool has, const uint8_t *key, const char *expected)
{
    uint8_t bytes[KEYS_X25519_SIZE] = {0};
    cr_expect_eq(has, expected != NULL);
    if (expected != NULL)
        cr_assert_eq(keys_from_text(expected, strlen(expected), bytes), 0);
    cr_expect(memcmp(key, bytes, sizeof bytes) == 0, "%s", expected != NULL ? expected : "none");
}

static void check_noise(const struct config_peer *peer, enum noise_pattern pattern,
                        const char *local_private, const char *remote_public)
{
    const struct config_noise *noise = &peer->transport.noise;
    cr_expect_eq(peer->transport.type, CONFIG_TRANSPORT_NOISE);
    cr_expect_eq(noise->pattern, pattern);
    check_key(noise->has_local_private_key, noise->local_private_key, local_private);
    check_key(noise->has_remote_public_key, noise->remote_public_key, remote_public);
}

/* ---- valid files ---- */

Test(noise, rathole_files_of_each_pattern)
{
    static const struct {
        const char *path;
        enum noise_pattern pattern;
        const char *keys[2][2]; /* server, client: local and remote */
        const char *said;
    } rows[] = {
        {CONFIG_TEST_DATA "/noise.toml",
         NOISE_NK,
         {{SERVER_PRIVATE, NULL}, {NULL, SERVER_PUBLIC}},
         ""},
        {CONFIG_TEST_DATA "/noise_kk.ini",
         NOISE_KK,
         {{SERVER_PRIVATE, CLIENT_PUBLIC}, {CLIENT_PRIVATE, SERVER_PUBLIC}},
         ""},
        {CONFIG_TEST_DATA "/noise_xx.toml",
         NOISE_XX,
         {{NULL, NULL}, {NULL, NULL}},
         "W " CONFIG_TEST_DATA "/noise_xx.toml:8: client.transport.noise.remote_public_key: not "
         "given, and " XX " does not authenticate the server without it: anybody on the path can "
         "stand in for it\n"
         "W " CONFIG_TEST_DATA "/noise_xx.toml:21: server.transport.noise.remote_public_key: not "
         "given, and " XX " does not authenticate the client without it: its tokens alone do\n"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct config *config = load(rows[i].path);
        cr_expect_str_eq(said(), rows[i].said, "%s", said());
        check_noise(&config->server, rows[i].pattern, rows[i].keys[0][0], rows[i].keys[0][1]);
        check_noise(&config->client, rows[i].pattern, rows[i].keys[1][0], rows[i].keys[1][1]);
        config_destroy(config);
    }
}

/* The type may come after the keys, and the pattern has a default. */
Test(noise, order_and_defaults)
{
    struct config *config = parse("[server.transport.noise]\nlocal_private_key='" SERVER_PRIVATE
                                  "'\n" SERVER SERVICE "[server.transport]\ntype=\"noise\"\n");
    cr_assert_not_null(config, "%s", said());
    check_noise(&config->server, NOISE_NK, SERVER_PRIVATE, NULL);
    config_destroy(config);
}

/* Files with this removed key still run, with one warning from --check (docs/decisions.md,
 * "Removed: zerocopy_send"). */
Test(noise, zerocopy_send_is_taken_and_ignored)
{
    static const char *const values[] = {"auto", "on", "off", "yes"};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        char text[1024];
        (void)snprintf(text, sizeof text, "%s\nzerocopy_send=%s\n",
                       SERVER_NOISE KK OWN(SERVER_PRIVATE) REMOTE(CLIENT_PUBLIC), values[i]);
        struct config *config = parse(text);
        cr_assert_not_null(config, "%s", said());
        check_noise(&config->server, NOISE_KK, SERVER_PRIVATE, CLIENT_PUBLIC);
        cr_expect_str_eq(said(), "");
        config_check("/nonexistent", config, &report);
        cr_expect_str_eq(said(), "W f:12: server.transport.noise.zerocopy_send: has no effect "
                                 "(removed: no gain was ever measured)\n");
        config_destroy(config);
    }
}

/* ---- what a pattern needs ---- */

#define NEEDS_OWN(role, other, line, name)                                                    \
    "f:" line ": " role ".transport.noise.local_private_key: missing, " name                  \
    " needs it: make a key pair with rathole-uring --genkey; the private key goes here, the " \
    "public key into " other ".transport.noise.remote_public_key of the other side\n"
#define NEEDS_REMOTE(role, other, line, name)                                                    \
    "f:" line ": " role ".transport.noise.remote_public_key: missing, " name " needs the " other \
    "'s public key here: rathole-uring --genkey makes it together with the private key, which "  \
    "goes into " other ".transport.noise.local_private_key of the other side\n"
#define NOT_GIVEN(role, other, reason)                                      \
    "W f:8: " role ".transport.noise.remote_public_key: not given, and " XX \
    " does not authenticate the " other " without it: " reason "\n"
#define SERVER_IS_ANYBODY NOT_GIVEN("client", "server", "anybody on the path can stand in for it")
#define CLIENT_HAS_TOKENS NOT_GIVEN("server", "client", "its tokens alone do")

Test(noise, needs_of_each_pattern_and_role)
{
    static const struct example examples[] = {
        {SERVER_NOISE NK, NEEDS_OWN("server", "client", "8", NK)},
        {SERVER_NOISE NK OWN(SERVER_PRIVATE), ""},
        {SERVER_NOISE NK REMOTE(CLIENT_PUBLIC), NEEDS_OWN("server", "client", "8", NK)},
        {SERVER_NOISE NK OWN(SERVER_PRIVATE) REMOTE(CLIENT_PUBLIC), ""},
        {CLIENT_NOISE NK, NEEDS_REMOTE("client", "server", "8", NK)},
        {CLIENT_NOISE NK OWN(CLIENT_PRIVATE), NEEDS_REMOTE("client", "server", "8", NK)},
        {CLIENT_NOISE NK REMOTE(SERVER_PUBLIC), ""},
        {CLIENT_NOISE NK OWN(CLIENT_PRIVATE) REMOTE(SERVER_PUBLIC), ""},

        {SERVER_NOISE KK,
         NEEDS_OWN("server", "client", "8", KK) NEEDS_REMOTE("server", "client", "8", KK)},
        {SERVER_NOISE KK OWN(SERVER_PRIVATE), NEEDS_REMOTE("server", "client", "8", KK)},
        {SERVER_NOISE KK REMOTE(CLIENT_PUBLIC), NEEDS_OWN("server", "client", "8", KK)},
        {SERVER_NOISE KK OWN(SERVER_PRIVATE) REMOTE(CLIENT_PUBLIC), ""},
        {CLIENT_NOISE KK,
         NEEDS_OWN("client", "server", "8", KK) NEEDS_REMOTE("client", "server", "8", KK)},
        {CLIENT_NOISE KK OWN(CLIENT_PRIVATE), NEEDS_REMOTE("client", "server", "8", KK)},
        {CLIENT_NOISE KK REMOTE(SERVER_PUBLIC), NEEDS_OWN("client", "server", "8", KK)},
        {CLIENT_NOISE KK OWN(CLIENT_PRIVATE) REMOTE(SERVER_PUBLIC), ""},

        {SERVER_NOISE XX, CLIENT_HAS_TOKENS},
        {SERVER_NOISE XX OWN(SERVER_PRIVATE), CLIENT_HAS_TOKENS},
        {SERVER_NOISE XX REMOTE(CLIENT_PUBLIC), ""},
        {SERVER_NOISE XX OWN(SERVER_PRIVATE) REMOTE(CLIENT_PUBLIC), ""},
        {CLIENT_NOISE XX, SERVER_IS_ANYBODY},
        {CLIENT_NOISE XX OWN(CLIENT_PRIVATE), SERVER_IS_ANYBODY},
        {CLIENT_NOISE XX REMOTE(SERVER_PUBLIC), ""},
        {CLIENT_NOISE XX OWN(CLIENT_PRIVATE) REMOTE(SERVER_PUBLIC), ""},

        /* Without the section, the message has the line of "type". */
        {SERVER SERVICE "[server.transport]\ntype=noise\n", NEEDS_OWN("server", "client", "7", NK)},
        {CLIENT LOCAL "[client.transport]\ntype=noise\n",
         NEEDS_REMOTE("client", "server", "7", NK)},
    };
    CHECK_EXAMPLES(examples);
}

/* Keys that the pattern does not use are dropped, so that no code can rely on them. */
Test(noise, keys_without_use_are_dropped)
{
    struct config *config = parse(SERVER_NOISE NK OWN(SERVER_PRIVATE) REMOTE(CLIENT_PUBLIC));
    check_noise(&config->server, NOISE_NK, SERVER_PRIVATE, NULL);
    config_check("/nonexistent", config, &report);
    cr_expect_str_eq(said(), "W f:11: server.transport.noise.remote_public_key: has no effect "
                             "with " NK " on this side\n");
    config_destroy(config);

    config = parse(CLIENT_NOISE NK OWN(CLIENT_PRIVATE) REMOTE(SERVER_PUBLIC));
    check_noise(&config->client, NOISE_NK, NULL, SERVER_PUBLIC);
    cr_expect(config->has_inline_secrets, "it stands in the file all the same");
    config_check("/nonexistent", config, &report);
    cr_expect_str_eq(said(), "W f:10: client.transport.noise.local_private_key: has no effect "
                             "with " NK " on this side\n");
    config_destroy(config);
}

Test(noise, pairs_that_are_mixed_up)
{
    static const struct example examples[] = {
        {SERVER_NOISE KK OWN(SERVER_PRIVATE) REMOTE(SERVER_PUBLIC),
         "W f:11: server.transport.noise.remote_public_key: belongs to the local_private_key of "
         "this side: the client's public key belongs here\n"},
        {CLIENT_NOISE XX OWN(CLIENT_PRIVATE) REMOTE(CLIENT_PUBLIC),
         "W f:11: client.transport.noise.remote_public_key: belongs to the local_private_key of "
         "this side: the server's public key belongs here\n"},
        {CLIENT_NOISE KK OWN(CLIENT_PRIVATE) REMOTE(CLIENT_PRIVATE),
         "f:11: client.transport.noise.remote_public_key: is the same as local_private_key: the "
         "server's public key belongs here\n"},
        {SERVER_NOISE XX OWN(SERVER_PRIVATE) REMOTE(SERVER_PRIVATE),
         "f:11: server.transport.noise.remote_public_key: is the same as local_private_key: the "
         "client's public key belongs here\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* ---- values ---- */

#define ONE_OF(suggestion, got)                                                           \
    "f:9: client.transport.noise.pattern: expected one of " NK ", " XX ", " KK suggestion \
    ", got \"" got "\"\n"

/* With an invalid pattern no keys are reported as missing. */
Test(noise, patterns)
{
    static const struct example examples[] = {
        {CLIENT_NOISE "Noise_NK_448_ChaChaPoly_BLAKE2s\n",
         ONE_OF(" (did you mean " NK "?)", "Noise_NK_448_ChaChaPoly_BLAKE2s")},
        {CLIENT_NOISE "Noise_KK_25519_AESGCM_BLAKE2s\n",
         ONE_OF(" (did you mean " KK "?)", "Noise_KK_25519_AESGCM_BLAKE2s")},
        {CLIENT_NOISE "Noise_XX_25519_ChaChaPoly_SHA256\n",
         ONE_OF(" (did you mean " XX "?)", "Noise_XX_25519_ChaChaPoly_SHA256")},
        {CLIENT_NOISE "Noise_NK_448_AESGCM_SHA512\n", ONE_OF("", "Noise_NK_448_AESGCM_SHA512")},
        {CLIENT_NOISE "noise_kk_25519_chachapoly_blake2s\n",
         ONE_OF(" (did you mean " KK "?)", "noise_kk_25519_chachapoly_blake2s")},
        {CLIENT_NOISE "Noise_IK_25519_ChaChaPoly_BLAKE2s\n",
         ONE_OF("", "Noise_IK_25519_ChaChaPoly_BLAKE2s")},
        {CLIENT_NOISE "XX\n", ONE_OF("", "XX")},
        {CLIENT_NOISE "\"\"\n", ONE_OF("", "")},
        {CLIENT_NOISE "\"" KK " \"" OWN(CLIENT_PRIVATE), ONE_OF(" (did you mean " KK "?)", KK " ")},
    };
    CHECK_EXAMPLES(examples);
}

#define EXPECTED(key)                                                                              \
    "f:10: client.transport.noise." key ": expected 32 bytes in base64 as rathole-uring --genkey " \
    "prints them (44 characters), file:PATH or env:NAME; got "

/* An invalid key is not reported as missing, and the message does not quote it. */
Test(noise, keys_that_are_none)
{
    static const char hush[] = "xkI4t3qZ";
    static const struct example examples[] = {
        {CLIENT_NOISE XX OWN("xkI4t3qZ") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "8 characters\n"},
        {CLIENT_NOISE KK OWN("xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQlMI8Q") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "43 characters\n"},
        {CLIENT_NOISE KK OWN(CLIENT_PRIVATE CLIENT_PRIVATE) REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "88 characters\n"},
        /* URL-safe base64, non-zero padding bits, 31 bytes, 33 bytes. */
        {CLIENT_NOISE KK OWN("xkI4t3qZ7qidOuKpix_7K3S0QJrEtl3NKWdyCQlMI8Q=") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "44 characters that are something else\n"},
        {CLIENT_NOISE KK OWN("xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQlMI8R=") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "44 characters that are something else\n"},
        {CLIENT_NOISE KK OWN("xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQlMIw==") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "44 characters that are something else\n"},
        {CLIENT_NOISE KK OWN("xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQlMI8SX") REMOTE(SERVER_PUBLIC),
         EXPECTED("local_private_key") "44 characters that are something else\n"},
        /* Part of a private key where the public one belongs is not quoted either. */
        {CLIENT_NOISE NK REMOTE("xkI4t3qZ7qidOuKpix/7K3S0QJrEtl3NKWdyCQl"),
         EXPECTED("remote_public_key") "39 characters\n"},
        {CLIENT_NOISE NK REMOTE("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
         "f:10: client.transport.noise.remote_public_key: a key of zeros is not valid\n"},
        {CLIENT_NOISE NK REMOTE("env:RU_NO_SUCH_VARIABLE"),
         "f:10: client.transport.noise.remote_public_key: environment variable "
         "\"RU_NO_SUCH_VARIABLE\" is not set\n"},
    };
    CHECK_EXAMPLES(examples);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        config_destroy(parse(examples[i].text));
        cr_expect_null(strstr(said(), hush), "%s", said());
    }
}

#define EMPTY(role, key) \
    "W f:10: " role ".transport.noise." key ": is empty and counts as not given\n"

/* Generators write all keys of a section; rathole ignores those that its pattern does not use. */
Test(noise, empty_keys)
{
    static const struct example examples[] = {
        {SERVER_NOISE NK REMOTE("''") OWN(SERVER_PRIVATE), EMPTY("server", "remote_public_key")},
        {CLIENT_NOISE NK OWN("\"\"") REMOTE(SERVER_PUBLIC), EMPTY("client", "local_private_key")},
        {CLIENT_NOISE XX REMOTE("''"),
         "W f:8: client.transport.noise.remote_public_key: not given, and " XX
         " does not authenticate the server without it: anybody on the path can stand in for "
         "it\n" EMPTY("client", "remote_public_key")},
        {CLIENT_NOISE NK REMOTE("''"),
         "f:8: client.transport.noise.remote_public_key: missing, " NK
         " needs the server's public key here: rathole-uring --genkey makes it together with the "
         "private key, which goes into server.transport.noise.local_private_key of the other "
         "side\n" EMPTY("client", "remote_public_key")},
    };
    CHECK_EXAMPLES(examples);
}

/* ---- keys from files and variables ---- */

static char directory[] = "/tmp/test_noise_XXXXXX";

static void make_directory(void)
{
    init_keys();
    cr_assert_not_null(mkdtemp(directory));
}

static const char *file_path(const char *name)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void write_file(const char *name, const char *text, mode_t mode)
{
    FILE *file = fopen(file_path(name), "w");
    cr_assert_not_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
    cr_assert_eq(chmod(file_path(name), mode), 0);
}

static void remove_directory(void)
{
    (void)unlink(file_path("own"));
    (void)unlink(file_path("remote"));
    (void)rmdir(directory);
}

TestSuite(noise_files, .init = make_directory, .fini = remove_directory);

Test(noise_files, from_files_and_the_environment)
{
    write_file("own", SERVER_PRIVATE "\n", 0600);
    write_file("remote", "\n  " CLIENT_PUBLIC "\t\r\n\n", 0644);
    (void)setenv("CREDENTIALS_DIRECTORY", directory, 1);
    struct config *config = parse(SERVER_NOISE KK OWN("file:${CREDENTIALS_DIRECTORY}/own")
                                      REMOTE("file:${CREDENTIALS_DIRECTORY}/remote"));
    cr_assert_not_null(config, "%s", said());
    check_noise(&config->server, NOISE_KK, SERVER_PRIVATE, CLIENT_PUBLIC);
    cr_expect(config->has_inline_secrets, "the token is one");
    config_check("/nonexistent", config, &report);
    cr_expect_str_eq(said(), "", "a public key may be read by everybody");
    config_destroy(config);

    (void)setenv("RU_TEST_OWN", SERVER_PRIVATE, 1);
    (void)setenv("RU_TEST_REMOTE", CLIENT_PUBLIC, 1);
    config = parse(SERVER_NOISE KK OWN("env:RU_TEST_OWN") REMOTE("env:RU_TEST_REMOTE"));
    cr_assert_not_null(config, "%s", said());
    check_noise(&config->server, NOISE_KK, SERVER_PRIVATE, CLIENT_PUBLIC);
    config_destroy(config);

    /* The whole output of --genkey is not one key, and is not quoted. */
    write_file("own", "Private Key:\n" SERVER_PRIVATE "\n\nPublic Key:\n" SERVER_PUBLIC "\n", 0600);
    cr_expect_null(parse(SERVER_NOISE NK OWN("file:${CREDENTIALS_DIRECTORY}/own")));
    cr_expect_not_null(strstr(said(), "(44 characters), file:PATH or env:NAME; got 115 characters"),
                       "%s", said());
    cr_expect_null(strstr(said(), "uXXAOPKr"));
}

#define NO_TOKEN_INLINE                                                          \
    "[server]\nbind_addr=127.0.0.1:1\ndefault_token=env:RU_TEST_TOKEN\n" SERVICE \
    "[server.transport]\ntype="

/* An inline private key is a secret like a token: --check warns of a world-readable file. */
Test(noise_files, inline_private_keys_are_secrets)
{
    static const struct {
        const char *text;
        bool has_inline_secrets;
    } rows[] = {
        {NO_TOKEN_INLINE "noise\n[server.transport.noise]" OWN(SERVER_PRIVATE), true},
        {NO_TOKEN_INLINE "noise\n[server.transport.noise]" OWN("env:RU_TEST_OWN"), false},
        {NO_TOKEN_INLINE "noise\n[server.transport.noise]" OWN("env:RU_TEST_OWN")
             REMOTE(CLIENT_PUBLIC),
         false},
        {NO_TOKEN_INLINE "tcp\n[server.transport.noise]" OWN(SERVER_PRIVATE), true},
        {NO_TOKEN_INLINE "tcp\n[server.transport.noise]" OWN("env:RU_TEST_OWN"), false},
        {NO_TOKEN_INLINE "tcp\n[server.transport.noise]" REMOTE(CLIENT_PUBLIC), false},
    };
    (void)setenv("RU_TEST_TOKEN", "t", 1);
    (void)setenv("RU_TEST_OWN", SERVER_PRIVATE, 1);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct config *config = parse(rows[i].text);
        cr_assert_not_null(config, "%s", said());
        cr_expect_eq(config->has_inline_secrets, rows[i].has_inline_secrets, "row %zu", i);
        write_file("own", rows[i].text, 0644);
        config_check(file_path("own"), config, &report);
        cr_expect_eq(strstr(said(), "every user can read the secrets in it") != NULL,
                     rows[i].has_inline_secrets, "row %zu: %s", i, said());
        config_destroy(config);
    }
}

Test(noise_files, check_warns_of_a_readable_key_file)
{
    (void)setenv("CREDENTIALS_DIRECTORY", directory, 1);
    for (unsigned int i = 0; i < 2; i++) {
        write_file("own", SERVER_PRIVATE "\n", i == 0 ? 0640 : 0644);
        struct config *config = parse(SERVER_NOISE NK OWN("file:${CREDENTIALS_DIRECTORY}/own"));
        cr_assert_not_null(config, "%s", said());
        config_check("/nonexistent", config, &report);
        cr_expect_str_eq(said(), i == 0 ? ""
                                        : "W f:10: server.transport.noise.local_private_key: every "
                                          "user can read the file with the secret; chmod 600 fixes "
                                          "it\n");
        config_destroy(config);
    }
}

/* ---- another transport ---- */

/* Without type = noise no key is parsed and no file opened: rathole's full example has placeholders
 * there. */
Test(noise, without_noise_nothing_is_looked_at)
{
    struct config *config =
        parse("[server]\nbind_addr=127.0.0.1:1\ndefault_token=t\n" SERVICE
              "[server.transport.noise]\npattern=x" OWN("file:/nonexistent")
                  REMOTE("y") "\nzerocopy_send=z\n[server.transport]\ntype=tcp\n");
    cr_assert_not_null(config, "%s", said());
    const struct config_noise *noise = &config->server.transport.noise;
    check_key(noise->has_local_private_key, noise->local_private_key, NULL);
    check_key(noise->has_remote_public_key, noise->remote_public_key, NULL);
    config_check("/nonexistent", config, &report);
    cr_expect_str_eq(
        said(),
        "W f:7: server.transport.noise.pattern: has no effect (for type = noise)\n"
        "W f:8: server.transport.noise.local_private_key: has no effect (for type = noise)\n"
        "W f:9: server.transport.noise.remote_public_key: has no effect (for type = noise)\n"
        "W f:10: server.transport.noise.zerocopy_send: has no effect (removed: no gain was "
        "ever measured)\n");
    config_destroy(config);

    /* An invalid type is one error, not two. */
    static const struct example examples[] = {
        {SERVER SERVICE "[server.transport]\ntype=nois\n[server.transport.noise]\npattern=x\n",
         "f:7: server.transport.type: expected tcp, noise, tls or websocket, got \"nois\"\n"},
        {SERVER_NOISE NK OWN(SERVER_PRIVATE) OWN(SERVER_PRIVATE),
         "f:11: server.transport.noise.local_private_key: defined twice, first in line 10\n"},
        {SERVER_NOISE NK OWN(SERVER_PRIVATE) "\nremote_key=x",
         "f:11: server.transport.noise.remote_key: unknown key, the keys here are pattern, "
         "local_private_key, remote_public_key, zerocopy_send\n"},
    };
    CHECK_EXAMPLES(examples);
}
