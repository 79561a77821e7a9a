#include "app/kept.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/new_file.h"
#include "crypto/keys.h"

static char home[] = "/tmp/test_kept.XXXXXX";

static void begin(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_not_null(mkdtemp(home));
    cr_assert_eq(setenv("HOME", home, 1), 0);
    (void)unsetenv("XDG_CONFIG_HOME");
}

static void end(void)
{
    char command[80];
    (void)snprintf(command, sizeof command, "rm -rf %s", home);
    cr_expect_eq(system(command), 0);
}

TestSuite(kept, .init = begin, .fini = end);

static mode_t mode_of(const char *path)
{
    struct stat about;
    cr_assert_eq(lstat(path, &about), 0, "%s", path);
    return about.st_mode & 07777;
}

static void read_file(const char *path, char *ret, size_t size)
{
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    ret[fread(ret, 1, size - 1, file)] = '\0';
    (void)fclose(file);
}

static void expect_made(const char *name, const char *expected_path)
{
    char path[PATH_MAX], text[100], again[100];
    uint8_t bytes[KEYS_X25519_SIZE];
    bool is_new = false;
    cr_expect_eq(kept_make(name, path, &is_new), 0);
    cr_expect(is_new);
    cr_expect_str_eq(path, expected_path);
    cr_expect_eq(mode_of(path), 0600);
    read_file(path, text, sizeof text);
    cr_expect_eq(strlen(text), KEYS_TEXT_SIZE);
    cr_expect_eq(text[KEYS_TEXT_SIZE - 1], '\n');
    cr_expect_eq(keys_from_text(text, KEYS_TEXT_SIZE - 1, bytes), 0);
    cr_expect_eq(kept_make(name, path, &is_new), 0);
    cr_expect_not(is_new);
    read_file(path, again, sizeof again);
    cr_expect_str_eq(again, text);
}

/* Nothing else is left in the directories, which are the user's alone, whatever the umask. */
Test(kept, files_and_directories)
{
    static const mode_t masks[] = {0, 022, 0777};
    char place[100], path[200];
    for (size_t i = 0; i < ARRAY_SIZE(masks); i++) {
        mode_t before = umask(masks[i]);
        (void)snprintf(place, sizeof place, "%s/%zu", home, i);
        cr_assert_eq(setenv("XDG_CONFIG_HOME", place, 1), 0);
        (void)snprintf(path, sizeof path, "%s/rathole-uring/token", place);
        expect_made("token", path);
        (void)snprintf(path, sizeof path, "%s/rathole-uring/noise.key", place);
        expect_made("noise.key", path);
        (void)snprintf(path, sizeof path, "%s/rathole-uring", place);
        cr_expect_eq(mode_of(path), 0700);
        cr_expect_eq(mode_of(place), 0700);
        (void)umask(before);
        (void)snprintf(path, sizeof path,
                       "test \"$(ls -A %s/rathole-uring | tr '\\n' ' ')\" = "
                       "'noise.key token '",
                       place);
        cr_expect_eq(system(path), 0);
    }
}

Test(kept, where)
{
    char path[200], found[PATH_MAX];
    bool is_new;
    (void)snprintf(path, sizeof path, "%s/.config/rathole-uring/token", home);
    cr_assert_eq(setenv("XDG_CONFIG_HOME", "relative", 1), 0);
    expect_made("token", path);
    (void)unsetenv("HOME");
    cr_expect_eq(kept_make("token", found, &is_new), -ENOENT);
    cr_expect_str_eq(found, "$HOME/.config"); /* which says what is missing */
}

Test(kept, places_that_are_wrong)
{
    static char far[PATH_MAX + 10];
    char path[PATH_MAX];
    bool is_new;
    memset(far, '/', sizeof far - 1);
    cr_assert_eq(setenv("HOME", far, 1), 0);
    cr_expect_eq(kept_make("token", path, &is_new), -ENAMETOOLONG);
    cr_assert_eq(setenv("HOME", "/nowhere/at/all", 1), 0);
    cr_expect_eq(kept_make("token", path, &is_new), -ENOENT);
}

/* Of several that begin together one makes it, and all have the same. */
Test(kept, several_at_once)
{
    enum { COUNT = 8 };
    char path[200], found[PATH_MAX];
    int new_count = 0;
    for (int i = 0; i < COUNT; i++) {
        if (fork() == 0) {
            bool is_new;
            int result = kept_make("token", found, &is_new);
            _exit(result < 0 ? 2 : is_new);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        int status;
        cr_assert_gt(wait(&status), 0);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) < 2);
        new_count += WEXITSTATUS(status);
    }
    cr_expect_eq(new_count, 1);
    (void)snprintf(path, sizeof path, "test $(ls -A %s/.config/rathole-uring) = token", home);
    cr_expect_eq(system(path), 0);
}

Test(kept, new_files)
{
    char path[200], link_path[200], text[20];
    (void)snprintf(path, sizeof path, "%s/file", home);
    (void)snprintf(link_path, sizeof link_path, "%s/link", home);
    cr_expect_eq(new_file_write(path, "first", 5), 0);
    cr_expect_eq(new_file_write(path, "second", 6), -EEXIST);
    read_file(path, text, sizeof text);
    cr_expect_str_eq(text, "first");
    cr_assert_eq(symlink("nowhere", link_path), 0);
    cr_expect_eq(new_file_write(link_path, "x", 1), -EEXIST);
    cr_expect_eq(new_file_write("/nowhere/at/all", "x", 1), -ENOENT);
    int full = open("/dev/full", O_WRONLY);
    cr_expect_eq(write_all(full, "x", 1), -ENOSPC);
    (void)close(full);
}
