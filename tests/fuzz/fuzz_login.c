/* A server on the fake loop, met by strangers, clients and visitors. The input chooses the transport
 * (plain TCP, Noise, WebSocket) and is then a script: connect, send any bytes or a right message in
 * pieces, wait, break off, let the kernel show faults. A model follows what each connection has
 * sent:
 *
 *     nothing, or no Hello              -> gets no byte, and is closed in time
 *     a Hello for a control channel     -> at most a Hello with a nonce
 *         of an unknown service         -> and an Ack that says so
 *     and an Auth                       -> at most an Ack, OK only for the right token
 *     and an Ack that says OK           -> commands
 *     the Hello of a data channel       -> with the right key a visitor's bytes, else nothing
 *
 * A visitor gets no byte that no data channel has sent. At the end no stranger is left, and no
 * descriptor, buffer or op. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chance.h"
#include "fuzz.h"
#include "io/socket.h"
#include "loop_script.h"
#include "noise_peer.h"
#include "proto/message.h"
#include "proto/websocket.h"
#include "server/server.h"
#include "side.h"

/* On a busy machine the kernel may take its time, which is not the loop's, even on loopback. */
enum { TRIES = 500, STEP_US = 2000 };

enum mode { PLAIN, NOISE, WEBSOCKET, MODES };

enum {
    CONNS = 12,
    VISITORS = 4,
    EVENTS_MAX = 200,
    RECORD = MESSAGE_HELLO_SIZE + MESSAGE_AUTH_SIZE,
    GOT_MAX = 8192,
    SESSIONS_MAX = EVENTS_MAX,
};

struct conn {
    int fd;         /* -1: free */
    bool has_peer;  /* `peer` has made a handshake */
    bool has_asked; /* for an upgrade to WebSocket */
    bool is_wild;   /* has sent bytes that the model does not follow */
    struct noise_peer peer;
    uint8_t sent[RECORD]; /* the first bytes, inside the coding */
    size_t sent_size;     /* of all */
    uint8_t got[GOT_MAX]; /* as they come from the socket or, with a peer, inside the coding */
    size_t got_size;
};

static struct {
    struct config *configs[MODES][2]; /* [1]: visitors begin with a PROXY header */
    struct noise_keys client_keys;
    struct link_engine *engine;
    struct addr control_addr, service_addr;

    enum mode mode;
    bool has_headers;
    struct server *server;
    struct side side;
    struct conn conns[CONNS];
    int visitors[VISITORS];
    uint8_t session_keys[SESSIONS_MAX][KEYS_DIGEST_SIZE]; /* the last one is that of the session */
    size_t session_count;
    size_t from_channels, to_visitors; /* bytes: the former with all that clients have sent */
} all;

#define TOKEN "a secret"

/* ---- once ---- */

static void set_up(void)
{
    static const char *const transports[MODES] = {
        [PLAIN] = "",
        [NOISE] = "[server.transport]\ntype = noise\n",
        [WEBSOCKET] = "[server.transport]\ntype = websocket\nwebsocket.tls = false\n"};
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char key[KEYS_TEXT_SIZE], text[600];
    if (all.engine != NULL)
        return;
    chance_begin(0);
    atomic_store(&log_level_now, LOG_ERROR - 1); /* fuzz_log is about it */
    fake_loop_set_buffers_most(8);
    FUZZ_CHECK(keys_init() == 0 && link_engine_create(&all.engine) == 0);
    keys_pair_generate(private_key, public_key);
    keys_to_text(private_key, key);
    noise_keys_init(&all.client_keys, NOISE_NK, NULL, public_key);
    all.control_addr = tcp_loopback(free_port());
    all.service_addr = tcp_loopback(free_port());
    for (int i = 0; i < 2 * MODES; i++) {
        int mode = i / 2, size;
        size =
            snprintf(text, sizeof(text),
                     "[server]\nbind_addr = 127.0.0.1:%u\ndefault_token = " TOKEN "\n"
                     "[server.services.echo]\nbind_addr = 127.0.0.1:%u\n%s%s",
                     addr_port(&all.control_addr), addr_port(&all.service_addr),
                     i % 2 == 1 ? "accept_proxy_protocol = 127.0.0.0/8\n" : "", transports[mode]);
        if (mode == NOISE)
            (void)snprintf(text + size, sizeof(text) - (size_t)size,
                           "[server.transport.noise]\nlocal_private_key = %s\n", key);
        all.configs[mode][i % 2] = side_config(text);
    }
}

