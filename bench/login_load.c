/* Many clients that log in at once, in one process and one thread, with this project's own state machine
 * of a client, its back-off and its handshakes.
 *
 *     login_load CLIENT.ini [option...]
 *
 * CLIENT.ini gives the server's address, the transport, and one service for its token. The names of
 * the services come from --name: "game-%u" stands for game-FIRST, game-(FIRST + 1), ...
 *
 * Options: --clients N (1000), --services N of each client (10), --name PATTERN ("game-%u"), --first N
 * (10000), --shared (all clients have the same services), --from ADDRESS of the first client, the
 * others follow (127.16.0.1), --one-address (all have that one), --channels N data channels that each
 * session opens at most, of those that the server requests (0), --retry MS, the clients'
 * retry_interval (1000), --seconds N (60: then it gives up), --rounds N (1).
 *
 * A round ends when every service of every client is logged in. Then a line of JSON says how long it
 * took, from the first attempt of a cold start or from the first control channel that was lost, and
 * what failed meanwhile. In the next round the generator waits for its control channels to be lost:
 * whoever runs it restarts the server. The lines' `up_ms` is the time on CLOCK_MONOTONIC at which
 * all were in, so that it can be compared with that of the restart. SIGTERM ends it. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "config/config.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "net/handshake.h"
#include "net/link.h"
#include "net/recipe.h"
#include "proto/client_backoff.h"
#include "proto/client_fsm.h"
#include "tunnel/make_recipe.h"

enum {
    EVENTS_AT_ONCE = 512,
    READ_AT_ONCE = 4096,
    NAME_MAX_SIZE = 256,
    TICK_MS = 1,
    DIALS_AT_ONCE = 64
};

enum { CONN_IDLE, CONN_CONNECTING, CONN_LOGIN, CONN_UP };

/* One connection: a control channel, or a data channel of one (`of` is not NULL). */
struct conn {
    struct conn *of, *next_free;
    int fd;
    int state;
    bool was_up; /* in this attempt */
    uint32_t index, channels;
    uint64_t due_ms, begun_ms;
    struct client_backoff backoff;
    struct client_fsm fsm;
    struct handshake *handshake;
    struct link *link;
    size_t have;
    uint8_t in[MESSAGE_HELLO_SIZE];
};

static struct {
    const char *name;
    uint32_t clients, services, first, channels, retry_ms, seconds, rounds;
    bool is_shared, has_one_address;
    struct sockaddr_in from;
} options = {
    .name = "game-%u",
    .clients = 1000,
    .services = 10,
    .first = 10000,
    .retry_ms = 1000,
    .seconds = 60,
    .rounds = 1,
};

static struct {
    uint32_t up, channels_up, put_out, refused, timed_out, rejected, channels_failed, attempts;
    uint64_t begun_ms;
    bool is_open; /* a round is running */
} counts;

static struct recipe *recipe;
static struct link_engine *engine;
static struct config *config;
static struct sockaddr_in server;
static const char *token;
static struct conn *controls, *free_channels;
static uint32_t control_count;
static int poller;
static volatile sig_atomic_t is_stopped;

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void fail(const char *what, int error)
{
    fprintf(stderr, "login_load: %s: %s\n", what, error_text(error));
    exit(1);
}

/* ---- a connection ---- */

static void conn_close(struct conn *conn)
{
    if (conn->fd >= 0)
        (void)close(conn->fd);
    conn->fd = -1;
    handshake_free(conn->handshake);
    link_free(conn->link);
    conn->handshake = NULL;
    conn->link = NULL;
    conn->have = 0;
    client_fsm_finish(&conn->fsm);
}

static void log_in_again(struct conn *conn)
{
    uint64_t now = now_ms();
    uint32_t random;
    keys_random(&random, sizeof(random));
    /* A server that was killed resets: the client can't call that clean. */
    const struct client_attempt attempt = {.lived_ms = now - conn->begun_ms};
    conn->due_ms = now + client_backoff_next(&conn->backoff, &attempt, random);
    conn->state = CONN_IDLE;
}

static void conn_lost(struct conn *conn, int error)
{
    bool is_up = conn->state == CONN_UP, connects = conn->state == CONN_CONNECTING;
    struct conn *of = conn->of;
    conn_close(conn);
    if (of != NULL) {
        counts.channels_up -= is_up;
        counts.channels_failed += !is_up;
        of->channels--;
        conn->next_free = free_channels;
        free_channels = conn;
        return;
    }
    counts.up -= is_up;
    if (is_up && !counts.is_open) {
        counts.is_open = true;
        counts.begun_ms = now_ms();
    }
    if (error == -ETIMEDOUT)
        counts.timed_out++;
    else if (!is_up && connects)
        counts.refused++;
    else if (!is_up && (error == ERR_NO_SERVICE || error == ERR_AUTH))
        counts.rejected++;
    else if (!is_up)
        counts.put_out++;
    log_in_again(conn);
}

