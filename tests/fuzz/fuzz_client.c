/* A client on the fake loop, whose server is the input: plain TCP or Noise. The input is a script: the
 * server answers logins rightly, wrongly or with any bytes, asks for channels, starts them with any
 * command, sends a visitor's bytes, breaks off, waits; the local service answers or breaks off; the
 * kernel shows faults. A model follows what each connection has got:
 *
 *     nothing in answer to its Hello  -> only the Hello of the service comes
 *     a Hello with a nonce            -> at most the Auth that belongs to the nonce
 *     the Hello of a data channel     -> only with the key of a session that was made, and the local
 *                                        service's bytes only after a right command
 *
 * The local service gets no byte that no channel has sent. At the end nothing is left over. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chance.h"
#include "client/client.h"
#include "fuzz.h"
#include "io/socket.h"
#include "loop_script.h"
#include "noise_peer.h"
#include "proto/message.h"
#include "side.h"

enum {
    CONNS = 12,
    LOCALS = 8,
    EVENTS_MAX = 200,
    GOT_MAX = 4096,
    SESSIONS_MAX = EVENTS_MAX,
};

struct conn {
    int fd; /* -1: free */
    bool is_noise;
    struct noise_peer peer;
    uint8_t sent[MESSAGE_HELLO_SIZE + MESSAGE_ACK_SIZE]; /* the first bytes, inside the coding */
    size_t sent_size;
    uint8_t got[GOT_MAX];
    size_t got_size;
};

static struct {
    struct config *configs[2]; /* plain, Noise */
    struct noise_keys server_keys;
    struct link_engine *engine;
    struct addr server_addr, local_addr;
    int listener, local_listener;

    bool is_noise;
    struct client *client;
    struct side side;
    struct conn conns[CONNS];
    int locals[LOCALS];
    uint8_t session_keys[SESSIONS_MAX][KEYS_DIGEST_SIZE];
    size_t session_count;
    size_t to_locals, to_channels; /* bytes: the latter with all that the server has sent */
} all;

#define TOKEN "a secret"

/* ---- once ---- */

static void set_up(void)
{
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char key[KEYS_TEXT_SIZE], text[600];
    if (all.engine != NULL)
        return;
    chance_begin(0);
    atomic_store(&log_level_now, LOG_ERROR - 1); /* fuzz_log is about it */
    fake_loop_set_buffers_most(8);
    FUZZ_CHECK(keys_init() == 0 && link_engine_create(&all.engine) == 0);
    keys_pair_generate(private_key, public_key);
    keys_to_text(public_key, key);
    noise_keys_init(&all.server_keys, NOISE_NK, private_key, NULL);
    all.listener = tcp_listener(&all.server_addr);
    all.local_listener = tcp_listener(&all.local_addr);
    for (int noise = 0; noise < 2; noise++) {
        int size = snprintf(text, sizeof(text),
                            "[client]\nremote_addr = 127.0.0.1:%u\ndefault_token = " TOKEN "\n"
                            "[client.services.echo]\nlocal_addr = 127.0.0.1:%u\n",
                            addr_port(&all.server_addr), addr_port(&all.local_addr));
        if (noise == 1)
            (void)snprintf(text + size, sizeof(text) - (size_t)size,
                           "[client.transport]\ntype = noise\n"
                           "[client.transport.noise]\nremote_public_key = %s\n",
                           key);
        all.configs[noise] = side_config(text);
    }
}

/* ---- connections ---- */

static void close_now(int *fd)
{
    tcp_close_now(*fd);
    *fd = -1;
}

static void conn_close(struct conn *conn)
{
    if (conn->is_noise)
        link_free(conn->peer.link);
    conn->is_noise = false;
    close_now(&conn->fd);
}

static int take(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        (void)socket_set_nodelay(fd, true);
    return fd;
}

static void conn_accept(struct script *script)
{
    struct conn *conn = &all.conns[script_below(script, CONNS)];
    int fd = take(all.listener);
    if (fd < 0)
        return;
    if (conn->fd >= 0)
        conn_close(conn);
    *conn = (struct conn){.fd = fd};
    if (!all.is_noise || script_byte(script) % 4 == 3)
        return;
    noise_peer_init(&conn->peer, &all.side, all.engine, fd, &all.server_keys, false);
    conn->is_noise = conn->peer.link != NULL;
    if (!conn->is_noise)
        conn_close(conn);
}

/* Bytes that the client reads inside the coding. A login is complete with the Hello and an Ack that says
 * OK, whenever they come. */
