#include "app/notify.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* The service manager's socket, with a path or an abstract name. */
struct manager {
    int fd;
    char path[64]; /* the value of NOTIFY_SOCKET */
};

static void manager_open(struct manager *manager, bool is_abstract)
{
    static int count;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(manager->path, sizeof(manager->path), "%srathole-uring-notify.%d.%d",
                   is_abstract ? "@" : "/tmp/", (int)getpid(), count++);
    size_t len = strlen(manager->path);
    memcpy(addr.sun_path, manager->path, len);
    if (is_abstract)
        addr.sun_path[0] = '\0';
    manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(manager->fd, (struct sockaddr *)&addr,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)),
                 0);
    cr_assert_eq(setenv("NOTIFY_SOCKET", manager->path, 1), 0);
}

static void manager_close(const struct manager *manager)
{
    (void)close(manager->fd);
    if (manager->path[0] == '/')
        (void)unlink(manager->path);
}

/* Returns the next message, or "" if there is none. */
static const char *heard(const struct manager *manager)
{
    static char text[512];
    ssize_t got = recv(manager->fd, text, sizeof(text) - 1, MSG_DONTWAIT);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static void clear_environment(void)
{
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
}

TestSuite(notify, .init = clear_environment);

static void check_messages(bool is_abstract)
{
    struct manager manager;
    struct notify notify;
    manager_open(&manager, is_abstract);
    notify_init(&notify);
    cr_assert((fcntl(notify.fd, F_GETFD) & FD_CLOEXEC) != 0);
    notify_ready(&notify, "%d services", 3);
    cr_assert_str_eq(heard(&manager), "READY=1\nSTATUS=3 services");
    notify_status(&notify, "a\nREADY=1");
    cr_assert_str_eq(heard(&manager), "STATUS=a?READY=1", "a status stays one line");
    notify_watchdog(&notify);
    cr_assert_str_eq(heard(&manager), "WATCHDOG=1");
    notify_stopping(&notify);
    cr_assert_str_eq(heard(&manager), "STOPPING=1\nSTATUS=open connections may finish");
    notify_hand_over(&notify, 4711);
    cr_assert_str_eq(heard(&manager), "MAINPID=4711");
    notify_stopping(&notify);
    notify_ready(&notify, "again");
    cr_assert_str_eq(heard(&manager), "", "the successor speaks now");
    notify_finish(&notify);
    notify_finish(&notify);
    manager_close(&manager);
}

Test(notify, by_path)
{
    check_messages(false);
}

Test(notify, by_abstract_name)
{
    check_messages(true);
}

Test(notify, reloading_has_the_time)
{
    struct manager manager;
    struct notify notify;
    struct timespec before, after;
    unsigned long long usec = 0;
    manager_open(&manager, true);
    notify_init(&notify);
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    notify_reloading(&notify);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    cr_assert_eq(sscanf(heard(&manager), "RELOADING=1\nMONOTONIC_USEC=%llu", &usec), 1);
    cr_assert_geq(usec, (unsigned long long)before.tv_sec * 1000000 + before.tv_nsec / 1000);
    cr_assert_leq(usec, (unsigned long long)after.tv_sec * 1000000 + after.tv_nsec / 1000);
    notify_finish(&notify);
    manager_close(&manager);
}

Test(notify, nobody_to_tell)
{
    static const char *const names[] = {NULL, "", "@", "/", "relative", "vsock:2:1234"};
    char long_name[200];
    for (size_t i = 0; i <= ARRAY_SIZE(names); i++) {
        const char *name = i < ARRAY_SIZE(names) ? names[i] : long_name;
        struct notify notify;
        memset(long_name, 'x', sizeof(long_name) - 1);
        long_name[0] = '/';
        long_name[sizeof(long_name) - 1] = '\0';
        if (name != NULL)
            cr_assert_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
        cr_assert_eq(setenv("WATCHDOG_USEC", "1000000", 1), 0);
        notify_init(&notify);
        cr_assert_eq(notify.fd, -1, "%s", name != NULL ? name : "unset");
        cr_assert_eq(notify.watchdog_us, 0, "nobody waits for it");
        notify_ready(&notify, "unheard");
        notify_hand_over(&notify, 1);
        notify_finish(&notify);
    }
}

Test(notify, a_manager_that_is_gone_does_no_harm)
{
    struct manager manager;
    struct notify notify;
    manager_open(&manager, true);
    notify_init(&notify);
    manager_close(&manager);
    notify_ready(&notify, "unheard");
    notify_finish(&notify);
}

/* The manager does not read, so its queue is full after a few messages. */
Test(notify, a_manager_that_is_stuck_holds_us_up_for_less_than_a_second)
{
    struct manager manager;
    struct notify notify;
    struct timespec before, after;
    manager_open(&manager, true);
    notify_init(&notify);
    while (sendto(notify.fd, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&notify.manager,
                  notify.manager_len) == 1)
        ;
    struct timeval wait;
    socklen_t len = sizeof(wait);
    cr_assert_eq(getsockopt(notify.fd, SOL_SOCKET, SO_SNDTIMEO, &wait, &len), 0);
    cr_assert(wait.tv_sec == 0 && 3 * wait.tv_usec < 1000000, "three messages of a turn");
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    notify_stopping(&notify);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    cr_assert_leq(after.tv_sec - before.tv_sec, 5);
    /* The watchdog's message does not wait. */
    wait = (struct timeval){.tv_sec = 30};
    cr_assert_eq(setsockopt(notify.fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)), 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    notify_watchdog(&notify);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    cr_assert_leq(after.tv_sec - before.tv_sec, 5);
    notify_finish(&notify);
    manager_close(&manager);
}

struct watchdog_example {
    const char *usec, *pid;
    uint64_t expected_us;
};

Test(notify, watchdog)
{
    char own[24], other[24];
    (void)snprintf(own, sizeof(own), "%d", (int)getpid());
    (void)snprintf(other, sizeof(other), "%d", (int)getpid() + 1);
    const struct watchdog_example examples[] = {
        {"5000000", NULL, 5000000},
        {"5000000", own, 5000000},
        {"5000000", other, 0},
        {"5000000", "", 0},
        {"5000000", "x", 0},
        {NULL, own, 0},
        {"", NULL, 0},
        {"-5", NULL, 0},
        {"5s", NULL, 0},
        {"0", NULL, 0},
        {"99999999999999999999999", NULL, 0},
    };
    struct manager manager;
    manager_open(&manager, true);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        struct notify notify;
        (void)unsetenv("WATCHDOG_USEC");
        (void)unsetenv("WATCHDOG_PID");
        if (examples[i].usec != NULL)
            cr_assert_eq(setenv("WATCHDOG_USEC", examples[i].usec, 1), 0);
        if (examples[i].pid != NULL)
            cr_assert_eq(setenv("WATCHDOG_PID", examples[i].pid, 1), 0);
        notify_init(&notify);
        cr_assert_eq(notify.watchdog_us, examples[i].expected_us, "example %zu", i);
        notify_finish(&notify);
    }
    manager_close(&manager);
}
