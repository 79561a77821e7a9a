/* Watches a file by its path with stat(2). This finds every way in which content changes: a write
 * in place, a file renamed over it, a symbolic link in the path that points elsewhere (Kubernetes
 * swaps ConfigMaps this way). docs/decisions.md, "Removed: inotify", says why not inotify(7).
 *
 *     a look, stat(2), every LIMIT_WATCH_LOOK_MS
 *     another file, size or time     it has changed; the next look comes after LIMIT_WATCH_AGAIN_MS
 *     the same in the look after     the writer has stopped: the file is due to be read
 *     read, and it looks unfinished  it is due again once it was the same for LIMIT_WATCH_DOUBT_MS
 *
 * Two changes that keep the size, within one tick of the file system's clock (4 ms), look like one.
 * A file that is due by a look is read long after such a tick. A file that is read on request
 * (SIGHUP) may be younger, and a second change in the same tick is then missed.
 *
 * Belongs to one thread. Times are milliseconds of a monotonic clock, from the caller. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct file_watch {
    const char *path; /* borrowed */
    struct stat seen; /* all zero: there was no file */
    uint64_t looked_ms, changed_ms;
    bool has_changed; /* and has not been read since */
    bool is_doubted;  /* the last read found it unfinished */
};

/* stat(2) of the file now; all zero: there is none, or it can't be looked at. */
struct stat file_watch_stat(const char *path);
/* seen: what file_watch_stat returned just before the file was read. The first look finds a change
 * since then. path is borrowed. */
void file_watch_init(struct file_watch *watch, const char *path, const struct stat *seen,
                     uint64_t now_ms);
uint64_t file_watch_next_look_ms(const struct file_watch *watch);
/* Looks at the file. Does nothing before file_watch_next_look_ms. */
void file_watch_look(struct file_watch *watch, uint64_t now_ms);
/* Whether the file is to be read: it has changed, and was the same in the last look. */
bool file_watch_is_due(const struct file_watch *watch);
/* Whether the file was the same for so long (LIMIT_WATCH_DOUBT_MS) that its writer must be done. */
bool file_watch_is_at_rest(const struct file_watch *watch);
/* To be called just before the file is read, due or not. */
void file_watch_begin_read(struct file_watch *watch, uint64_t now_ms);
/* The file that was read looks unfinished: it becomes due again when it is at rest. */
void file_watch_doubt(struct file_watch *watch);
