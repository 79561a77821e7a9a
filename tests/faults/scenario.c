#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "app/worker.h"
#include "base/clock.h"
#include "base/limits.h"
#include "client/client.h"
#include "crypto/keys.h"
#include "faults.h"
#include "server/server.h"
#include "testing.h"

enum {
    WORKERS = 2,
    CHUNK = 16384,
    BULK = 200000,    /* a bulk flow, which is spliced */
    FLOOD = 12000000, /* more than all the sockets on the way hold */
    SILENT_MS = 1000, /* until a stranger's deadline, where it matters */
    FDS_MAX = 600,    /* where descriptors run out */
    ECHO = 3000,
    DATAGRAMS = 12,
    STALL_MS = 4000, /* a visitor is served or reset in less */
    BACK_MS = 8000,  /* until everything works again */
};

/* A key pair for these tests only. */
#define PRIVATE_KEY "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM="
#define PUBLIC_KEY  "Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4="

struct tunnel {
    struct config *configs[2];
    struct server *server;
    struct client *client;
    struct workers *workers[2];
    struct addr tcp, udp, control; /* where visitors and clients come */
};

static struct addr local_tcp, local_udp;
static int local_fds[2]; /* the services' */

/* ---- the local services ---- */

static unsigned char pattern(size_t at)
{
    return (unsigned char)(at * 7 + (at >> 8) * 13 + (at >> 16));
}

static void set_patience(int fd)
{
    struct timeval limit = {.tv_sec = STALL_MS / 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static bool send_all(int fd, const unsigned char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static bool send_pattern(int fd, size_t size)
{
    unsigned char bytes[CHUNK];
    for (size_t at = 0; at < size;) {
        size_t part = MIN(size - at, sizeof(bytes));
        for (size_t i = 0; i < part; i++)
            bytes[i] = pattern(at + i);
        if (!send_all(fd, bytes, part))
            return false;
        at += part;
    }
    return true;
}

/* Reads to the end of the stream. The number of bytes of the pattern; -1: an error or other bytes;
 * -2: silence. */
static ssize_t read_pattern(int fd)
{
    unsigned char bytes[CHUNK];
    size_t at = 0;
    for (;;) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
        if (got == 0)
            return (ssize_t)at;
        if (got < 0)
            return errno == EAGAIN ? -2 : -1;
        for (ssize_t i = 0; i < got; i++, at++) {
            if (bytes[i] != pattern(at))
                abort(); /* wrong bytes: the parent sees the signal */
        }
    }
}

/* The first byte says what is wanted: 'e' the stream back, 'd' BULK bytes, 'f' FLOOD bytes, 'x' as
 * many as there is room for and then a reset, 'u' the
 * number of the bytes that come. */
static void *serve_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    unsigned char wish = 0;
    faults_exempt(true);
    set_patience(fd);
    if (recv(fd, &wish, 1, 0) != 1) {
        (void)close(fd);
        return NULL;
    }
    if (wish == 'd' || wish == 'f') {
        if (!send_pattern(fd, wish == 'd' ? BULK : FLOOD))
            tcp_abort_on_close(fd);
    } else if (wish == 'x') {
        struct timeval limit = {.tv_usec = 200000}; /* so long nothing moves: it is full */
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
        (void)send_pattern(fd, FLOOD);
        tcp_abort_on_close(fd);
    } else if (wish == 'u') {
        (void)usleep(20000); /* so that everything on the way fills */
        ssize_t count = read_pattern(fd);
        if (count < 0 || !send_all(fd, (const unsigned char *)&count, sizeof(count)))
            tcp_abort_on_close(fd);
    } else {
        unsigned char bytes[ECHO];
        ssize_t got;
        while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
            if (!send_all(fd, bytes, (size_t)got))
                break;
        }
        if (got != 0)
            tcp_abort_on_close(fd);
    }
    (void)close(fd);
    return NULL;
}