/* ---- a connection ---- */

static struct conn *pick(struct script *script)
{
    struct conn *conn = &all.conns[script_below(script, CONNS)];
    return conn->fd >= 0 ? conn : NULL;
}

static void conn_close(struct conn *conn, bool ends_first)
{
    if (ends_first)
        (void)shutdown(conn->fd, SHUT_WR);
    if (conn->has_peer)
        link_free(conn->peer.link);
    tcp_close_now(conn->fd);
    conn->fd = -1;
    conn->has_peer = false;
}

static void conn_dial(struct script *script)
{
    struct conn *conn = &all.conns[script_below(script, CONNS)];
    if (conn->fd >= 0)
        conn_close(conn, false);
    *conn = (struct conn){.fd = tcp_dial(&all.control_addr)};
    if (conn->fd < 0)
        return;
    (void)socket_set_nodelay(conn->fd, true);
    if (all.mode == NOISE && script_byte(script) % 2 == 0) {
        noise_peer_init(&conn->peer, &all.side, all.engine, conn->fd, &all.client_keys, true);
        conn->has_peer = conn->peer.link != NULL;
        if (!conn->has_peer)
            conn_close(conn, false);
    }
}

static void record(struct conn *conn, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size && conn->sent_size + i < RECORD; i++)
        conn->sent[conn->sent_size + i] = bytes[i];
    conn->sent_size += size;
}

/* Bytes as they are, on a connection that may be coded. */
static void conn_say_raw(struct conn *conn, const uint8_t *bytes, size_t size)
{
    conn->is_wild |= all.mode != PLAIN;
    all.from_channels += size;
    if (all.mode == PLAIN)
        record(conn, bytes, size);
    say(conn->fd, bytes, size);
}

static void conn_say(struct conn *conn, const uint8_t *bytes, size_t size)
{
    static const uint8_t mask[WEBSOCKET_MASK_SIZE] = {1, 2, 3, 4};
    uint8_t frame[512];
    if (size == 0)
        return;
    if (all.mode != PLAIN)
        all.from_channels += size;
    if (all.mode == PLAIN) {
        conn_say_raw(conn, bytes, size);
    } else if (all.mode == WEBSOCKET) {
        record(conn, bytes, size);
        say(conn->fd, frame, websocket_encode(WEBSOCKET_BINARY, mask, bytes, size, frame));
    } else if (conn->has_peer) {
        record(conn, bytes, size);
        noise_peer_tell(&conn->peer, bytes, size);
    }
}

static void conn_upgrade(struct conn *conn)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
                                  "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    if (all.mode != WEBSOCKET || conn->has_asked)
        return;
    conn->is_wild |= conn->sent_size > 0;
    conn->has_asked = true;
    say(conn->fd, request, sizeof(request) - 1);
}

static void conn_read(struct conn *conn)
{
    uint8_t bytes[2048];
    for (;;) {
        ssize_t got = recv(conn->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got <= 0)
            return;
        const uint8_t *plain = bytes;
        size_t size = (size_t)got;
        if (conn->has_peer) {
            got = link_open(conn->peer.link, all.engine, bytes, size);
            FUZZ_CHECK(got >= 0);
            plain = all.engine->plain;
            size = (size_t)got;
        }
        size = MIN(size, GOT_MAX - conn->got_size);
        memcpy(conn->got + conn->got_size, plain, size);
        conn->got_size += size;
    }
}

/* What was sent to the connection inside its coding; *ret_size: its size. */
static const uint8_t *conn_got(const struct conn *conn, size_t *ret_size)
{
    static uint8_t plain[GOT_MAX];
    static const char end[] = "\r\n\r\n";
    *ret_size = conn->got_size;
    if (all.mode != WEBSOCKET)
        return conn->got;
    *ret_size = 0;
    const uint8_t *head = memmem(conn->got, conn->got_size, end, 4);
    const uint8_t *stop = conn->got + conn->got_size;
    for (const uint8_t *at = head == NULL ? stop : head + 4; stop - at >= 2;) {
        size_t size = at[1], head_size = 2;
        if (size == 126 && stop - at >= 4) {
            size = (size_t)at[2] << 8 | at[3];
            head_size = 4;
        }
        if (size > (size_t)(stop - at) - MIN(head_size, (size_t)(stop - at)))
            break;
        if (at[0] == 0x82) {
            memcpy(plain + *ret_size, at + head_size, size);
            *ret_size += size;
        }
        at += head_size + size;
    }
    return plain;
}