static int send_all(const struct conn *conn, const void *bytes, size_t size)
{
    ssize_t sent = send(conn->fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0)
        return -errno;
    return sent == (ssize_t)size ? 0 : -ENOBUFS; /* an empty socket takes any message of a login */
}

static int send_plain(struct conn *conn, const void *bytes, size_t size)
{
    if (conn->link == NULL)
        return send_all(conn, bytes, size);
    ssize_t sealed = link_seal(conn->link, engine, bytes, size, engine->coded);
    return sealed < 0 ? (int)sealed : send_all(conn, engine->coded, (size_t)sealed);
}

static int say_hello(struct conn *conn)
{
    struct client_action action;
    if (conn->of != NULL && conn->of->state != CONN_UP)
        return -ECANCELED; /* its session has ended meanwhile */
    if (conn->of != NULL) {
        uint8_t hello[MESSAGE_HELLO_SIZE];
        message_hello_encode(MESSAGE_HELLO_DATA, client_fsm_session_key(&conn->of->fsm), hello);
        conn->state = CONN_UP;
        counts.channels_up++;
        return send_plain(conn, hello, sizeof(hello));
    }
    char name[NAME_MAX_SIZE];
    uint32_t number = options.is_shared ? conn->index % options.services : conn->index;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(name, sizeof(name), options.name, options.first + number);
#pragma GCC diagnostic pop
    client_fsm_init(&conn->fsm);
    client_fsm_start(&conn->fsm, name, strlen(name), token, strlen(token), &action);
    return send_plain(conn, action.bytes, action.len);
}

/* Takes received bytes through the handshakes that are left. Returns the number of plaintext bytes at
 * *in, or an error. */
static ssize_t through_handshakes(struct conn *conn, const unsigned char **in, size_t size)
{
    unsigned char small[LINK_REPLY_MAX];
    while (conn->handshake != NULL) {
        struct handshake *at = conn->handshake;
        struct link *inner = conn->link;
        struct handshake_out out = {.data = engine->plain, .room = HANDSHAKE_OUT_MAX};
        size_t used = 0;
        if (inner != NULL)
            out = (struct handshake_out){.data = small, .room = sizeof(small)};
        int result = handshake_step(at, engine, *in, size, &used, &out);
        if (result >= 0 && out.size > 0) {
            int sent = send_plain(conn, out.data, out.size);
            result = sent < 0 ? sent : result;
        }
        if (result < 0 || result == HANDSHAKE_MORE)
            return MIN(result, 0);
        *in += used;
        size -= used;
        conn->link = NULL;
        result = handshake_finish(at, engine, inner, &conn->link);
        if (result < 0)
            return result;
        conn->handshake = at->next;
        at->next = NULL;
        handshake_free(at);
        if (conn->link != NULL && size > 0) {
            ssize_t opened = link_open(conn->link, engine, *in, size);
            *in = engine->plain;
            if (opened < 0)
                return opened;
            size = (size_t)opened;
        }
        if (conn->handshake == NULL) {
            result = say_hello(conn);
            if (result < 0)
                return result;
        }
    }
    return (ssize_t)size;
}

/* ---- a session ---- */

static void conn_dial(struct conn *conn);

static void open_channels(struct conn *control, size_t count)
{
    for (; count > 0 && control->channels < options.channels; count--) {
        struct conn *channel = free_channels;
        if (channel != NULL)
            free_channels = channel->next_free;
        else if ((channel = malloc(sizeof(*channel))) == NULL)
            fail("data channels", -ENOMEM);
        *channel = (struct conn){.of = control, .fd = -1, .index = control->index};
        control->channels++;
        conn_dial(channel);
    }
}

static void conn_up(struct conn *conn)
{
    conn->state = CONN_UP;
    counts.up++;
}

static int take_message(struct conn *conn)
{
    struct client_action action;
    client_fsm_received(&conn->fsm, conn->in, conn->have, &action);
    conn->have = 0;
    if (action.type == CLIENT_ACTION_SEND)
        return send_plain(conn, action.bytes, action.len);
    if (action.type == CLIENT_ACTION_CLOSE)
        return action.error;
    conn_up(conn);
    return 0;
}

