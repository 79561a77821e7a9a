#include "io/file_watch.h"

#include <string.h>

#include "base/limits.h"

/* The change time (ctime) also reveals a chmod(1) that makes the file readable, and a writer that
 * restores the old modification time. */
static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

struct stat file_watch_stat(const char *path)
{
    struct stat now;
    if (stat(path, &now) < 0)
        memset(&now, 0, sizeof(now));
    return now;
}

static void look_now(struct file_watch *watch, uint64_t now_ms)
{
    struct stat now = file_watch_stat(watch->path);
    watch->looked_ms = now_ms;
    if (is_same(&now, &watch->seen))
        return;
    watch->seen = now;
    watch->changed_ms = now_ms;
    watch->has_changed = true;
    watch->is_doubted = false;
}

void file_watch_init(struct file_watch *watch, const char *path, const struct stat *seen,
                     uint64_t now_ms)
{
    *watch = (struct file_watch){.path = path, .seen = *seen, .looked_ms = now_ms};
}

uint64_t file_watch_next_look_ms(const struct file_watch *watch)
{
    bool is_changing = watch->has_changed && watch->looked_ms == watch->changed_ms;
    return watch->looked_ms + (is_changing ? LIMIT_WATCH_AGAIN_MS : LIMIT_WATCH_LOOK_MS);
}

void file_watch_look(struct file_watch *watch, uint64_t now_ms)
{
    if (now_ms >= file_watch_next_look_ms(watch))
        look_now(watch, now_ms);
}

bool file_watch_is_at_rest(const struct file_watch *watch)
{
    return watch->looked_ms >= watch->changed_ms + LIMIT_WATCH_DOUBT_MS;
}

bool file_watch_is_due(const struct file_watch *watch)
{
    return watch->has_changed && (watch->is_doubted ? file_watch_is_at_rest(watch)
                                                    : watch->looked_ms > watch->changed_ms);
}

void file_watch_begin_read(struct file_watch *watch, uint64_t now_ms)
{
    look_now(watch, now_ms);
    watch->has_changed = false;
}

void file_watch_doubt(struct file_watch *watch)
{
    watch->has_changed = watch->is_doubted = true;
}