static void *tcp_service(void *arg)
{
    faults_exempt(true);
    for (;;) {
        struct pollfd pollfd = {.fd = local_fds[0], .events = POLLIN};
        (void)poll(&pollfd, 1, 1000);
        int fd = accept4(local_fds[0], NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)fd) == 0)
            (void)pthread_detach(thread);
    }
    return NULL;
}

static void *udp_service(void *arg)
{
    unsigned char bytes[2048];
    struct addr from;
    faults_exempt(true);
    for (;;) {
        from.len = sizeof(from.v6);
        ssize_t got = recvfrom(local_fds[1], bytes, sizeof(bytes), 0, &from.any, &from.len);
        if (got >= 0)
            (void)sendto(local_fds[1], bytes, (size_t)got, MSG_NOSIGNAL, &from.any, from.len);
    }
    return NULL;
}

static void start_services(void)
{
    static bool are_started;
    pthread_t threads[2];
    if (are_started)
        return;
    are_started = true;
    local_fds[0] = tcp_listener(&local_tcp);
    local_fds[1] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    local_udp = tcp_loopback(0);
    if (bind(local_fds[1], &local_udp.any, local_udp.len) < 0 ||
        getsockname(local_fds[1], &local_udp.any, &local_udp.len) < 0 ||
        pthread_create(&threads[0], NULL, tcp_service, NULL) != 0 ||
        pthread_create(&threads[1], NULL, udp_service, NULL) != 0)
        abort();
}

/* ---- visitors ---- */

/* EMPTY: an end of stream in the place of the first byte, which is how a service refuses. */
enum outcome { SERVED, CUT, EMPTY, TRUNCATED, STALLED };

static int visit(const struct tunnel *tunnel)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    set_patience(fd);
    if (connect(fd, &tunnel->tcp.any, tunnel->tcp.len) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

static enum outcome outcome_of(ssize_t got, size_t wanted)
{
    if (got == (ssize_t)wanted)
        return SERVED;
    if (got == -2)
        return STALLED;
    return got > 0 ? TRUNCATED : got == 0 ? EMPTY : CUT;
}

static enum outcome echo(int fd)
{
    unsigned char bytes[ECHO];
    bytes[0] = 'e';
    if (!send_all(fd, bytes, 1) || !send_pattern(fd, ECHO))
        return errno == EAGAIN ? STALLED : CUT;
    for (size_t at = 0; at < ECHO;) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
        if (got <= 0)
            return got < 0 && errno == EAGAIN ? STALLED
                                              : outcome_of(got < 0 ? -1 : (ssize_t)at, ECHO);
        for (ssize_t i = 0; i < got; i++, at++) {
            if (bytes[i] != pattern(at))
                abort();
        }
    }
    (void)shutdown(fd, SHUT_WR);
    return outcome_of(read_pattern(fd), 0);
}

static enum outcome download(int fd)
{
    if (!send_all(fd, (const unsigned char *)"d", 1))
        return CUT;
    (void)shutdown(fd, SHUT_WR);
    (void)usleep(20000);
    return outcome_of(read_pattern(fd), BULK);
}

static enum outcome upload(int fd)
{
    ssize_t count = 0;
    if (!send_all(fd, (const unsigned char *)"u", 1) || !send_pattern(fd, BULK))
        return errno == EAGAIN ? STALLED : CUT;
    (void)shutdown(fd, SHUT_WR);
    ssize_t got = recv(fd, &count, sizeof(count), MSG_WAITALL); /* style: a blocking test socket */
    if (got < 0)
        return errno == EAGAIN ? STALLED : CUT;
    if (got == 0)
        return EMPTY;
    return count == BULK ? SERVED : TRUNCATED;
}

static enum outcome flood(int fd)
{
    if (!send_all(fd, (const unsigned char *)"f", 1))
        return CUT;
    (void)shutdown(fd, SHUT_WR);
    (void)usleep(60000);
    return outcome_of(read_pattern(fd), FLOOD);
}