static void record(struct conn *conn, const uint8_t *bytes, size_t size)
{
    static const uint8_t head[] = {MESSAGE_HELLO_CONTROL, 0, 0, 0, MESSAGE_VERSION};
    static const uint8_t ok[MESSAGE_ACK_SIZE] = {MESSAGE_ACK_OK};
    bool was_complete = conn->sent_size >= sizeof(conn->sent);
    for (size_t i = 0; i < size && conn->sent_size + i < sizeof(conn->sent); i++)
        conn->sent[conn->sent_size + i] = bytes[i];
    conn->sent_size += size;
    all.to_channels += size;
    if (!was_complete && conn->sent_size >= sizeof(conn->sent) &&
        memcmp(conn->sent, head, sizeof(head)) == 0 &&
        memcmp(conn->sent + MESSAGE_HELLO_SIZE, ok, sizeof(ok)) == 0)
        keys_auth_digest(TOKEN, strlen(TOKEN), conn->sent + sizeof(head),
                         all.session_keys[all.session_count++]);
}

static void conn_say_raw(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (!all.is_noise)
        record(conn, bytes, size);
    say(conn->fd, bytes, size);
}

static void conn_say(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (size == 0 || (all.is_noise && !conn->is_noise))
        return;
    if (!all.is_noise) {
        conn_say_raw(conn, bytes, size);
        return;
    }
    record(conn, bytes, size);
    noise_peer_tell(&conn->peer, bytes, size);
}

static void conn_read(struct conn *conn)
{
    uint8_t bytes[2048];
    for (;;) {
        ssize_t got = recv(conn->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got <= 0)
            return;
        const uint8_t *plain = bytes;
        if (conn->is_noise) {
            got = link_open(conn->peer.link, all.engine, bytes, (size_t)got);
            FUZZ_CHECK(got >= 0);
            plain = all.engine->plain;
        } else if (all.is_noise) {
            continue; /* the first message of a handshake */
        }
        size_t size = MIN((size_t)got, GOT_MAX - conn->got_size);
        memcpy(conn->got + conn->got_size, plain, size);
        conn->got_size += size;
    }
}

/* ---- the model ---- */

static bool is_prefix(const uint8_t *got, size_t size, const uint8_t *whole, size_t whole_size)
{
    return memcmp(got, whole, MIN(size, whole_size)) == 0;
}

static void check_control(const struct conn *conn)
{
    static const uint8_t head[] = {MESSAGE_HELLO_CONTROL, 0, 0, 0, MESSAGE_VERSION};
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[KEYS_DIGEST_SIZE], auth[KEYS_DIGEST_SIZE];
    keys_service_digest("echo", 4, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    FUZZ_CHECK(is_prefix(conn->got, conn->got_size, hello, sizeof(hello)));
    FUZZ_CHECK(conn->got_size <= sizeof(hello) + sizeof(auth));
    if (conn->got_size <= sizeof(hello))
        return;
    FUZZ_CHECK(conn->sent_size >= MESSAGE_HELLO_SIZE &&
               memcmp(conn->sent, head, sizeof(head)) == 0);
    keys_auth_digest(TOKEN, strlen(TOKEN), conn->sent + sizeof(head), auth);
    FUZZ_CHECK(
        is_prefix(conn->got + sizeof(hello), conn->got_size - sizeof(hello), auth, sizeof(auth)));
}

static void check_channel(const struct conn *conn)
{
    bool is_known = false;
    size_t size = MIN(conn->got_size, (size_t)MESSAGE_HELLO_SIZE);
    for (size_t i = 0; i < all.session_count && !is_known; i++) {
        uint8_t hello[MESSAGE_HELLO_SIZE];
        message_hello_encode(MESSAGE_HELLO_DATA, all.session_keys[i], hello);
        is_known = is_prefix(conn->got, size, hello, sizeof(hello));
    }
    FUZZ_CHECK(is_known);
    if (conn->got_size == size)
        return;
    FUZZ_CHECK(conn->sent_size >= MESSAGE_DATA_COMMAND_SIZE);
    FUZZ_CHECK(conn->sent[0] == MESSAGE_DATA_START_TCP ||
               conn->sent[0] == MESSAGE_DATA_START_SOCKET_STREAM);
    FUZZ_CHECK(conn->sent[1] == 0 && conn->sent[2] == 0 && conn->sent[3] == 0);
    for (size_t i = size; i < conn->got_size; i++)
        FUZZ_CHECK(conn->got[i] == 'l');
}

static void look_at_all(void)
{
    for (size_t i = 0; i < CONNS; i++) {
        struct conn *conn = &all.conns[i];
        if (conn->fd < 0)
            continue;
        conn_read(conn);
        if (conn->got_size > 0 && conn->got[0] == MESSAGE_HELLO_DATA)
            check_channel(conn);
        else
            check_control(conn);
    }
    all.to_locals += receive_from_all(all.locals, LOCALS);
    FUZZ_CHECK(all.to_locals <= all.to_channels);
    FUZZ_CHECK(all.to_locals == 0 || all.session_count > 0);
}

/* ---- events ---- */

static void say_hello(struct script *script, struct conn *conn)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], nonce[KEYS_NONCE_SIZE];
    uint8_t how = script_byte(script);
    memset(nonce, how, sizeof(nonce));
    message_hello_encode((how & 3) == 3 ? MESSAGE_HELLO_DATA : MESSAGE_HELLO_CONTROL, nonce, hello);
    hello[4] ^= (how & 12) == 12;
    conn_say(conn, hello, sizeof(hello));
}

