#include <errno.h>

#include "sandbox_priv.h"

#ifdef WITH_SANDBOX

#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/files.h"
#include "base/macros.h"
#include "config/config.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule       445
#define SYS_landlock_restrict_self  446
#endif

/* Of the kernel's interface, which may be newer than this machine's headers. */
enum {
    FILE_RIGHTS_1 =
        13, /* the number of rights in version 1, and each right of a version after it */
    NET_VERSION = 4,
    NET_BIND_TCP = 1 << 0,
    NET_CONNECT_TCP = 1 << 1,
    SCOPE_VERSION = 6,
    SCOPE_ABSTRACT_UNIX = 1 << 0,
    SCOPE_SIGNAL = 1 << 1,
};

#define EXECUTE LANDLOCK_ACCESS_FS_EXECUTE
#define READ    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define SOCKETS (LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE)

struct rules {
    uint64_t files, net, scoped;
};

int sandbox_landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version < 0 ? -errno : (int)version;
}

/* All rights of files that this version knows: 2 and 3 have one more each, 4 has ports, 5 has one
 * more. Later ones are not known here, and stay allowed. */
static uint64_t all_file_rights(int version)
{
    int count = FILE_RIGHTS_1 + MIN(version, 3) - 1 + (version >= 5);
    return (UINT64_C(1) << count) - 1;
}

static int create_rules(int version, uint64_t net, uint64_t scoped)
{
    if (version < 0)
        return version;
    const struct rules rules = {all_file_rights(version), net, scoped};
    size_t size = version < NET_VERSION     ? offsetof(struct rules, net)
                  : version < SCOPE_VERSION ? offsetof(struct rules, scoped)
                                            : sizeof(rules);
    long fd = syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    return fd < 0 ? -errno : (int)fd;
}

static int obey_rules(int rules)
{
    int result = syscall(SYS_landlock_restrict_self, rules, 0) < 0 ? -errno : 1;
    (void)close(rules);
    return result;
}

/* ---- threads: nothing is allowed ---- */

int sandbox_forbid_files(enum sandbox_thread thread)
{
    bool is_client = thread == SANDBOX_CLIENT;
    int version = sandbox_landlock_version();
    int rules = create_rules(version, NET_BIND_TCP | (is_client ? 0 : (uint64_t)NET_CONNECT_TCP),
                             SCOPE_SIGNAL | (is_client ? 0 : (uint64_t)SCOPE_ABSTRACT_UNIX));
    int result = rules < 0 ? rules : obey_rules(rules);
    return result == 1 && version < NET_VERSION ? SANDBOX_IN_PART : result;
}

/* ---- the main thread ---- */

/* What is not there needs no rule. */
static int allow(int rules, const char *path, uint64_t rights)
{
    struct stat about;
    CLEANUP_FD int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0)
        return 0;
    if (!S_ISDIR(about.st_mode))
        rights &= EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    const struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
    return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno
                                                                                           : 0;
}

static bool make_absolute(char ret[static PATH_MAX], const char *directory, const char *path)
{
    return snprintf(ret, PATH_MAX, "%s%s%s", path[0] == '/' ? "" : directory,
                    path[0] == '/' ? "" : "/", path) < PATH_MAX;
}

/* Leaves the directory of an absolute path, and returns how many names it has: 0 is "/". */
static size_t cut_name(char *path)
{
    char *slash = strrchr(path, '/');
    size_t depth = 0;
    slash[slash == path] = '\0';
    for (const char *c = path; *c != '\0'; c++)
        depth += c[0] == '/' && c[1] != '/' && c[1] != '\0';
    return depth;
}

/* The file's directory, so that the file may be replaced. That may be the root directory, in a
 * container: then everything may be read. */
static int allow_beside(int rules, const char *path, uint64_t rights)
{
    char directory[PATH_MAX];
    if (!make_absolute(directory, ".", path))
        return 0;
    (void)cut_name(directory);
    return allow(rules, directory, rights);
}

/* A rule follows what it was made for, and not its name. So the directory above is allowed as well,
 * and this one may be replaced, unless that is a directory of the root: it would be too much. */
static int allow_replacement(int rules, const char *path, uint64_t rights)
{
    char directory[PATH_MAX], real[PATH_MAX];
    if (!make_absolute(directory, ".", path))
        return 0;
    (void)cut_name(directory);
    int result = allow(rules, directory, rights);
    if (result == 0 && realpath(directory, real) != NULL && cut_name(real) >= 2)
        result = allow(rules, real, rights);
    return result;
}

/* A link may be changed to point elsewhere below the directory that both have in common
 * (releases/1 and releases/2, with "current" beside them), with the same exception. */
static int allow_common(int rules, const char *path, const char *real, uint64_t rights)
{
    char directory[PATH_MAX];
    size_t end = 0;
    while (path[end] != '\0' && path[end] == real[end])
        end++;
    (void)snprintf(directory, sizeof(directory), "%.*s", (int)end, path);
    return cut_name(directory) >= 2 ? allow(rules, directory, rights) : 0;
}