/* The same, and leaves with a reset while everything is full. */
static enum outcome flood_and_leave(int fd)
{
    (void)send_all(fd, (const unsigned char *)"f", 1);
    (void)shutdown(fd, SHUT_WR);
    (void)usleep(60000);
    tcp_abort_on_close(fd);
    return SERVED;
}

/* The same, and the service resets. */
static enum outcome flood_and_lose(int fd)
{
    (void)send_all(fd, (const unsigned char *)"x", 1);
    (void)shutdown(fd, SHUT_WR);
    (void)usleep(400000);
    return read_pattern(fd) == -1 ? SERVED : TRUNCATED;
}

/* A visitor that leaves with a reset. */
static enum outcome leave(int fd)
{
    (void)send(fd, "eabc", 4, MSG_NOSIGNAL);
    tcp_abort_on_close(fd);
    return SERVED;
}

static void visit_as(const struct tunnel *tunnel, const char *what, enum outcome (*run)(int fd),
                     struct verdict *verdict)
{
    int fd = visit(tunnel);
    errno = 0;
    enum outcome outcome = fd >= 0 ? run(fd) : CUT;
    int error = errno;
    if (fd >= 0)
        (void)close(fd);
    if (outcome == CUT || outcome == EMPTY) {
        verdict->cut++;
        verdict->empty += outcome == EMPTY ? 1 : 0;
        (void)snprintf(verdict->cut_text, sizeof(verdict->cut_text), "%s: %s", what,
                       fd < 0             ? "refused"
                       : outcome == EMPTY ? "an empty answer"
                                          : strerror(error));
    }
    if (outcome == TRUNCATED || outcome == STALLED)
        (void)snprintf(verdict->text, sizeof(verdict->text), "%s: %s", what,
                       outcome == TRUNCATED ? "an end of stream before the last byte"
                                            : "no byte for seconds");
}

/* The number of datagrams that came back whole. */
static unsigned int send_datagrams(const struct tunnel *tunnel, int patience_ms)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    unsigned char bytes[2048];
    unsigned int seen = 0;
    if (connect(fd, &tunnel->udp.any, tunnel->udp.len) < 0)
        abort();
    for (unsigned int i = 0; i < DATAGRAMS; i++) {
        size_t size = 1 + i % 4 * 400;
        for (size_t j = 0; j < size; j++)
            bytes[j] = (unsigned char)(i + j);
        (void)send(fd, bytes, size, MSG_NOSIGNAL);
    }
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    while (seen < DATAGRAMS && poll(&pollfd, 1, patience_ms) > 0) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got < 0)
            continue; /* the port was not open yet */
        unsigned int i = bytes[0];
        if (i >= DATAGRAMS || (size_t)got != 1 + i % 4 * 400)
            abort();
        for (ssize_t j = 0; j < got; j++) {
            if (bytes[j] != (unsigned char)(i + (size_t)j))
                abort();
        }
        seen++;
    }
    (void)close(fd);
    return seen;
}

/* ---- the tunnel ---- */

static struct config *parse(const char *text)
{
    struct config *config = NULL;
    struct config_report report;
    if (config_parse("faults", text, strlen(text), &config, &report) < 0)
        abort();
    config_report_finish(&report);
    return config;
}