/* ---- the model ---- */

static bool has_sent_hello(const struct conn *conn, enum message_hello_tag tag)
{
    const uint8_t head[] = {(uint8_t)tag, 0, 0, 0, MESSAGE_VERSION};
    return conn->sent_size >= MESSAGE_HELLO_SIZE && memcmp(conn->sent, head, sizeof(head)) == 0;
}

static bool is_channel(const struct conn *conn)
{
    for (size_t i = 0; has_sent_hello(conn, MESSAGE_HELLO_DATA) && i < all.session_count; i++) {
        if (memcmp(conn->sent + 5, all.session_keys[i], KEYS_DIGEST_SIZE) == 0)
            return true;
    }
    return false;
}

/* Whether this answer of the server to a Hello, and the Auth behind it, are a login. */
static bool is_login(const struct conn *conn, const uint8_t *hello)
{
    uint8_t digest[KEYS_DIGEST_SIZE], auth[KEYS_DIGEST_SIZE];
    keys_service_digest("echo", 4, digest);
    keys_auth_digest(TOKEN, strlen(TOKEN), hello + 5, auth);
    return conn->sent_size >= RECORD && memcmp(conn->sent + 5, digest, sizeof(digest)) == 0 &&
           memcmp(conn->sent + MESSAGE_HELLO_SIZE, auth, sizeof(auth)) == 0;
}

/* True: the server has said OK. */
static bool check_login(const struct conn *conn, const uint8_t *got, size_t size)
{
    static const uint8_t head[] = {0, 0, 0, 0, MESSAGE_VERSION};
    FUZZ_CHECK(memcmp(got, head, MIN(size, sizeof(head))) == 0);
    if (size <= MESSAGE_HELLO_SIZE)
        return false;
    size_t at = MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE;
    uint8_t ack = got[MESSAGE_HELLO_SIZE], digest[KEYS_DIGEST_SIZE];
    bool is_ok = ack == MESSAGE_ACK_OK;
    keys_service_digest("echo", 4, digest);
    /* An unknown service is told at once, another answer only to an Auth. */
    FUZZ_CHECK(ack < MESSAGE_ACK_COUNT && is_ok == is_login(conn, got));
    FUZZ_CHECK((ack == MESSAGE_ACK_NO_SERVICE) ==
               (memcmp(conn->sent + 5, digest, sizeof(digest)) != 0));
    FUZZ_CHECK(ack == MESSAGE_ACK_NO_SERVICE || conn->sent_size >= RECORD);
    FUZZ_CHECK(is_ok || size <= at);
    for (; at + MESSAGE_COMMAND_SIZE <= size; at += MESSAGE_COMMAND_SIZE) {
        enum message_command command;
        FUZZ_CHECK(message_command_decode(got + at, MESSAGE_COMMAND_SIZE, &command) == 0);
    }
    return is_ok;
}

/* Of a connection that the model does not follow. As long as nobody has logged in, it is a stranger's: at
 * most a Hello with a nonce comes and an Ack that refuses. */
static void check_wild(const struct conn *conn, const uint8_t *got, size_t size)
{
    static const uint8_t head[] = {0, 0, 0, 0, MESSAGE_VERSION};
    FUZZ_CHECK(all.mode == WEBSOCKET || conn->has_peer || size == 0);
    if (all.session_count > 0)
        return;
    FUZZ_CHECK(memcmp(got, head, MIN(size, sizeof(head))) == 0);
    FUZZ_CHECK(size <= MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE);
    FUZZ_CHECK(size <= MESSAGE_HELLO_SIZE || (got[MESSAGE_HELLO_SIZE] < MESSAGE_ACK_COUNT &&
                                              got[MESSAGE_HELLO_SIZE] != MESSAGE_ACK_OK));
}