/* As an Ack, a command, a data command: a small number in 4 bytes. */
static void say_words(struct script *script, struct conn *conn)
{
    uint8_t word[4] = {script_byte(script) & 3};
    unsigned int count = 1 + script_below(script, 40);
    while (count-- > 0)
        conn_say(conn, word, sizeof(word));
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

static void event_of_conn(struct script *script, uint8_t what)
{
    struct conn *conn = &all.conns[script_below(script, CONNS)];
    if (conn->fd < 0)
        return;
    if (what <= 1)
        say_hello(script, conn);
    else if (what <= 3)
        say_words(script, conn);
    else if (what <= 5)
        say_bytes(script, conn, what == 4);
    else if (what == 6)
        (void)shutdown(conn->fd, SHUT_WR);
    else
        conn_close(conn);
}

static void event_of_local(struct script *script)
{
    int *fd = &all.locals[script_below(script, LOCALS)];
    static const char bytes[] = "llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll";
    if (*fd < 0) {
        *fd = take(all.local_listener);
        return;
    }
    uint8_t how = script_byte(script);
    if (how < 200)
        say(*fd, bytes, how % 64u);
    else if (how < 230)
        (void)shutdown(*fd, SHUT_WR);
    else
        close_now(fd);
}

static void faults(struct script *script)
{
    unsigned int rest;
    struct fake_faults faults = script_faults(script, &rest);
    faults.connect_error = (rest & 1) != 0 ? 200 : 0;
    faults.reset = (rest & 2) != 0 ? 30 : 0;
    faults.enomem = (rest & 4) != 0 ? 30 : 0;
    side_set_faults(&all.side, &faults);
}

static void event(struct script *script)
{
    uint8_t what = script_byte(script) & 15;
    switch (what) {
    case 8:
    case 9:
        conn_accept(script);
        break;
    case 10:
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
        event_of_local(script);
        break;
    case 15:
        look_at_all();
        break;
    default:
        event_of_conn(script, what);
        break;
    }
}

/* Connections that nobody has accepted. */
static void drain(int listener)
{
    for (int fd; (fd = take(listener)) >= 0;)
        close_now(&fd);
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
    all.is_noise = (choice & 1) != 0;
    all.session_count = all.to_locals = all.to_channels = 0;
    for (size_t i = 0; i < CONNS; i++)
        all.conns[i].fd = -1;
    for (size_t i = 0; i < LOCALS; i++)
        all.locals[i] = -1;
    uint8_t seed = script_byte(&script);
    fake_loop_set_seed(seed);
    chance_begin(seed);
    FUZZ_CHECK(side_init(&all.side, workers) == 0);
    side_set_idle_step_ms(&all.side, 0);
    FUZZ_CHECK(client_create(&all.configs[all.is_noise]->client, workers, &all.client) == 0);
    FUZZ_CHECK(side_start(&all.side, &client_role, all.client) == 0);
    side_settle(&all.side, 3);
    for (int i = 0; i < EVENTS_MAX && !script_is_over(&script); i++)
        event(&script);
    side_settle(&all.side, 8);
    look_at_all();
    for (size_t i = 0; i < CONNS; i++) {
        if (all.conns[i].fd >= 0)
            conn_close(&all.conns[i]);
    }
    for (size_t i = 0; i < LOCALS; i++) {
        if (all.locals[i] >= 0)
            close_now(&all.locals[i]);
    }
    side_finish(&all.side);
    FUZZ_CHECK(
        all.client->fds.tcp_channels + all.client->fds.half_open + all.client->fds.tcp_served == 0);
    client_destroy(all.client);
    drain(all.listener);
    drain(all.local_listener);
    FUZZ_CHECK(open_fd_count() == fds_before);
    return 0;
}
