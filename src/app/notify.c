#include "app/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

enum { STATUS_SIZE = 201, MESSAGE_SIZE = 320 };

/* ---- the environment ---- */

/* A positive decimal number; 0 for anything else. */
static uint64_t notify_number(const char *text)
{
    if (text == NULL || text[0] < '0' || text[0] > '9')
        return 0;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    return errno != 0 || *end != '\0' ? 0 : value;
}

/* "/path" or "@abstract" (unix(7)). systemd's vsock addresses, for virtual machines, are not
 * supported. */
static bool set_manager(struct notify *notify, const char *path)
{
    size_t len = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(notify->manager.sun_path))
        return false;
    notify->manager.sun_family = AF_UNIX;
    memcpy(notify->manager.sun_path, path, len);
    if (path[0] == '@')
        notify->manager.sun_path[0] = '\0';
    notify->manager_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return true;
}

static uint64_t watchdog_of_environment(void)
{
    const char *pid = getenv("WATCHDOG_PID");
    if (pid != NULL && notify_number(pid) != (uint64_t)getpid())
        return 0;
    return notify_number(getenv("WATCHDOG_USEC"));
}

void notify_init(struct notify *notify)
{
    *notify = (struct notify){.fd = -1};
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL || path[0] == '\0')
        return;
    if (!set_manager(notify, path)) {
        log_debug("NOTIFY_SOCKET: neither a path nor an abstract name: no messages to the service "
                  "manager");
        return;
    }
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->fd < 0) {
        log_debug("cannot notify the service manager: %s", error_text(-errno));
        return;
    }
    struct timeval wait = {.tv_usec = NOTIFY_WAIT_MS * 1000};
    (void)setsockopt(notify->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    notify->watchdog_us = watchdog_of_environment();
}

void notify_finish(struct notify *notify)
{
    if (notify->manager_len != 0 && notify->fd >= 0)
        (void)close(take_fd(&notify->fd));
}

/* ---- messages ---- */

static void send_with(const struct notify *notify, const char *text, int flags)
{
    if (notify->fd < 0 || notify->is_silent)
        return;
    /* The socket is not connected, because a manager that restarts makes a new socket of the same
     * name. */
    ssize_t sent = sendto(notify->fd, text, strlen(text), MSG_NOSIGNAL | flags,
                          (const struct sockaddr *)&notify->manager, notify->manager_len);
    if (sent < 0)
        log_debug("cannot notify the service manager: %s", error_text(-errno));
}

static void send_message(const struct notify *notify, const char *text)
{
    send_with(notify, text, 0);
}

/* A status is one line of the datagram, so characters that would end the line are replaced. */
PRINTF_FORMAT(2, 0)
static void format_status(char out[static STATUS_SIZE], const char *format, va_list args)
{
    (void)vsnprintf(out, STATUS_SIZE, format, args);
    for (char *at = out; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    }
}

void notify_ready(const struct notify *notify, const char *format, ...)
{
    char status[STATUS_SIZE], message[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    format_status(status, format, args);
    va_end(args);
    (void)snprintf(message, sizeof(message), "READY=1\nSTATUS=%s", status);
    send_message(notify, message);
}

void notify_status(const struct notify *notify, const char *format, ...)
{
    char status[STATUS_SIZE], message[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    format_status(status, format, args);
    va_end(args);
    (void)snprintf(message, sizeof(message), "STATUS=%s", status);
    send_message(notify, message);
}

void notify_reloading(const struct notify *notify)
{
    char message[MESSAGE_SIZE];
    /* Type=notify-reload requires a time that is later than the manager's signal
     * (systemd.service(5)). */
    (void)snprintf(message, sizeof(message), "RELOADING=1\nMONOTONIC_USEC=%llu",
                   (unsigned long long)clock_monotonic_ns() / 1000);
    send_message(notify, message);
}

void notify_stopping(const struct notify *notify)
{
    send_message(notify, "STOPPING=1\nSTATUS=open connections may finish");
}

void notify_watchdog(const struct notify *notify)
{
    send_with(notify, "WATCHDOG=1", MSG_DONTWAIT);
}

void notify_hand_over(struct notify *notify, pid_t successor)
{
    char message[MESSAGE_SIZE];
    (void)snprintf(message, sizeof(message), "MAINPID=%lld", (long long)successor);
    send_message(notify, message);
    notify->is_silent = true;
}
