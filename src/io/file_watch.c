#include "io/file_watch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PLACES_MAX = 24, /* links and directories on the way; more are left to stat(2) */
    LINKS_MAX = 16,
    EVENTS_BYTES = 4096,
};

static const uint32_t directory_events =
    IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ONLYDIR;
static const uint32_t file_events = IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB;

/* A name in a watched directory; "" for the file itself. */
struct place {
    int wd;
    char name[NAME_MAX + 1];
};

struct file_watch {
    char *path;
    int fd;
    struct place places[PLACES_MAX];
    size_t place_count;
    struct stat seen; /* all zero: there was no file */
    bool is_being_written;
};

/* ---- the places ---- */

static void add_watch(struct file_watch *watch, const char *path, const char *name, uint32_t events)
{
    size_t size = strlen(name) + 1;
    if (watch->place_count == PLACES_MAX || size > sizeof(watch->places[0].name))
        return; /* stat(2) looks */
    struct place *place = &watch->places[watch->place_count];
    place->wd = inotify_add_watch(watch->fd, path, events);
    if (place->wd < 0)
        return;
    memcpy(place->name, name, size);
    watch->place_count++;
}

/* Watches the directory for what happens to the last name of the path. */
static void add_place(struct file_watch *watch, const char *path)
{
    char dir[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    if (slash != NULL) {
        size_t len = MAX((size_t)(slash - path), (size_t)1); /* "/" for "/name" */
        memcpy(dir, path, len);
        dir[len] = '\0';
    }
    add_watch(watch, dir, slash != NULL ? slash + 1 : path, directory_events);
}

/* path becomes what its first `end` bytes, a link, point to, with the rest behind it. False: it is
 * no link, or too long. */
static bool follow(char path[static PATH_MAX], size_t end)
{
    char link[PATH_MAX], target[PATH_MAX], rest[PATH_MAX];
    memcpy(link, path, end);
    link[end] = '\0';
    ssize_t target_len = readlink(link, target, sizeof(target));
    if (target_len <= 0)
        return false;
    const char *slash = strrchr(link, '/');
    size_t dir_len = target[0] == '/' || slash == NULL ? 0 : (size_t)(slash - link) + 1;
    size_t rest_size = strlen(path + end) + 1;
    if (dir_len + (size_t)target_len + rest_size > PATH_MAX)
        return false;
    memcpy(rest, path + end, rest_size);
    memcpy(path + dir_len, target, (size_t)target_len);
    memcpy(path + dir_len + target_len, rest, rest_size);
    return true;
}

/* The first link on the path is watched and followed. False: there is none. */
static bool follow_first_link(struct file_watch *watch, char path[static PATH_MAX])
{
    size_t end = 0;
    do {
        end += 1 + strcspn(path + end + 1, "/"); /* never the leading slash alone */
        char prefix[PATH_MAX];
        memcpy(prefix, path, end);
        prefix[end] = '\0';
        if (follow(path, end)) {
            add_place(watch, prefix);
            return true;
        }
    } while (path[end] != '\0');
    return false;
}

static void add_places(struct file_watch *watch)
{
    char path[PATH_MAX];
    size_t size = strlen(watch->path) + 1;
    if (size < 2 || size > sizeof(path))
        return;
    memcpy(path, watch->path, size);
    for (unsigned int links = 0; links < LINKS_MAX && follow_first_link(watch, path); links++)
        ;
    add_place(watch, path);
    add_watch(watch, path, "", file_events);
}

void file_watch_renew(struct file_watch *watch)
{
    if (watch->fd < 0)
        return;
    struct place old[PLACES_MAX];
    size_t old_count = watch->place_count;
    memcpy(old, watch->places, sizeof(old));
    watch->place_count = 0;
    add_places(watch);
    for (size_t i = 0; i < old_count; i++) {
        bool is_used = false;
        for (size_t k = 0; k < watch->place_count; k++)
            is_used |= watch->places[k].wd == old[i].wd;
        if (!is_used)
            (void)inotify_rm_watch(watch->fd, old[i].wd);
    }
}

/* ---- looking ---- */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

bool file_watch_look(struct file_watch *watch)
{
    struct stat now;
    if (stat(watch->path, &now) < 0)
        memset(&now, 0, sizeof(now));
    bool changed = !is_same(&now, &watch->seen);
    watch->seen = now;
    return changed;
}

bool file_watch_is_empty(const struct file_watch *watch)
{
    struct stat now;
    return stat(watch->path, &now) == 0 && now.st_size == 0;
}

static void note_event(struct file_watch *watch, const struct inotify_event *event,
                       struct file_watch_events *events)
{
    if ((event->mask & IN_Q_OVERFLOW) != 0)
        events->changed = true;
    for (size_t i = 0; i < watch->place_count; i++) {
        const char *name = event->len > 0 ? event->name : "";
        if (watch->places[i].wd != event->wd || strcmp(watch->places[i].name, name) != 0)
            continue;
        events->changed = true;
        if ((event->mask & IN_MODIFY) != 0)
            watch->is_being_written = true;
        else if ((event->mask & (IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE)) != 0)
            watch->is_being_written = false;
    }
}

struct file_watch_events file_watch_read(struct file_watch *watch)
{
    struct file_watch_events events = {0};
    _Alignas(struct inotify_event) char bytes[EVENTS_BYTES];
    ssize_t got;
    while (watch->fd >= 0 && (got = read(watch->fd, bytes, sizeof(bytes))) > 0) {
        for (ssize_t at = 0; at < got;) {
            const struct inotify_event *event = (const void *)(bytes + at);
            note_event(watch, event, &events);
            at += (ssize_t)(sizeof(*event) + event->len);
        }
    }
    events.is_being_written = watch->is_being_written;
    if (events.changed)
        file_watch_renew(watch);
    return events;
}

/* ---- the life of a watch ---- */

int file_watch_fd(const struct file_watch *watch)
{
    return watch->fd;
}

int file_watch_create(const char *path, bool use_inotify, struct file_watch **ret)
{
    struct file_watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL)
        return -ENOMEM;
    watch->path = strdup(path);
    if (watch->path == NULL) {
        free(watch);
        return -ENOMEM;
    }
    watch->fd = use_inotify ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
    file_watch_renew(watch);
    (void)file_watch_look(watch);
    *ret = watch;
    return 0;
}

void file_watch_destroy(struct file_watch *watch)
{
    if (watch == NULL)
        return;
    if (watch->fd >= 0)
        (void)close(watch->fd);
    free(watch->path);
    free(watch);
}
