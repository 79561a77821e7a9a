#include "app/privileges.h"

#include <criterion/criterion.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

/* Accounts that every Debian and Ubuntu has. */
#define NOBODY  "nobody"
#define NOGROUP "nogroup"
enum { NOBODY_ID = 65534 };

static char problem[PRIVILEGES_PROBLEM_SIZE];

Test(privileges, names_and_numbers)
{
    static const struct {
        const char *user, *group;
        struct account expected;
    } examples[] = {
        {NOBODY, "", {NOBODY_ID, NOBODY_ID}},
        {"65534", "", {NOBODY_ID, NOBODY_ID}},
        {NOBODY, "daemon", {NOBODY_ID, 1}},
        {NOBODY, "77", {NOBODY_ID, 77}},
        {"daemon", NOGROUP, {1, NOBODY_ID}},
        {"4000000000", "4000000001", {4000000000, 4000000001}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        struct account account = {0};
        cr_expect_eq(privileges_find(examples[i].user, examples[i].group, &account, problem), 0,
                     "%s", problem);
        cr_expect_eq(account.uid, examples[i].expected.uid);
        cr_expect_eq(account.gid, examples[i].expected.gid);
    }
}

Test(privileges, who_is_refused)
{
    static const struct {
        const char *user, *group, *expected;
    } examples[] = {
        {"no-such-user", "", "user no-such-user: there is no such name on this machine"},
        {NOBODY, "no-such-group", "group no-such-group: there is no such name on this machine"},
        {"4000000000", "", "user 4000000000: a number without a name needs group as well"},
        {"4294967295", "1", "user 4294967295: there is no such name on this machine"},
        {"1x", "1", "user 1x: there is no such name on this machine"},
        {"99999999999999999999999", "1",
         "user 99999999999999999999999: there is no such name on this machine"},
        {"root", NOGROUP, "user root: this is root: no privileges would be given up"},
        {"0", NOGROUP, "user 0: this is root: no privileges would be given up"},
        {NOBODY, "root", "group root: this is root's group, which has privileges"},
        {NOBODY, "0", "group 0: this is root's group, which has privileges"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        struct account account = {.uid = 1, .gid = 2};
        cr_expect_eq(privileges_find(examples[i].user, examples[i].group, &account, problem),
                     ERR_CONFIG);
        cr_expect_str_eq(problem, examples[i].expected);
        cr_expect(account.uid == 1 && account.gid == 2);
    }
}

Test(privileges, no_user_changes_nothing)
{
    uid_t before = geteuid();
    cr_expect_eq(privileges_change("", "", false), 0);
    cr_expect_eq(privileges_drop(""), 0);
    cr_expect_eq(geteuid(), before);
    cr_expect_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
}

static uint64_t effective_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
    return data[0].effective | (uint64_t)data[1].effective << 32;
}

static bool may_bind_low_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(1), /* tcpmux: privileged, unused */
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CLEANUP_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    return bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0;
}

Test(privileges, root_becomes_a_user_in_two_steps)
{
    gid_t groups[8];
    if (geteuid() != 0)
        cr_skip_test("only root can become somebody else");
    cr_assert_eq(setgroups(2, (const gid_t[]){0, 4}), 0);

    cr_assert_eq(privileges_change(NOBODY, "daemon", false), 0);
    cr_expect_eq(geteuid(), NOBODY_ID);
    cr_expect_eq(getegid(), 1);
    cr_expect_eq(getgroups(ARRAY_SIZE(groups), groups), 0);
    cr_expect_eq(effective_capabilities(), UINT64_C(1) << CAP_NET_BIND_SERVICE);
    cr_expect_lt(setuid(0), 0);
    cr_expect(may_bind_low_port());

    cr_assert_eq(privileges_drop(NOBODY), 0);
    cr_expect_eq(effective_capabilities(), 0);
    cr_expect_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        cr_expect_leq(prctl(PR_CAPBSET_READ, capability, 0, 0, 0), 0, "capability %d", capability);
    cr_expect_lt(setuid(0), 0);
    cr_expect_lt(setgid(0), 0);
}

Test(privileges, files_can_be_given_away_until_the_second_step)
{
    if (geteuid() != 0)
        cr_skip_test("only root can become somebody else");
    cr_assert_eq(privileges_change(NOBODY, "daemon", true), 0);
    cr_expect_eq(effective_capabilities(), UINT64_C(1) << CAP_NET_BIND_SERVICE | UINT64_C(1)
                                                                                     << CAP_CHOWN);
    cr_assert_eq(privileges_drop(NOBODY), 0);
    cr_expect_eq(effective_capabilities(), 0);
}

Test(privileges, a_user_becomes_nobody_else)
{
    if (geteuid() != 0)
        cr_skip_test("only root can become somebody else");
    cr_assert_eq(setresgid(1, 1, 1), 0);
    cr_assert_eq(setresuid(NOBODY_ID, NOBODY_ID, NOBODY_ID), 0);
    cr_expect_lt(privileges_change("daemon", "", false), 0);
    cr_expect_lt(privileges_change(NOBODY, NOGROUP, false), 0);
    /* The process runs as this user already, in any group. */
    cr_expect_eq(privileges_change(NOBODY, "", false), 0);
    cr_expect_eq(privileges_change(NOBODY, "daemon", false), 0);
    cr_expect_eq(privileges_drop(NOBODY), 0);
    cr_expect_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

Test(privileges, what_is_not_given_up_is_an_error)
{
    if (geteuid() != 0)
        cr_skip_test("only root has something to give up");
    /* A saved user id of root is a way back, which must be found. */
    cr_assert_eq(setresgid(1, 1, 1), 0);
    cr_assert_eq(setresuid(NOBODY_ID, NOBODY_ID, 0), 0);
    cr_expect_lt(privileges_drop(NOBODY), 0);
}

Test(privileges, memory_is_protected)
{
    privileges_protect_memory();
#if !defined(__SANITIZE_ADDRESS__)
    cr_expect_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
#else
    cr_expect_eq(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
#endif
}