static void configure(struct tunnel *tunnel, enum scenario_transport transport)
{
    static const char *const transports[][2] = {
        [SCENARIO_PLAIN] = {"", ""},
        [SCENARIO_NOISE] = {"[server.transport]\ntype = \"noise\"\n[server.transport.noise]\n"
                            "local_private_key = \"" PRIVATE_KEY "\"\n",
                            "[client.transport]\ntype = \"noise\"\n[client.transport.noise]\n"
                            "remote_public_key = \"" PUBLIC_KEY "\"\n"},
    };
    char text[1000];
    uint16_t port = free_port();
    tunnel->tcp = tcp_loopback(free_port());
    tunnel->udp = tcp_loopback(free_port());
    tunnel->control = tcp_loopback(port);
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "handshake_timeout = 1\n[server.services.t]\nbind_addr = \"127.0.0.1:%u\"\n"
                   "[server.services.u]\ntype = \"udp\"\nbind_addr = \"127.0.0.1:%u\"\n%s",
                   port, addr_port(&tunnel->tcp), addr_port(&tunnel->udp),
                   transports[transport][0]);
    tunnel->configs[0] = parse(text);
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[client.services.t]\nlocal_addr = \"127.0.0.1:%u\"\n"
                   "[client.services.u]\ntype = \"udp\"\nlocal_addr = \"127.0.0.1:%u\"\n%s",
                   port, addr_port(&local_tcp), addr_port(&local_udp), transports[transport][1]);
    tunnel->configs[1] = parse(text);
}

/* Both ends, as far as faults allow. */
static bool start(struct tunnel *tunnel)
{
    faults_exempt(false);
    bool ok = server_create(&tunnel->configs[0]->server, WORKERS, NULL, &tunnel->server) == 0 &&
              workers_start(&server_role, tunnel->server, WORKERS, &tunnel->workers[0]) == 0 &&
              client_create(&tunnel->configs[1]->client, WORKERS, &tunnel->client) == 0 &&
              workers_start(&client_role, tunnel->client, WORKERS, &tunnel->workers[1]) == 0;
    faults_exempt(true);
    return ok;
}

/* False: they do not end. */
static bool end_workers(struct workers *workers, bool *ret_failed)
{
    if (workers == NULL)
        return true;
    workers_signal(workers, TUNNEL_SIGNAL_STOP);
    uint64_t until_ms = clock_monotonic_ms() + BACK_MS;
    bool failed;
    while (!workers_have_ended(workers, &failed)) {
        if (clock_monotonic_ms() > until_ms)
            return false;
        (void)usleep(500);
    }
    *ret_failed |= failed;
    workers_destroy(workers);
    return true;
}

static void end(struct tunnel *tunnel, bool settles, struct verdict *verdict)
{
    bool failed = false;
    faults_exempt(false);
    bool ended = end_workers(tunnel->workers[1], &failed);
    if (settles)
        (void)usleep(3 * FAULT_DELAY_MS * 1000);
    ended = ended && end_workers(tunnel->workers[0], &failed);
    faults_exempt(true);
    if (!ended) {
        (void)snprintf(verdict->text, sizeof(verdict->text), "the workers do not end");
        return;
    }
    verdict->gave_up |= failed;
    client_destroy(tunnel->client);
    server_destroy(tunnel->server);
    config_destroy(tunnel->configs[0]);
    config_destroy(tunnel->configs[1]);
}

/* Whether a worker has given up. Its process ends then, with an error in its log. */
static bool has_failed(const struct tunnel *tunnel)
{
    bool failed[2];
    (void)workers_have_ended(tunnel->workers[0], &failed[0]);
    (void)workers_have_ended(tunnel->workers[1], &failed[1]);
    return failed[0] || failed[1];
}

static void add_reasons(void *arg, const struct service_report *report)
{
    unsigned long *sum = arg;
    for (size_t i = 0; i < SERVICE_REASONS && config_service_is_stream(report->config); i++)
        *sum += report->totals.reasons[i];
}

/* Visitors who were refused by either end, which is an end of stream in place of an answer. */
static unsigned long refusals(const struct tunnel *tunnel)
{
    unsigned long sum = 0;
    server_role.list_services(tunnel->server, add_reasons, &sum);
    client_role.list_services(tunnel->client, add_reasons, &sum);
    return sum;
}

