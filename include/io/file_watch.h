/* Watches a file by its path, whichever way its content changes: written in place, another file
 * renamed over it, a symbolic link on the way pointing elsewhere (as Kubernetes swaps ConfigMaps).
 *
 *     a look, stat(2), every FILE_WATCH_LOOK_MS
 *     another file, size or time     it has changed; the next look comes after FILE_WATCH_AGAIN_MS
 *     the same in the look after     it is left alone, and is due to be read
 *     read, and it looks unfinished  it is due again once it was the same for FILE_WATCH_DOUBT_MS
 *
 * Two changes of equal size in one tick of the file system's clock (4 ms) look like one. That is no
 * matter for what a look has found: it is read when its time is older than that. What is read
 * because somebody asks may be younger.
 *
 * Belongs to one thread; times come from the caller. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

enum {
    FILE_WATCH_LOOK_MS = 250,
    FILE_WATCH_AGAIN_MS = 100,
    FILE_WATCH_DOUBT_MS = 2000,
};

struct file_watch {
    const char *path; /* borrowed */
    struct stat seen; /* all zero: there was no file */
    uint64_t looked_ms, changed_ms;
    bool has_changed; /* and has not been read since */
    bool is_doubted;
};

/* The file as it is now; all zero: there is none. */
struct stat file_watch_stat(const char *path);
/* What the path led to when it was `seen`, by file_watch_stat just before it was read. A change
 * since then is found by the first look. */
void file_watch_init(struct file_watch *watch, const char *path, const struct stat *seen,
                     uint64_t now_ms);
uint64_t file_watch_next_look_ms(const struct file_watch *watch);
/* Does nothing before that time. */
void file_watch_look(struct file_watch *watch, uint64_t now_ms);
/* It is to be read: it has changed, and is left alone. */
bool file_watch_is_due(const struct file_watch *watch);
/* It has been left alone for so long that nobody is writing it any more. */
bool file_watch_is_at_rest(const struct file_watch *watch);
/* It is about to be read, due or not. */
void file_watch_begin_read(struct file_watch *watch, uint64_t now_ms);
/* It looks as if somebody were still writing it. */
void file_watch_doubt(struct file_watch *watch);
