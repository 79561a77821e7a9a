#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "secret_priv.h"

static char directory[] = "/tmp/test_secret_XXXXXX";

static void make_directory(void)
{
    cr_assert_not_null(mkdtemp(directory));
}

static void remove_directory(void)
{
    char path[64];
    (void)snprintf(path, sizeof path, "%s/s", directory);
    (void)unlink(path);
    (void)rmdir(directory);
}

TestSuite(secret, .init = make_directory, .fini = remove_directory);

static void write_secret(const void *bytes, size_t size, mode_t mode)
{
    char path[64];
    (void)snprintf(path, sizeof path, "%s/s", directory);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    (void)fclose(file);
    cr_assert_eq(chmod(path, mode), 0);
}

static bool is_stripped; /* of the last secret */

static void check(const char *value, const char *expected, const char *expected_problem)
{
    char problem[512] = "";
    struct secret secret = {0};
    int result = secret_resolve(value, &secret, problem, sizeof problem);
    cr_expect_eq(result, expected != NULL ? 0 : ERR_CONFIG);
    cr_expect_str_eq(problem, expected != NULL ? "" : expected_problem);
    if (expected != NULL && result == 0)
        cr_expect_str_eq(secret.text, expected);
    is_stripped = secret.is_stripped;
    secret_free(secret.text);
}

static const char *file_value(void)
{
    static char value[64];
    (void)snprintf(value, sizeof value, "file:%s/s", directory);
    return value;
}

static const char *file_problem(const char *reason)
{
    static char problem[256];
    (void)snprintf(problem, sizeof problem, "cannot take the secret from file \"%s/s\": %s",
                   directory, reason);
    return problem;
}

Test(secret, inline_value)
{
    static char text[LIMIT_SECRET + 2];
    check("x", "x", "");
    check("File:x", "File:x", "");
    check(" x ", " x ", ""); /* in quotes: unchanged */
    check("", NULL, "expected a secret of 1 to 4000 bytes, got 0 bytes");
    memset(text, 'x', LIMIT_SECRET);
    check(text, text, "");
    text[LIMIT_SECRET] = 'x';
    check(text, NULL, "expected a secret of 1 to 4000 bytes, got 4001 bytes");
}

Test(secret, environment)
{
    (void)setenv("RU_TEST_TOKEN", "from the environment", 1);
    check("env:RU_TEST_TOKEN", "from the environment", "");
    cr_expect_not(is_stripped);
    /* From a file of variables with CRLF lines, read by a shell or a container engine. */
    (void)setenv("RU_TEST_TOKEN", "s3cret\r", 1);
    check("env:RU_TEST_TOKEN", "s3cret", "");
    cr_expect(is_stripped);
    (void)setenv("RU_TEST_TOKEN", "s3cret\n", 1);
    check("env:RU_TEST_TOKEN", "s3cret", "");
    cr_expect(is_stripped);
    (void)setenv("RU_TEST_TOKEN", " ", 1);
    check("env:RU_TEST_TOKEN", NULL, "expected a secret of 1 to 4000 bytes, got 0 bytes");
    (void)setenv("RU_TEST_TOKEN", "", 1);
    check("env:RU_TEST_TOKEN", NULL, "expected a secret of 1 to 4000 bytes, got 0 bytes");
    (void)unsetenv("RU_TEST_TOKEN");
    check("env:RU_TEST_TOKEN", NULL, "environment variable \"RU_TEST_TOKEN\" is not set");
    check("env:", NULL, "environment variable \"\" is not set");
    check("env:a\x1b", NULL, "environment variable \"a\\x1b\" is not set");
}

Test(secret, file_with_and_without_newline)
{
    static const char *const contents[] = {"s3cret", "s3cret\n", "s3cret\r\n"};
    for (size_t i = 0; i < ARRAY_SIZE(contents); i++) {
        write_secret(contents[i], strlen(contents[i]), 0600);
        check(file_value(), "s3cret", "");
        cr_expect_not(is_stripped);
    }
}

#define MARK "\xef\xbb\xbf"