/* The counters that tell of trouble, of all workers of both ends. */
static unsigned long trouble(const struct tunnel *tunnel, const struct scenario *scenario)
{
    static const enum metric counters[] = {
        METRIC_VISITORS_REFUSED_QUEUE,
        METRIC_VISITORS_REFUSED_NO_CLIENT,
        METRIC_VISITORS_TIMED_OUT,
        METRIC_STRANGERS_REJECTED,
        METRIC_LOGINS_FAILED,
        METRIC_CONTROL_CHANNELS_LOST,
        METRIC_DATA_CHANNELS_STALE,
        METRIC_DATA_CHANNELS_FAILED,
        METRIC_UDP_DROPPED_NO_CHANNEL,
        METRIC_UDP_DROPPED_QUEUE_FULL,
        METRIC_UDP_DROPPED_KERNEL,
        METRIC_UDP_DROPPED_NO_LOCAL,
        METRIC_UDP_DROPPED_TOO_LARGE,
        METRIC_UDP_DROPPED_NO_BUFFERS,
        METRIC_UDP_DROPPED_DENIED,
        METRIC_UDP_DROPPED_REFUSED,
        METRIC_UDP_DROPPED_UNREACHABLE,
        METRIC_UDP_DROPPED_OTHER,
        METRIC_BUFFERS_EXHAUSTED,
        METRIC_OUT_OF_MEMORY,
        /* Not where a crowd causes them: */
        METRIC_ACCEPT_PAUSED,
        METRIC_RELAYS_ABORTED,
    };
    uint64_t sums[METRIC_COUNT] = {0};
    struct worker_load loads[LIMIT_WORKERS] = {{0, 0}};
    unsigned long sum = 0;
    workers_read(tunnel->workers[0], sums, loads);
    workers_read(tunnel->workers[1], sums, loads);
    for (size_t i = 0; i < ARRAY_SIZE(counters) - (scenario->crowded ? 2 : 0); i++)
        sum += sums[counters[i]];
    return sum;
}

/* Waits until a visitor and all datagrams come through. */
static bool is_well(const struct tunnel *tunnel, struct verdict *verdict)
{
    struct verdict ignored = {.text = ""};
    uint64_t until_ms = clock_monotonic_ms() + BACK_MS;
    bool tcp = false, udp = false;
    while (clock_monotonic_ms() < until_ms) {
        if (has_failed(tunnel)) {
            verdict->gave_up = true;
            return false;
        }
        ignored.cut = 0;
        if (!tcp)
            visit_as(tunnel, "a later visitor", echo, &ignored);
        tcp = tcp || (ignored.cut == 0 && ignored.text[0] == '\0');
        udp = udp || send_datagrams(tunnel, 100) == DATAGRAMS;
        verdict->empty += ignored.empty;
        ignored.empty = 0;
        if (ignored.text[0] != '\0') {
            (void)memcpy(verdict->text, ignored.text, sizeof(verdict->text));
            return false;
        }
        if (tcp && udp)
            return true;
        (void)usleep(2000);
    }
    (void)snprintf(verdict->text, sizeof(verdict->text), "%s%s: not served any more",
                   tcp ? "" : "TCP ", udp ? "" : "UDP");
    return false;
}

/* A visitor comes while there is no descriptor for it: accepting pauses, and goes on one by one. */
static void crowd(const struct tunnel *tunnel)
{
    struct verdict ignored = {.text = ""};
    static int fds[FDS_MAX];
    unsigned int count = 0;
    int fd;
    while (count < FDS_MAX && (fd = dup(STDERR_FILENO)) >= 0) {
        fds[count++] = fd;
        if (fd >= FDS_MAX - LIMIT_FDS_RESERVED)
            break;
    }
    for (unsigned int i = 0; i < 8; i++) {
        visit_as(tunnel, "crowded", leave, &ignored);
        (void)usleep(3000);
    }
    while (count > 0)
        (void)close(fds[--count]);
    visit_as(tunnel, "crowded", leave, &ignored);
}

static void be_silent(const struct tunnel *tunnel)
{
    int fd = tcp_dial(&tunnel->control);
    (void)usleep((SILENT_MS + 50) * 1000);
    (void)close(fd);
}