/* A path that ends in "/." is a directory's. */
static int allow_around(int rules, const char *path, uint64_t rights)
{
    char here[PATH_MAX] = "", named[PATH_MAX], real[PATH_MAX];
    if (path[0] != '/' && getcwd(here, sizeof(here)) == NULL)
        return 0;
    if (!make_absolute(named, here, path))
        return 0;
    int result = allow_replacement(rules, named, rights);
    if (result == 0 && strcmp(strrchr(named, '/'), "/.") != 0 && realpath(named, real) != NULL) {
        result = allow_replacement(rules, real, rights);
        if (result == 0)
            result = allow_common(rules, named, real, rights);
    }
    return result;
}

/* Where a link points to what somebody makes later: the nearest directory that is there. */
static int allow_dangling(int rules, const char *path)
{
    char target[PATH_MAX], directory[PATH_MAX], named[PATH_MAX];
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    if (size <= 0 || access(path, F_OK) == 0 || !make_absolute(directory, ".", path))
        return 0;
    target[size] = '\0';
    (void)cut_name(directory);
    if (!make_absolute(named, directory, target))
        return 0;
    size_t depth;
    do {
        depth = cut_name(named);
    } while (depth > 0 && access(named, F_OK) < 0);
    return depth > 0 ? allow(rules, named, READ) : 0;
}

/* The directories of a variable, with colons between them. */
static int allow_listed(int rules, const char *variable, uint64_t rights)
{
    const char *value = getenv(variable);
    CLEANUP_FREE char *copy = value != NULL ? strdup(value) : NULL;
    char *rest = copy, *path;
    int result = 0;
    while (rest != NULL && result == 0 && (path = strsep(&rest, ":")) != NULL)
        result = *path != '\0' ? allow(rules, path, rights) : 0;
    return result;
}

/* What the C library and OpenSSL read: name services, libraries, time zones, root certificates. In
 * /run are a resolver's files and systemd's credentials, which are mounted anew. */
static int allow_system(int rules)
{
    static const char *const paths[] = {
        "/etc",
        "/usr",
        "/lib",
        "/lib32",
        "/lib64",
        "/bin",
        "/proc",
        "/sys",
        "/dev/urandom",
        "/dev/random",
        "/run",
        "/var/lib/sss",
        "/var/lib/ca-certificates",
        "/nix/store",
        "/gnu/store",
    };
    static const char *const variables[] = {"LD_LIBRARY_PATH", "OPENSSL_CONF", "OPENSSL_MODULES",
                                            "SSL_CERT_DIR", "SSL_CERT_FILE"};
    int result =
        allow(rules, "/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
    for (size_t i = 0; i < ARRAY_SIZE(paths) && result == 0; i++)
        result = allow(rules, paths[i], READ);
    for (size_t i = 0; i < ARRAY_SIZE(variables) && result == 0; i++)
        result = allow_listed(rules, variables[i], READ);
    if (result == 0)
        result = allow_around(rules, "/etc/resolv.conf", READ);
    return result != 0 ? result : allow_dangling(rules, "/etc/resolv.conf");
}

static int allow_configuration(int rules, enum config_role role, const struct config_peer *peer)
{
    int result = 0;
    for (size_t i = 0; i < files_opened_count() && result == 0; i++)
        result = allow_around(rules, files_opened(i), READ);
    /* Only a server binds its services' addresses; a client connects, which needs no right. */
    for (size_t i = 0; role == CONFIG_SERVER && i < peer->service_count && result == 0; i++) {
        if (peer->services[i].addr.host[0] == '/')
            result = allow_beside(rules, peer->services[i].addr.host, SOCKETS);
    }
    if (result == 0) /* systemd makes them for the unit's sockets */
        result = allow_listed(rules, "RUNTIME_DIRECTORY", SOCKETS);
    if (result == 0 && peer->status != NULL && peer->status->addr.host[0] == '/')
        result = allow_beside(rules, peer->status->addr.host, SOCKETS);
    return result;
}

/* The kernel executes the dynamic linker as well. Its directory, since an update replaces it. */
static int allow_linker(int rules)
{
    const ElfW(Phdr) *headers = (const void *)getauxval(AT_PHDR); /* NOLINT(performance-*) */
    size_t count = getauxval(AT_PHNUM);
    uintptr_t base = 0;
    for (size_t i = 0; headers != NULL && i < count; i++) {
        if (headers[i].p_type == PT_PHDR)
            base = (uintptr_t)headers - headers[i].p_vaddr;
        if (headers[i].p_type == PT_INTERP) /* behind PT_PHDR (elf(5)) */
            return allow_around(rules, (const char *)(base + headers[i].p_vaddr), READ | EXECUTE);
    }
    return 0;
}

int sandbox_confine_files(enum config_role role, const struct config_peer *peer,
                          const char *program)
{
    int rules = create_rules(sandbox_landlock_version(), 0, 0);
    if (rules < 0)
        return rules;
    int result = allow_system(rules);
    if (result == 0)
        result = allow_configuration(rules, role, peer);
    if (result == 0 && program != NULL)
        result = allow_around(rules, program, READ | EXECUTE);
    if (result == 0 && program != NULL)
        result = allow_linker(rules);
    if (result == 0)
        return obey_rules(rules);
    (void)close(rules);
    return result;
}

#else

int sandbox_landlock_version(void)
{
    return -ENOSYS;
}

int sandbox_forbid_files(enum sandbox_thread thread)
{
    return -ENOSYS;
}

int sandbox_confine_files(enum config_role role, const struct config_peer *peer,
                          const char *program)
{
    return -ENOSYS;
}

#endif