static int take_plain(struct conn *conn, const unsigned char *in, size_t size)
{
    struct client_commands commands;
    if (conn->of != NULL)
        return 0; /* a command, and a visitor's bytes: nobody visits */
    while (size > 0 && conn->state != CONN_UP) {
        size_t part = MIN(size, client_fsm_wanted(&conn->fsm) - conn->have);
        memcpy(conn->in + conn->have, in, part);
        conn->have += part;
        in += part;
        size -= part;
        if (conn->have == client_fsm_wanted(&conn->fsm)) {
            int result = take_message(conn);
            if (result < 0)
                return result;
        }
    }
    if (size == 0)
        return 0;
    int result = client_fsm_commands(&conn->fsm, in, size, &commands);
    if (result == 0)
        open_channels(conn, commands.channels);
    return result;
}

static int conn_read(struct conn *conn)
{
    static unsigned char bytes[READ_AT_ONCE];
    ssize_t size = recv(conn->fd, bytes, sizeof(bytes), 0);
    if (size < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (size == 0)
        return ERR_EOF;
    const unsigned char *in = bytes;
    if (conn->handshake == NULL && conn->link == NULL)
        return take_plain(conn, in, (size_t)size);
    if (conn->link != NULL) {
        size = link_open(conn->link, engine, in, (size_t)size);
        in = engine->plain;
    }
    if (size > 0 && conn->handshake != NULL)
        size = through_handshakes(conn, &in, (size_t)size);
    if (conn->link != NULL && conn->handshake == NULL)
        link_send_reply(conn->link, conn->fd);
    if (size <= 0)
        return (int)size;
    return take_plain(conn, in, (size_t)size);
}

/* ---- an attempt ---- */

static int conn_connected(struct conn *conn)
{
    int error = 0;
    socklen_t size = sizeof(error);
    const struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0)
        return error != 0 ? -error : -errno;
    if (epoll_ctl(poller, EPOLL_CTL_MOD, conn->fd, (struct epoll_event *)&event) < 0)
        return -errno;
    conn->state = CONN_LOGIN;
    int result = recipe_begin(recipe, &recipe->servers[0], NULL, &conn->handshake);
    if (result < 0)
        return result;
    if (conn->handshake == NULL)
        return say_hello(conn);
    const unsigned char *in = NULL;
    return (int)through_handshakes(conn, &in, 0);
}

static int try_to_dial(struct conn *conn)
{
    struct sockaddr_in from = options.from;
    int on = 1;
    if (!options.has_one_address)
        from.sin_addr.s_addr = htonl(ntohl(from.sin_addr.s_addr) + conn->index / options.services);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = conn};
    const struct linger reset = {.l_onoff = 1};
    if (conn->fd < 0)
        return -errno;
    (void)setsockopt(conn->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (bind(conn->fd, (const struct sockaddr *)&from, sizeof(from)) < 0 ||
        (connect(conn->fd, (const struct sockaddr *)&server, sizeof(server)) < 0 &&
         errno != EINPROGRESS) ||
        epoll_ctl(poller, EPOLL_CTL_ADD, conn->fd, &event) < 0)
        return -errno;
    return 0;
}

static void conn_dial(struct conn *conn)
{
    conn->state = CONN_CONNECTING;
    conn->begun_ms = now_ms();
    counts.attempts += conn->of == NULL;
    int result = try_to_dial(conn);
    if (result < 0)
        conn_lost(conn, result);
}

static void conn_event(struct conn *conn)
{
    if (conn->fd < 0)
        return;
    int result = conn->state == CONN_CONNECTING ? conn_connected(conn) : conn_read(conn);
    if (result < 0)
        conn_lost(conn, result);
}

/* ---- the rounds ---- */

static void report_round(uint32_t round)
{
    struct rusage usage;
    uint64_t now = now_ms();
    (void)getrusage(RUSAGE_SELF, &usage);
    printf(
        "{\"round\": %u, \"up\": %u, \"of\": %u, \"seconds\": %.3f, \"up_ms\": %llu, "
        "\"attempts\": %u, \"put_out\": %u, \"refused\": %u, \"timed_out\": %u, \"rejected\": %u, "
        "\"channels\": %u, \"channels_failed\": %u, \"cpu_s\": %.2f}\n",
        round, counts.up, control_count, (double)(now - counts.begun_ms) / 1000,
        (unsigned long long)now, counts.attempts, counts.put_out, counts.refused, counts.timed_out,
        counts.rejected, counts.channels_up, counts.channels_failed,
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    (void)fflush(stdout);
    counts.attempts = counts.put_out = counts.refused = counts.timed_out = counts.rejected = 0;
    counts.channels_failed = 0;
    counts.is_open = false;
}

/* Begins attempts that are due, not so many at once that the others wait for long, and ends those that
 * take too long. A look at all, each ms: some 30 us for 10,000. */
static void tick(uint64_t now)
{
    static uint32_t begin;
    uint32_t dialled = 0, next = begin;
    for (uint32_t i = 0; i < control_count; i++) {
        uint32_t at = (begin + i) % control_count;
        struct conn *conn = &controls[at];
        if (conn->state == CONN_IDLE && conn->due_ms <= now && dialled < DIALS_AT_ONCE) {
            conn_dial(conn);
            dialled++;
            next = at + 1;
        } else if ((conn->state == CONN_CONNECTING || conn->state == CONN_LOGIN) &&
                   now > conn->begun_ms + LIMIT_LOGIN_MS) {
            conn_lost(conn, -ETIMEDOUT);
        }
    }
    begin = next;
}

static bool run(void)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    uint64_t last_tick = 0, until = now_ms() + options.seconds * 1000ull;
    uint32_t round = 0;
    counts.is_open = true;
    counts.begun_ms = now_ms();
    while (!is_stopped) {
        uint64_t now = now_ms();
        if (now != last_tick)
            tick(now);
        last_tick = now;
        int count = epoll_wait(poller, events, EVENTS_AT_ONCE, TICK_MS);
        for (int i = 0; i < count; i++)
            conn_event(events[i].data.ptr);
        if (counts.is_open && counts.up == control_count) {
            report_round(round++);
            until = now_ms() + options.seconds * 1000ull;
        } else if (counts.is_open && now > until) {
            report_round(round);
            return false;
        }
        if (round == options.rounds)
            return true;
    }
    return round == options.rounds;
}