/* True: the connection is authenticated, or may be. */
static bool check(const struct conn *conn)
{
    static const char status[] = "HTTP/1.1 ";
    size_t size;
    const uint8_t *got = conn_got(conn, &size);
    if (all.mode == WEBSOCKET)
        FUZZ_CHECK(memcmp(conn->got, status, MIN(conn->got_size, sizeof(status) - 1)) == 0);
    if (conn->is_wild) {
        check_wild(conn, got, size);
        return conn->sent_size > 0;
    }
    if (is_channel(conn)) {
        static const uint8_t start[MESSAGE_DATA_COMMAND_SIZE] = {MESSAGE_DATA_START_TCP};
        FUZZ_CHECK(memcmp(got, start, MIN(size, sizeof(start))) == 0);
        for (size_t i = sizeof(start); i < size && !all.has_headers; i++)
            FUZZ_CHECK(got[i] == 'v');
        return true;
    }
    if (!has_sent_hello(conn, MESSAGE_HELLO_CONTROL)) {
        FUZZ_CHECK(size == 0);
        return false;
    }
    return check_login(conn, got, size);
}

static void look_at_all(void)
{
    for (size_t i = 0; i < CONNS; i++) {
        if (all.conns[i].fd < 0)
            continue;
        conn_read(&all.conns[i]);
        (void)check(&all.conns[i]);
    }
    all.to_visitors += receive_from_all(all.visitors, VISITORS);
    FUZZ_CHECK(all.to_visitors <= all.from_channels);
    FUZZ_CHECK(all.to_visitors == 0 || all.session_count > 0);
}

/* ---- events ---- */

static void say_hello(struct script *script, struct conn *conn)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[KEYS_DIGEST_SIZE];
    uint8_t how = script_byte(script);
    const char *name = (how & 1) != 0 ? "nobody" : "echo";
    size_t cut = how >> 4 == 0 ? 0 : script_below(script, MESSAGE_HELLO_SIZE);
    bool is_data = (how & 2) != 0;
    keys_service_digest(name, strlen(name), digest);
    message_hello_encode(is_data ? MESSAGE_HELLO_DATA : MESSAGE_HELLO_CONTROL,
                         is_data && all.session_count > 0 && (how & 1) == 0
                             ? all.session_keys[all.session_count - 1]
                             : digest,
                         hello);
    conn_say(conn, hello, cut);
    if (cut > 0)
        side_settle(&all.side, (int)(how >> 2 & 3));
    conn_say(conn, hello + cut, sizeof(hello) - cut);
}

static void say_auth(struct script *script, struct conn *conn)
{
    uint8_t auth[MESSAGE_AUTH_SIZE];
    uint8_t how = script_byte(script);
    size_t size;
    conn_read(conn);
    const uint8_t *got = conn_got(conn, &size);
    if (size < MESSAGE_HELLO_SIZE || conn->sent_size != MESSAGE_HELLO_SIZE)
        return;
    keys_auth_digest(TOKEN, strlen(TOKEN), got + 5, auth);
    auth[script_below(script, sizeof(auth))] ^= (how & 1) != 0 ? 1 : 0;
    size_t cut = how >> 4 == 0 ? 0 : script_below(script, sizeof(auth));
    conn_say(conn, auth, cut);
    if (cut > 0)
        side_settle(&all.side, (int)(how >> 2 & 3));
    conn_say(conn, auth + cut, sizeof(auth) - cut);
    if ((how & 1) == 0 && is_login(conn, got))
        memcpy(all.session_keys[all.session_count++], auth, sizeof(auth));
}

static void say_bytes(struct script *script, struct conn *conn, bool is_raw)
{
    size_t size;
    const uint8_t *piece = script_piece(script, 200, &size);
    if (is_raw)
        conn_say_raw(conn, piece, size);
    else
        conn_say(conn, piece, size);
}

static void faults(struct script *script)
{
    unsigned int rest;
    struct fake_faults faults = script_faults(script, &rest);
    faults.accept_error = (rest & 1) != 0 ? 100 : 0;
    faults.reset = (rest & 2) != 0 ? 30 : 0;
    faults.enomem = (rest & 4) != 0 ? 30 : 0;
    side_set_faults(&all.side, &faults);
}

