#include "io/file_watch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"

static char dir[] = "/tmp/file_watch_XXXXXX";
static char path[PATH_MAX];
static struct file_watch watch;
static uint64_t now_ms = 1000;

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

static void watch_now(const char *name)
{
    const struct stat seen = file_watch_stat(name);
    file_watch_init(&watch, name, &seen, now_ms);
}

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/file", dir);
    put("file", "one");
    watch_now(path);
}

static void tear_down(void)
{
    char command[PATH_MAX + 16];
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}

static bool look(void)
{
    now_ms = file_watch_next_look_ms(&watch);
    file_watch_look(&watch, now_ms);
    return file_watch_is_due(&watch);
}

/* The next look finds the change. The one after it finds the file unchanged, so it is due. Once it
 * is read, it is not due again. */
static void expect_noticed(const char *what)
{
    cr_expect_not(look(), "%s: changing", what);
    cr_expect(look(), "%s: left alone", what);
    file_watch_begin_read(&watch, now_ms);
    cr_expect_not(look(), "%s: read already", what);
    cr_expect_not(look(), "%s: read already", what);
}

Test(file_watch, the_times, .init = set_up, .fini = tear_down)
{
    cr_expect_eq(file_watch_next_look_ms(&watch), now_ms + LIMIT_WATCH_LOOK_MS);
    put("file", "two, and longer");
    file_watch_look(&watch, now_ms + LIMIT_WATCH_LOOK_MS - 1);
    file_watch_look(&watch, now_ms + LIMIT_WATCH_LOOK_MS - 1);
    cr_expect_not(file_watch_is_due(&watch), "no look before its time");
    uint64_t begin_ms = now_ms;
    expect_noticed("by looks");
    cr_expect_eq(watch.looked_ms, begin_ms + 3 * LIMIT_WATCH_LOOK_MS + LIMIT_WATCH_AGAIN_MS,
                 "two looks to find it, sooner for the second, and two at leisure");
    /* A client that reads a new service before the server does is refused once. It tries again
     * after LIMIT_RETRY_MIN_MS plus at most a fifth: within a second in all. */
    cr_expect_lt(LIMIT_WATCH_LOOK_MS + LIMIT_WATCH_AGAIN_MS + LIMIT_RETRY_MIN_MS * 6 / 5, 1000);
}

Test(file_watch, nothing_happens, .init = set_up, .fini = tear_down)
{
    for (int i = 0; i < 20; i++)
        cr_expect_not(look());
    put("other", "another file of the directory");
    cr_expect_not(look());
    cr_expect_not(look());
}

Test(file_watch, written_piece_by_piece, .init = set_up, .fini = tear_down)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    for (int i = 0; i < 20; i++) {
        cr_expect_not(look(), "piece %d", i);
        cr_assert_eq(write(fd, "two", 3), 3);
    }
    (void)close(fd);
    expect_noticed("the last piece");
}

Test(file_watch, one_that_looks_unfinished, .init = set_up, .fini = tear_down)
{
    put("file", "");
    cr_expect_not(look());
    uint64_t changed_ms = now_ms;
    cr_expect(look());
    file_watch_begin_read(&watch, now_ms);
    cr_expect_not(file_watch_is_at_rest(&watch));
    file_watch_doubt(&watch);
    while (!look())
        cr_assert_lt(now_ms, changed_ms + LIMIT_WATCH_DOUBT_MS);
    cr_expect_geq(now_ms, changed_ms + LIMIT_WATCH_DOUBT_MS);
    cr_expect(file_watch_is_at_rest(&watch));
    file_watch_begin_read(&watch, now_ms);
    cr_expect_not(look());
}

Test(file_watch, the_rest_comes_after_all, .init = set_up, .fini = tear_down)
{
    put("file", "ha");
    cr_expect_not(look());
    cr_expect(look());
    file_watch_begin_read(&watch, now_ms);
    file_watch_doubt(&watch);
    cr_expect_not(look());
    put("file", "half, and the rest");
    expect_noticed("as soon as any other");
}

Test(file_watch, read_because_somebody_asks, .init = set_up, .fini = tear_down)
{
    put("file", "two, and longer");
    file_watch_begin_read(&watch, now_ms + 1);
    for (int i = 0; i < 20; i++)
        cr_expect_not(look(), "not twice");
}