/* ---- the start ---- */

static void stop(int number)
{
    (void)number;
    is_stopped = 1;
}

static uint32_t number_of(const char *text, const char *option)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value > 1000000) {
        fprintf(stderr, "login_load: %s: a number, not %s\n", option, text);
        exit(2);
    }
    return (uint32_t)value;
}

static void parse(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint32_t *value;
    } numbers[] = {
        {"--clients", &options.clients}, {"--services", &options.services},
        {"--first", &options.first},     {"--channels", &options.channels},
        {"--retry", &options.retry_ms},  {"--seconds", &options.seconds},
        {"--rounds", &options.rounds},
    };
    options.from.sin_family = AF_INET;
    options.from.sin_addr.s_addr = htonl(0x7f100001);
    for (int i = 2; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        bool is_known = true;
        if (strcmp(option, "--shared") == 0) {
            options.is_shared = true;
            continue;
        }
        if (strcmp(option, "--one-address") == 0) {
            options.has_one_address = true;
            continue;
        }
        if (strcmp(option, "--name") == 0) {
            options.name = value;
        } else if (strcmp(option, "--from") == 0) {
            is_known = inet_pton(AF_INET, value, &options.from.sin_addr) == 1;
        } else {
            is_known = false;
            for (size_t n = 0; n < ARRAY_SIZE(numbers) && !is_known; n++) {
                is_known = strcmp(option, numbers[n].name) == 0;
                if (is_known)
                    *numbers[n].value = number_of(value, option);
            }
        }
        if (!is_known) {
            fprintf(stderr, "login_load: bad option %s %s\n", option, value);
            exit(2);
        }
        i++;
    }
    if (options.clients == 0 || options.services == 0) {
        fprintf(stderr, "login_load: no clients, or no services\n");
        exit(2);
    }
}

static void read_config(const char *path)
{
    struct config_report report;
    struct addr addr;
    char why[RECIPE_WHY_SIZE];
    int result = config_load_half(path, CONFIG_CLIENT, &config, &report);
    if (result < 0)
        fail(report.count > 0 ? report.messages[0].text : path, result);
    config_report_finish(&report);
    if (config->client.service_count == 0 || !addr_from_numeric(&config->client.addr, &addr) ||
        addr.any.sa_family != AF_INET)
        fail("a service and an IPv4 address are needed", -EINVAL);
    memcpy(&server, &addr.any, sizeof(server));
    token = config->client.services[0].token;
    result = recipe_create(CONFIG_CLIENT, &config->client, &recipe, why);
    if (result < 0)
        fail(why, result);
    result = link_engine_create(&engine);
    if (result < 0)
        fail("buffers", result);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    const struct sigaction action = {.sa_handler = stop};
    if (argc < 2) {
        fprintf(stderr, "usage: login_load CLIENT.ini [option...] (see its source)\n");
        return 2;
    }
    parse(argc, argv);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (keys_init() < 0)
        fail("libsodium", -ENOSYS);
    aead_setup();
    read_config(argv[1]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    control_count = options.clients * options.services;
    controls = calloc(control_count, sizeof(*controls));
    if (poller < 0 || controls == NULL)
        fail("memory", -ENOMEM);
    for (uint32_t i = 0; i < control_count; i++) {
        controls[i] = (struct conn){.fd = -1, .index = i};
        client_backoff_init(&controls[i].backoff, options.retry_ms);
    }
    return run() ? 0 : 1;
}