static void visit(struct script *script)
{
    int *fd = &all.visitors[script_below(script, VISITORS)];
    static const char bytes[256] =
        "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";
    if (*fd < 0) {
        *fd = tcp_dial(&all.service_addr);
        if (*fd >= 0)
            (void)socket_set_nodelay(*fd, true);
        return;
    }
    uint8_t how = script_byte(script);
    if (how < 200) {
        size_t size = how % 64u;
        const void *piece = bytes;
        if (all.has_headers)
            piece = script_piece(script, 200, &size);
        say(*fd, piece, size);
        return;
    }
    if (how < 230) {
        (void)shutdown(*fd, SHUT_WR);
        return;
    }
    tcp_close_now(*fd);
    *fd = -1;
}

static void event_of_conn(struct script *script, uint8_t what)
{
    struct conn *conn = pick(script);
    if (conn == NULL)
        return;
    switch (what) {
    case 0:
    case 1:
        say_hello(script, conn);
        break;
    case 2:
    case 3:
        say_auth(script, conn);
        break;
    case 4:
        say_bytes(script, conn, true);
        break;
    case 5:
        say_bytes(script, conn, false);
        break;
    case 6:
        conn_upgrade(conn);
        break;
    case 7:
        (void)shutdown(conn->fd, SHUT_WR);
        break;
    default:
        conn_close(conn, what == 9);
        break;
    }
}

static void event(struct script *script)
{
    uint8_t what = script_byte(script) & 15;
    switch (what) {
    case 10:
        conn_dial(script);
        break;
    case 11:
        side_settle(&all.side, (int)script_below(script, 16));
        break;
    case 12:
        side_advance(&all.side, script_byte(script) * 100u);
        break;
    case 13:
        faults(script);
        break;
    case 14:
        visit(script);
        break;
    case 15:
        look_at_all();
        break;
    default:
        event_of_conn(script, what);
        break;
    }
}

/* ---- the end ---- */

static bool has_ended(const struct conn *conn)
{
    for (int i = 0; i < TRIES; i++) {
        if (side_end_of(&all.side, conn->fd) != 0)
            return true;
        (void)usleep(STEP_US);
    }
    return false;
}

/* Who has not logged in by now must be gone. */
static void check_end(void)
{
    static const struct fake_faults none;
    side_set_faults(&all.side, &none);
    for (int i = 0; i < 8; i++) {
        side_advance(&all.side, 2000);
        side_settle(&all.side, 8);
        look_at_all();
    }
    for (size_t i = 0; i < CONNS; i++) {
        struct conn *conn = &all.conns[i];
        if (conn->fd >= 0 && !check(conn))
            FUZZ_CHECK(has_ended(conn));
    }
    for (int i = 0; i < TRIES && all.server->gate.pending_count > 0; i++) {
        (void)usleep(STEP_US);
        side_advance(&all.side, 1000);
    }
    FUZZ_CHECK(all.server->gate.pending_count == 0);
    FUZZ_CHECK(side_metric(&all.side, METRIC_LOGINS) == 0 || all.session_count > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, size};
    if (size < 3)
        return 0;
    set_up();
    uint8_t choice = script_byte(&script);
    unsigned int workers = 1 + (choice >> 7);
    size_t fds_before = open_fd_count();
    all.mode = (enum mode)(choice % MODES);
    all.has_headers = (choice & 64) != 0;
    all.session_count = 0;
    all.from_channels = all.to_visitors = 0;
    for (size_t i = 0; i < CONNS; i++)
        all.conns[i].fd = -1;
    for (size_t i = 0; i < VISITORS; i++)
        all.visitors[i] = -1;
    uint8_t seed = script_byte(&script);
    fake_loop_set_seed(seed);
    chance_begin(seed);
    FUZZ_CHECK(side_init(&all.side, workers) == 0);
    FUZZ_CHECK(server_create(&all.configs[all.mode][all.has_headers]->server, workers, NULL,
                             &all.server) == 0);
    FUZZ_CHECK(side_start(&all.side, &server_role, all.server) == 0);
    side_set_idle_step_ms(&all.side, 0);
    for (int i = 0; i < EVENTS_MAX && !script_is_over(&script); i++)
        event(&script);
    check_end();
    for (size_t i = 0; i < CONNS; i++) {
        if (all.conns[i].fd >= 0)
            conn_close(&all.conns[i], false);
    }
    for (size_t i = 0; i < VISITORS; i++) {
        if (all.visitors[i] >= 0)
            tcp_close_now(all.visitors[i]);
    }
    side_finish(&all.side);
    server_destroy(all.server);
    FUZZ_CHECK(open_fd_count() == fds_before);
    return 0;
}