Test(file_watch, renamed_over, .init = set_up, .fini = tear_down)
{
    put("other", "two"); /* of the same size */
    cr_assert_eq(rename(in_dir("other"), path), 0);
    expect_noticed("renamed");
    put("file", "in place, the new one");
    expect_noticed("in place");
}

Test(file_watch, the_old_time_is_set_again, .init = set_up, .fini = tear_down)
{
    struct stat old;
    cr_assert_eq(stat(path, &old), 0);
    (void)usleep(20000); /* a tick of the file system's clock */
    put("file", "two");
    cr_assert_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){old.st_atim, old.st_mtim}, 0), 0);
    expect_noticed("as cp -p does it");
    (void)usleep(20000);
    cr_assert_eq(chmod(path, 0640), 0);
    expect_noticed("it may be readable now");
}

Test(file_watch, removed_and_back, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(unlink(path), 0);
    expect_noticed("removed");
    put("file", "back");
    expect_noticed("back");
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
    expect_noticed("a link in the place of the file");
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(symlink(round % 2 == 0 ? "..2" : "..1", in_dir("..tmp")), 0);
        cr_expect_not(look());
        cr_expect_not(look());
        cr_assert_eq(rename(in_dir("..tmp"), in_dir("..data")), 0);
        expect_noticed("swapped");
        put(round % 2 == 0 ? "..2/file" : "..1/file", "behind the link, in place");
        expect_noticed("behind the link");
    }
}

/* A volume of a ConfigMap, step by step as the kubelet's AtomicWriter does it: a new directory with the time in
 * its name, ..data_tmp renamed over ..data, and then the old directory goes. Neither the size nor, on
 * a fast machine, the time need to differ, and the inode of a file that is gone may come back. */
Test(file_watch, a_volume_of_the_kubelet, .init = set_up, .fini = tear_down)
{
    char old[NAME_MAX] = "", new[NAME_MAX], file[NAME_MAX + 8];
    struct stat stats;
    cr_assert_eq(unlink(path), 0);
    for (int update = 0; update < 8; update++) {
        (void)snprintf(new, sizeof(new), "..2026_01_02_03_04_05.%d", update);
        (void)snprintf(file, sizeof(file), "%s/file", new);
        cr_assert_eq(mkdir(in_dir(new), 0755), 0);
        put(file, update % 2 == 0 ? "one" : "two");
        cr_assert_eq(chmod(in_dir(file), 0644), 0);
        if (update > 0)
            cr_expect_not(look(), "written, and nobody sees it");
        cr_assert_eq(symlink(new, in_dir("..data_tmp")), 0);
        cr_assert_eq(rename(in_dir("..data_tmp"), in_dir("..data")), 0);
        if (update == 0)
            cr_assert_eq(symlink("..data/file", path), 0);
        cr_assert_eq(stat(path, &stats), 0, "at no time is there no file");
        if (update % 3 == 1)
            cr_expect_not(look(), "between the swap and the end of the old directory");
        if (update > 0) {
            (void)snprintf(file, sizeof(file), "%s/file", old);
            cr_assert_eq(unlink(in_dir(file)), 0);
            cr_assert_eq(rmdir(in_dir(old)), 0);
        }
        if (update % 3 == 1) {
            cr_expect(look(), "left alone");
            file_watch_begin_read(&watch, now_ms);
            cr_expect_not(look(), "read already");
        } else {
            expect_noticed("an update");
        }
        memcpy(old, new, sizeof(old));
    }
}

Test(file_watch, a_circle_of_links, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink(path, path), 0);
    expect_noticed("there is no file any more");
}

/* The workers are started between the read and the first look. */
Test(file_watch, a_change_between_reading_and_watching, .init = set_up, .fini = tear_down)
{
    const struct stat seen = file_watch_stat(path);
    put("file", "two, and longer");
    file_watch_init(&watch, path, &seen, now_ms);
    expect_noticed("the one that was read is another");
}

Test(file_watch, paths_without_a_directory_or_a_file, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(chdir(dir), 0);
    watch_now("file");
    put("file", "two, and longer");
    expect_noticed("in the working directory");
    watch_now("/nowhere/at/all");
    cr_expect_not(look());
    cr_expect_not(look());
}