/* Those whose outcome counts. */
static void run_visitors(const struct tunnel *tunnel, const struct scenario *scenario,
                         struct verdict *verdict)
{
    if (scenario->crowded)
        crowd(tunnel);
    visit_as(tunnel, "echo", echo, verdict);
    visit_as(tunnel, "download", download, verdict);
    visit_as(tunnel, "upload", upload, verdict);
    if (scenario->blocked)
        visit_as(tunnel, "flood", flood, verdict);
    verdict->lost +=
        DATAGRAMS - send_datagrams(tunnel, STALL_MS / 2); /* later is as good as lost */
}

/* How much trouble the counters tell of since `before`. What has harmed somebody may be counted a
 * moment later than he sees it. */
static unsigned long told_since(const struct tunnel *tunnel, const struct scenario *scenario,
                                unsigned long before, const struct verdict *verdict)
{
    unsigned long told = trouble(tunnel, scenario) - before;
    bool is_harmed = verdict->cut > 0 || verdict->lost > 0;
    for (unsigned int i = 0; i < 100 && is_harmed && told == 0; i++) {
        (void)usleep(2000);
        told = trouble(tunnel, scenario) - before;
    }
    return told;
}

/* Those who cause trouble themselves. */
static void run_troublemakers(const struct tunnel *tunnel, const struct scenario *scenario,
                              struct verdict *verdict)
{
    visit_as(tunnel, "reset", leave, verdict);
    if (scenario->blocked) {
        visit_as(tunnel, "flood and reset", flood_and_leave, verdict);
        visit_as(tunnel, "flood and a reset of the service", flood_and_lose, verdict);
        visit_as(tunnel, "flood and a reset of the service", flood_and_lose, verdict);
    }
    if (scenario->late)
        be_silent(tunnel);
}

static void look_for_leaks(size_t fds, int64_t blocks, struct verdict *verdict)
{
    uint64_t until_ms = clock_monotonic_ms() + 2000;
    while (open_fd_count() > fds && clock_monotonic_ms() < until_ms)
        (void)usleep(1000); /* the services' threads */
    if (open_fd_count() != fds)
        (void)snprintf(verdict->text, sizeof(verdict->text), "%zd descriptors are left",
                       (ssize_t)(open_fd_count() - fds));
    else if (faults_blocks() != blocks)
        (void)snprintf(verdict->text, sizeof(verdict->text), "%lld blocks are left",
                       (long long)(faults_blocks() - blocks));
}

static void set_limits(const struct scenario *scenario)
{
    struct rlimit limit;
    if (scenario->crowded && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = FDS_MAX;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void scenario_run(const struct scenario *scenario, struct verdict *ret)
{
    struct tunnel tunnel = {.server = NULL};
    *ret = (struct verdict){.text = ""};
    (void)signal(SIGPIPE, SIG_IGN); /* as the program does: splice(2) has no MSG_NOSIGNAL */
    faults_exempt(true);
    set_limits(scenario);
    start_services();
    int64_t blocks = faults_blocks();
    size_t fds = open_fd_count();
    configure(&tunnel, scenario->transport);
    scenario->before(scenario->arg);
    ret->started = start(&tunnel);
    bool well = ret->started && is_well(&tunnel, ret);
    unsigned long before = well ? trouble(&tunnel, scenario) : 0;
    ret->was_up = well;
    scenario->up(scenario->arg);
    if (well) {
        run_visitors(&tunnel, scenario, ret);
        ret->told = told_since(&tunnel, scenario, before, ret);
        run_troublemakers(&tunnel, scenario, ret);
        if (ret->text[0] == '\0')
            (void)is_well(&tunnel, ret);
        ret->refused = refusals(&tunnel);
    }
    (void)fprintf(stderr, SCENARIO_ENDS "\n");
    if (ret->text[0] == '\0')
        end(&tunnel, scenario->settles, ret);
    if (ret->text[0] == '\0' && !ret->gave_up) /* else the process ends */
        look_for_leaks(fds, blocks, ret);
}
