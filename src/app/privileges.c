#include "app/privileges.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

/* ---- user and group ---- */

/* A user or group may be given by number, with or without an account. UINT32_MAX is refused: to
 * setresuid(2) -1 means "unchanged". */
static bool account_parse_number(const char *text, uint32_t *ret)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number >= UINT32_MAX)
        return false;
    *ret = (uint32_t)number;
    return true;
}

static int account_refuse(char problem[static PRIVILEGES_PROBLEM_SIZE], const char *what,
                          const char *name, const char *reason)
{
    (void)snprintf(problem, PRIVILEGES_PROBLEM_SIZE, "%s %.64s: %s", what, name, reason);
    return ERR_CONFIG;
}

/* getpwnam(3): if nobody is found, errno is 0, ENOENT, ESRCH or EPERM, among others. */
static const char *why_not_found(int error)
{
    bool is_missing = error == 0 || error == ENOENT || error == ESRCH || error == EPERM;
    return is_missing ? "there is no such name on this machine" : error_text(-error);
}

int privileges_find(const char *user, const char *group, struct account *ret,
                    char problem[static PRIVILEGES_PROBLEM_SIZE])
{
    struct account account = {0};
    uint32_t number = 0;
    errno = 0;
    const struct passwd *passwd = getpwnam(user);
    int error = errno;
    bool is_number = passwd == NULL && account_parse_number(user, &number);
    if (is_number)
        passwd = getpwuid(number);
    if (passwd == NULL && !is_number)
        return account_refuse(problem, "user", user, why_not_found(error));
    account.uid = passwd != NULL ? passwd->pw_uid : number;

    if (*group == '\0' && passwd == NULL)
        return account_refuse(problem, "user", user, "a number without a name needs group as well");
    if (*group == '\0') {
        account.gid = passwd->pw_gid;
    } else {
        errno = 0;
        const struct group *found = getgrnam(group);
        error = errno;
        if (found == NULL && !account_parse_number(group, &number))
            return account_refuse(problem, "group", group, why_not_found(error));
        account.gid = found != NULL ? found->gr_gid : number;
    }
    if (account.uid == 0)
        return account_refuse(problem, "user", user,
                              "this is root: no privileges would be given up");
    if (account.gid == 0)
        return account_refuse(problem, *group != '\0' ? "group" : "user",
                              *group != '\0' ? group : user,
                              "this is root's group, which has privileges");
    *ret = account;
    return 0;
}

/* ---- the kernel's side ---- */

enum { CAPABILITY_WORDS = _LINUX_CAPABILITY_U32S_3 };

static int get_capabilities(struct __user_cap_data_struct data[static CAPABILITY_WORDS])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    return syscall(SYS_capget, &header, data) < 0 ? -errno : 0;
}

/* Keeps only the permitted capabilities that are in the mask, and makes none inheritable. */
static int limit_capabilities(uint32_t mask)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[CAPABILITY_WORDS];
    int result = get_capabilities(data);
    if (result < 0)
        return result;
    uint32_t kept = data[0].permitted & mask;
    memset(data, 0, sizeof(data));
    data[0].permitted = kept;
    data[0].effective = kept;
    /* Fails before Linux 4.3, which has no ambient set. A capability that is not permitted leaves
     * the set in any case. */
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* The bounding set limits what an executed program can get. The root of a container may not be
 * allowed to change it; then no_new_privs does the same. */
static void empty_bounding_set(void)
{
    for (unsigned int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;)
        capability++;
}

static int change_ids(const struct account *account)
{
    /* PR_SET_KEEPCAPS: otherwise the kernel clears all capabilities when the last user id 0 is gone
     * (capabilities(7)). */
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(account->gid, account->gid, account->gid) < 0 ||
        setresuid(account->uid, account->uid, account->uid) < 0 ||
        prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
        return -errno;
    return 0;
}

static bool is_account(const struct account *account)
{
    uid_t real_uid, uid, saved_uid;
    gid_t real_gid, gid, saved_gid;
    return getresuid(&real_uid, &uid, &saved_uid) == 0 &&
           getresgid(&real_gid, &gid, &saved_gid) == 0 && real_uid == account->uid &&
           uid == account->uid && saved_uid == account->uid && real_gid == account->gid &&
           gid == account->gid && saved_gid == account->gid;
}

static bool is_powerless(void)
{
    const struct account self = {.uid = geteuid(), .gid = getegid()};
    struct __user_cap_data_struct data[CAPABILITY_WORDS];
    if (!is_account(&self) || get_capabilities(data) < 0)
        return false;
    for (size_t i = 0; i < CAPABILITY_WORDS; i++)
        if ((data[i].effective | data[i].permitted | data[i].inheritable) != 0)
            return false;
    /* Each of these must fail. If one succeeds, this thread is root again, and the process ends at
     * once. Not by the C library, which has every thread make the call: in a confined one it would
     * count as an attack. */
    return syscall(SYS_setresuid, (uid_t)-1, 0, (uid_t)-1) < 0 &&
           syscall(SYS_setresgid, (gid_t)-1, 0, (gid_t)-1) < 0 &&
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

void privileges_protect_memory(void)
{
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    /* The leak checker of a sanitizer build attaches to its own process with ptrace(2). */
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#else
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

/* ---- the two steps ---- */

/* Without root no user can be changed: the names must be those of this process. Without `group` its
 * own group is fine. */
static int check_same(const char *user, const char *group, struct account *account)
{
    if (*group == '\0')
        account->gid = getegid();
    if (is_account(account))
        return 0;
    log_error("user = %s: only root can become somebody else; start it as root or as that user%s",
              user, *group != '\0' ? " and group" : "");
    return -EPERM;
}

int privileges_change(const char *user, const char *group, bool gives_files)
{
    struct account account;
    char problem[PRIVILEGES_PROBLEM_SIZE];
    if (*user == '\0')
        return 0;
    int result = privileges_find(user, group, &account, problem);
    if (result < 0) {
        log_error("%s", problem);
        return result;
    }
    if (geteuid() != 0)
        return check_same(user, group, &account);
    empty_bounding_set();
    result = change_ids(&account);
    if (result == 0 && !is_account(&account))
        result = -EPERM;
    if (result == 0)
        result =
            limit_capabilities(1u << CAP_NET_BIND_SERVICE | (gives_files ? 1u << CAP_CHOWN : 0));
    if (result < 0)
        log_error("cannot become user %s: %s", user, error_text(result));
    privileges_protect_memory();
    return result;
}

void privileges_drop_in_thread(void)
{
    /* Errors are ignored: the kernel allows both calls to everybody, and the thread only looks
     * names up. */
    (void)limit_capabilities(0);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int privileges_drop(const char *user)
{
    if (*user == '\0')
        return 0;
    int result = limit_capabilities(0);
    if (result == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        result = -errno;
    if (result == 0 && !is_powerless())
        result = -EPERM;
    if (result < 0)
        log_error("cannot give up all privileges for user %s: %s", user, error_text(result));
    else
        log_info("running as user %s, without privileges", user);
    return result;
}