/* Bytes that editors and shells add would make the token wrong for ever. */
Test(secret, file_with_a_mark_or_white_space_at_its_end)
{
    static const struct {
        const char *content, *secret;
        bool is_stripped;
    } rows[] = {
        {MARK "s3cret", "s3cret", false},
        {MARK "s3cret\r\n", "s3cret", false},
        {"s3cret ", "s3cret", true},
        {"s3cret \n", "s3cret", true},
        {"s3cret\n\n", "s3cret", true},
        {"s3cret\r\n\r\n", "s3cret", true},
        {MARK "a b\t \v\f\r\n", "a b", true},
        {"\n s3cret", "\n s3cret", false}, /* hardly there by accident */
        {"s3cret" MARK, "s3cret" MARK, false},
        {MARK MARK "s3cret", MARK "s3cret", false},
        {"\xef\xbb", "\xef\xbb", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        write_secret(rows[i].content, strlen(rows[i].content), 0600);
        check(file_value(), rows[i].secret, "");
        cr_expect_eq(is_stripped, rows[i].is_stripped, "row %zu", i);
    }
    write_secret(MARK " \n", 5, 0600);
    check(file_value(), NULL, file_problem("the file is empty"));
}

Test(secret, file_in_utf_16)
{
    static const struct {
        const char *content;
        size_t size;
    } rows[] = {{"\xff\xfes\0003\0", 6}, {"\xfe\xff\0s\0003", 6}, {"s\0003\0", 4}, {"\0s\0003", 4}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        write_secret(rows[i].content, rows[i].size, 0600);
        check(file_value(), NULL, file_problem("the file is UTF-16; save it as UTF-8"));
    }
}

Test(secret, files_that_will_not_do)
{
    static char text[LIMIT_SECRET + LIMIT_SECRET_MARGIN + 2];
    check(file_value(), NULL, file_problem("no such file or directory"));
    check("file:", NULL, "cannot take the secret from file \"\": no such file or directory");
    write_secret("", 0, 0600);
    check(file_value(), NULL, file_problem("the file is empty"));
    write_secret("\n", 1, 0600);
    check(file_value(), NULL, file_problem("the file is empty"));
    write_secret("a\0b", 3, 0600);
    check(file_value(), NULL, file_problem("the file holds a NUL byte"));
    memset(text, 'x', sizeof text);
    write_secret(text, LIMIT_SECRET + 1, 0600);
    check(file_value(), NULL, file_problem("the file is longer than 4000 bytes"));
    write_secret(text, LIMIT_SECRET + 3, 0600);
    check(file_value(), NULL, file_problem("the file is longer than 4000 bytes"));
    write_secret(text, sizeof text, 0600);
    check(file_value(), NULL, file_problem("the file is longer than 4000 bytes"));
    text[LIMIT_SECRET] = '\n';
    write_secret(text, LIMIT_SECRET + 1, 0600);
    text[LIMIT_SECRET] = '\0';
    check(file_value(), text, "");
}

Test(secret, credentials_directory)
{
    write_secret("s3cret\n", 7, 0600);
    (void)setenv("CREDENTIALS_DIRECTORY", directory, 1);
    check("file:${CREDENTIALS_DIRECTORY}/s", "s3cret", "");
    (void)unsetenv("CREDENTIALS_DIRECTORY");
    check("file:${CREDENTIALS_DIRECTORY}/s", NULL,
          "CREDENTIALS_DIRECTORY is not set (systemd sets it for a unit with LoadCredential=)");
    check("file:${HOME}/s", NULL,
          "cannot take the secret from file \"${HOME}/s\": no such file or directory");
}

Test(secret, origin_and_mode)
{
    struct secret secret;
    char problem[512];
    write_secret("x", 1, 0604);
    cr_assert_eq(secret_resolve(file_value(), &secret, problem, sizeof problem), 0);
    cr_expect_eq(secret.origin, SECRET_FILE);
    cr_expect(secret.is_world_readable);
    secret_free(secret.text);
    write_secret("x", 1, 0640);
    cr_assert_eq(secret_resolve(file_value(), &secret, problem, sizeof problem), 0);
    cr_expect_not(secret.is_world_readable);
    secret_free(secret.text);
    cr_assert_eq(secret_resolve("x", &secret, problem, sizeof problem), 0);
    cr_expect_eq(secret.origin, SECRET_INLINE);
    secret_free(secret.text);
    secret_free(NULL);
}

Test(secret, file_read_is_bounded)
{
    struct secret_file file = {0};
    char path[64];
    write_secret("12345", 5, 0600);
    (void)snprintf(path, sizeof path, "%s/s", directory);
    cr_assert_eq(secret_file_read(path, 5, &file), 0);
    cr_expect_eq(file.size, 5);
    cr_expect_str_eq(file.text, "12345");
    secret_file_finish(&file);
    cr_expect_eq(secret_file_read(path, 4, &file), -EFBIG);
    cr_expect_eq(secret_file_read(directory, 4, &file), -EISDIR);
    secret_file_finish(&file);
}
