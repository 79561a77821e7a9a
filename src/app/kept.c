#include "app/kept.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/new_file.h"
#include "crypto/keys.h"

enum { KEPT_NAMES_MAX = 64 }; /* what is behind the user's directory in a path */

static int kept_make_directory(const char *path)
{
    if (mkdir(path, 0700) == 0)
        return chmod(path, 0700) < 0 ? -errno : 0; /* whatever the umask */
    return errno == EEXIST ? 0 : -errno;
}

static int kept_write(const char *path)
{
    uint8_t secret[KEYS_X25519_SIZE];
    char text[KEYS_TEXT_SIZE];
    keys_random(secret, sizeof secret);
    keys_to_text(secret, text);
    text[KEYS_TEXT_SIZE - 1] = '\n';
    int result = new_file_write(path, text, sizeof text);
    keys_wipe(secret, sizeof secret);
    keys_wipe(text, sizeof text);
    return result;
}

/* The file gets its name when it is whole: another process that starts now sees all of it, and of
 * two that make it the second uses that of the first. */
static int kept_write_whole(const char *path, bool *ret_is_new)
{
    char draft[PATH_MAX];
    (void)snprintf(draft, sizeof draft, "%s.%d", path, (int)getpid());
    (void)unlink(draft); /* of a process that was killed here */
    int result = kept_write(draft);
    if (result < 0)
        return result;
    *ret_is_new = link(draft, path) == 0;
    if (!*ret_is_new && errno != EEXIST)
        result = -errno;
    (void)unlink(draft);
    return result;
}

int kept_make(const char *name, char path[static PATH_MAX], bool *ret_is_new)
{
    /* The specification of XDG_CONFIG_HOME has a relative path ignored. */
    const char *config = getenv("XDG_CONFIG_HOME");
    bool is_given = config != NULL && config[0] == '/';
    const char *parts[] = {is_given ? "" : "/.config", "/rathole-uring"};
    const char *above = is_given ? config : getenv("HOME");
    *ret_is_new = false;
    if (above == NULL)
        above = "$HOME"; /* is not there, and says why */
    int used = snprintf(path, PATH_MAX, "%s", above), result = 0;
    if (used >= PATH_MAX - KEPT_NAMES_MAX)
        return -ENAMETOOLONG;
    for (size_t i = 0; i < ARRAY_SIZE(parts) && result == 0; i++) {
        used += snprintf(path + used, PATH_MAX - (size_t)used, "%s", parts[i]);
        result = kept_make_directory(path);
    }
    if (result < 0)
        return result;
    (void)snprintf(path + used, PATH_MAX - (size_t)used, "/%s", name);
    return access(path, F_OK) == 0 ? 0 : kept_write_whole(path, ret_is_new);
}
