#include "io/file_watch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/file_watch_XXXXXX";
static char path[PATH_MAX];
static struct file_watch *watch;

static const char *in_dir(const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned int next;
    char *out = paths[next++ % 4];
    (void)snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return out;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(in_dir(name), "we");
    cr_assert_not_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/file", dir);
    put("file", "one");
}

static void begin(bool use_inotify)
{
    cr_assert_eq(file_watch_create(path, use_inotify, &watch), 0);
    if (use_inotify)
        cr_assert_geq(file_watch_fd(watch), 0);
}

static void tear_down(void)
{
    char command[PATH_MAX + 16];
    file_watch_destroy(watch);
    file_watch_destroy(NULL);
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}

Test(file_watch, written_in_place, .init = set_up, .fini = tear_down)
{
    begin(true);
    cr_expect_not(file_watch_read(watch).changed);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    struct file_watch_events events = file_watch_read(watch);
    cr_expect(events.changed && events.is_being_written, "truncated, and not closed");
    cr_expect(file_watch_is_empty(watch));
    cr_assert_eq(write(fd, "two", 3), 3);
    events = file_watch_read(watch);
    cr_expect(events.changed && events.is_being_written);
    cr_expect_not(file_watch_is_empty(watch));
    (void)close(fd);
    events = file_watch_read(watch);
    cr_expect(events.changed && !events.is_being_written);
    cr_expect_not(file_watch_read(watch).changed);
}

Test(file_watch, renamed_over, .init = set_up, .fini = tear_down)
{
    begin(true);
    for (int round = 0; round < 3; round++) {
        put("other", "two");
        cr_expect_not(file_watch_read(watch).changed, "another file of the directory");
        cr_assert_eq(rename(in_dir("other"), path), 0);
        struct file_watch_events events = file_watch_read(watch);
        cr_expect(events.changed && !events.is_being_written);
    }
    put("file", "in place, the new one");
    cr_expect(file_watch_read(watch).changed);
}

Test(file_watch, removed_and_back, .init = set_up, .fini = tear_down)
{
    begin(true);
    cr_assert_eq(unlink(path), 0);
    cr_expect(file_watch_read(watch).changed);
    cr_expect_not(file_watch_is_empty(watch));
    put("file", "back");
    cr_expect(file_watch_read(watch).changed);
}

/* file -> ..data/file, ..data -> ..1, and then ..data -> ..2 */
Test(file_watch, a_link_is_swapped, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(mkdir(in_dir("..1"), 0700), 0);
    cr_assert_eq(mkdir(in_dir("..2"), 0700), 0);
    put("..1/file", "one");
    put("..2/file", "two");
    cr_assert_eq(symlink("..1", in_dir("..data")), 0);
    cr_assert_eq(symlink("..data/file", path), 0);
    begin(true);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(symlink(round % 2 == 0 ? "..2" : "..1", in_dir("..tmp")), 0);
        cr_expect_not(file_watch_read(watch).changed);
        cr_assert_eq(rename(in_dir("..tmp"), in_dir("..data")), 0);
        cr_expect(file_watch_read(watch).changed, "round %d", round);
        cr_expect(file_watch_look(watch));
        put(round % 2 == 0 ? "..2/file" : "..1/file", "behind the link, in place");
        cr_expect(file_watch_read(watch).changed, "round %d", round);
        (void)file_watch_look(watch);
    }
}

Test(file_watch, an_absolute_link_and_a_circle, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(rename(path, in_dir("real")), 0);
    cr_assert_eq(symlink(in_dir("real"), path), 0);
    begin(true);
    put("real", "two");
    cr_expect(file_watch_read(watch).changed);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink(path, path), 0);
    cr_expect(file_watch_read(watch).changed);
    cr_expect(file_watch_look(watch), "there is no file any more");
}

Test(file_watch, by_looking_alone, .init = set_up, .fini = tear_down)
{
    begin(false);
    cr_expect_eq(file_watch_fd(watch), -1);
    cr_expect_not(file_watch_look(watch));
    put("file", "longer than before");
    cr_expect_not(file_watch_read(watch).changed);
    cr_expect(file_watch_look(watch));
    cr_expect_not(file_watch_look(watch));
    put("other", "longer than before");
    cr_assert_eq(rename(in_dir("other"), path), 0);
    cr_expect(file_watch_look(watch), "another file of the same size");
    cr_assert_eq(unlink(path), 0);
    cr_expect(file_watch_look(watch));
    cr_expect_not(file_watch_look(watch));
}

Test(file_watch, paths_without_a_directory_or_a_file, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(chdir(dir), 0);
    cr_assert_eq(file_watch_create("file", true, &watch), 0);
    put("file", "two");
    cr_expect(file_watch_read(watch).changed);
    file_watch_destroy(watch);
    cr_assert_eq(file_watch_create("/nowhere/at/all", true, &watch), 0);
    cr_expect_not(file_watch_read(watch).changed);
    cr_expect_not(file_watch_look(watch));
}
