/* Watches a file by its path, whichever way its content changes: written in place, another file
 * renamed over it, a symbolic link on the way pointing elsewhere (as Kubernetes swaps ConfigMaps).
 *
 *     inotify   on every directory in which a link of the path stands, on the one of the file, and
 *               on the file itself, which in a container may be bind-mounted from elsewhere
 *     stat(2)   as the net under it: file systems and mounts that inotify does not see
 *
 * Belongs to one thread. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct file_watch;

/* What has happened since the last call. */
struct file_watch_events {
    bool changed;
    bool is_being_written; /* the last that was seen: a write, and no close after it */
};

/* use_inotify false: stat(2) alone. -ENOMEM. */
MUST_CHECK int file_watch_create(const char *path, bool use_inotify, struct file_watch **ret);
void file_watch_destroy(struct file_watch *watch); /* accepts NULL */
/* Readable when something has happened; -1: only file_watch_look finds out. */
int file_watch_fd(const struct file_watch *watch);
struct file_watch_events file_watch_read(struct file_watch *watch);
/* Whether the path leads to another file, size or time than it did at the last call. */
bool file_watch_look(struct file_watch *watch);
/* Whether the file is there and empty: probably somebody is about to write it. */
bool file_watch_is_empty(const struct file_watch *watch);
/* The way to the file may have changed: watches what is on it now. */
void file_watch_renew(struct file_watch *watch);
