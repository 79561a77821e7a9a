#include "app/key_commands.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "crypto/keys.h"

#define PRIVATE "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM="
#define PUBLIC  "Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4="

static void init_keys(void)
{
    cr_assert_eq(keys_init(), 0);
}

TestSuite(key_commands, .init = init_keys);

/* Returns the read end of a pipe that holds the text and has no writer left. */
static int input(const char *text, size_t size)
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    cr_assert_eq(write(fds[1], text, size), (ssize_t)size);
    (void)close(fds[1]);
    return fds[0];
}

/* Runs --pubkey on the input and compares its output; text may be NULL if it is expected to
 * fail. */
static int public_of(const char *text, size_t size, char *ret, size_t ret_size)
{
    int in = input(text, size), fds[2];
    cr_assert_eq(pipe(fds), 0);
    int result = key_commands_public(in, fds[1]);
    (void)close(fds[1]);
    ssize_t got = read(fds[0], ret, ret_size - 1);
    cr_assert_geq(got, 0);
    ret[got] = '\0';
    (void)close(fds[0]);
    (void)close(in);
    return result;
}

Test(key_commands, pairs_belong_together)
{
    char first[256] = "", out[256];
    for (unsigned int i = 0; i < 20; i++) {
        int fds[2];
        cr_assert_eq(pipe(fds), 0);
        cr_assert_eq(key_commands_generate(fds[1]), 0);
        (void)close(fds[1]);
        char text[256] = "", private_text[KEYS_TEXT_SIZE], public_text[KEYS_TEXT_SIZE],
             expected[256];
        cr_assert_gt(read(fds[0], text, sizeof(text) - 1), 0);
        (void)close(fds[0]);
        cr_assert_eq(sscanf(text, "Private Key:\n%44s\n\nPublic Key:\n%44s\n", private_text,
                            public_text),
                     2, "%s", text);
        (void)snprintf(expected, sizeof(expected), "Private Key:\n%s\n\nPublic Key:\n%s\n",
                       private_text, public_text);
        cr_expect_str_eq(text, expected);
        cr_expect_eq(public_of(private_text, 44, out, sizeof(out)), 0);
        cr_expect(strncmp(out, public_text, 44) == 0 && strcmp(out + 44, "\n") == 0, "%s", out);
        cr_expect_neq(strcmp(text, first), 0, "each is another");
        (void)snprintf(first, sizeof(first), "%s", text);
    }
}

Test(key_commands, white_space_around_a_key)
{
    static const char *const texts[] = {PRIVATE, PRIVATE "\n", PRIVATE "\r\n",
                                        "\xef\xbb\xbf" PRIVATE "\r\n",
                                        "\n\t  " PRIVATE " \v\f\n\n"};
    char out[256];
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        cr_expect_eq(public_of(texts[i], strlen(texts[i]), out, sizeof(out)), 0, "row %zu", i);
        cr_expect_str_eq(out, PUBLIC "\n");
    }
    static char long_text[4097];
    memset(long_text, ' ', sizeof(long_text));
    memcpy(long_text + 1000, PRIVATE, 44);
    cr_expect_eq(public_of(long_text, 4096, out, sizeof(out)), 0);
    cr_expect_str_eq(out, PUBLIC "\n");
    cr_expect_eq(public_of(long_text, 4097, out, sizeof(out)), -EINVAL);
    cr_expect_str_eq(out, "");
}

Test(key_commands, what_is_no_key)
{
    static const char *const texts[] = {
        "",
        "\n",
        "hello",
        "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM",
        PRIVATE "x",
        PRIVATE "\n" PUBLIC,
        "uXXAOPKrzLglwiRV 5butkoeJLLsZNdQ3dJfQO15SNxM=",
        "Private Key:\n" PRIVATE "\n\nPublic Key:\n" PUBLIC "\n",
    };
    char out[256];
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        cr_expect_eq(public_of(texts[i], strlen(texts[i]), out, sizeof(out)), -EINVAL, "row %zu",
                     i);
        cr_expect_str_eq(out, "");
    }
    cr_expect_eq(public_of(PRIVATE "\0", 45, out, sizeof(out)), -EINVAL);
}

Test(key_commands, descriptors_that_fail)
{
    int full = open("/dev/full", O_WRONLY), in = input(PRIVATE, 44);
    cr_assert_geq(full, 0);
    cr_expect_eq(key_commands_generate(full), -ENOSPC);
    cr_expect_eq(key_commands_public(in, full), -ENOSPC);
    cr_expect_eq(key_commands_public(-1, full), -EBADF);
    cr_expect_eq(key_commands_generate(-1), -EBADF);
    (void)close(full);
    (void)close(in);
}
