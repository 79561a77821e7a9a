/* The server with Noise on the fake loop. The test plays the clients and makes their frames by
 * hand: logins, strangers, the budget of handshakes, and bytes that come early. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "crypto/keys.h"
#include "noise_peer.h"
#include "proto/message.h"
#include "server/server.h"

#define SECRET "a secret"

static struct config *config;
static struct server *server;
static struct side side;
static struct addr control_addr, service_addr;
static struct noise_keys client_keys;
static struct link_engine *engine; /* the clients' */
static uint8_t session_key[KEYS_DIGEST_SIZE];
static size_t fds_before;

static void begin(unsigned int workers)
{
    static char text[600];
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char private_text[KEYS_TEXT_SIZE];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(link_engine_create(&engine), 0);
    fds_before = open_fd_count();
    keys_pair_generate(private_key, public_key);
    keys_to_text(private_key, private_text);
    noise_keys_init(&client_keys, NOISE_NK, NULL, public_key);
    control_addr = tcp_loopback(free_port());
    service_addr = tcp_loopback(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"" SECRET "\"\n"
                   "[server.services.echo]\nbind_addr = \"127.0.0.1:%u\"\n"
                   "[server.transport]\ntype = \"noise\"\n"
                   "[server.transport.noise]\nlocal_private_key = \"%s\"\n",
                   addr_port(&control_addr), addr_port(&service_addr), private_text);
    config = side_config(text);
    fake_loop_set_seed(workers);
    cr_assert_eq(side_init(&side, workers), 0);
    cr_assert_eq(server_create(&config->server, workers, NULL, &server), 0);
    cr_assert_eq(side_start(&side, &server_role, server), 0);
    side_set_idle_step_ms(&side, 0);
}

static void finish(void)
{
    side_finish(&side);
    server_destroy(server);
    config_destroy(config);
    link_engine_destroy(engine);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors are left open");
}

/* ---- a client, played by the test ---- */

static struct noise_peer dial(const struct noise_keys *keys)
{
    struct noise_peer client;
    noise_peer_init(&client, &side, engine, tcp_dial(&control_addr), keys, true);
    return client;
}

/* A whole login. one_byte: each byte is in a frame of its own. */
static struct noise_peer log_in(bool one_byte)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE], ack_bytes[MESSAGE_ACK_SIZE];
    struct message_hello answer;
    enum message_ack ack;
    struct noise_peer client = dial(&client_keys);
    cr_assert_not_null(client.link);
    keys_service_digest("echo", 4, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    for (size_t at = 0, piece = one_byte ? 1 : sizeof(hello); at < sizeof(hello); at += piece)
        noise_peer_tell(&client, hello + at, piece);
    cr_assert(noise_peer_hear(&client, hello, sizeof(hello)));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), &answer), 0);
    keys_auth_digest(SECRET, strlen(SECRET), answer.digest, session_key);
    noise_peer_tell(&client, session_key, sizeof(session_key));
    cr_assert(noise_peer_hear(&client, ack_bytes, sizeof(ack_bytes)));
    cr_assert_eq(message_ack_decode(ack_bytes, sizeof(ack_bytes), &ack), 0);
    cr_assert_eq(ack, MESSAGE_ACK_OK);
    return client;
}

/* A data channel that has sent `more` in the same frame as its hello. */
static struct noise_peer channel(const char *more)
{
    uint8_t bytes[MESSAGE_HELLO_SIZE + 100];
    struct noise_peer client = dial(&client_keys);
    cr_assert_not_null(client.link);
    message_hello_encode(MESSAGE_HELLO_DATA, session_key, bytes);
    memcpy(bytes + MESSAGE_HELLO_SIZE, more, strlen(more));
    noise_peer_tell(&client, bytes, MESSAGE_HELLO_SIZE + strlen(more));
    side_settle(&side, 6);
    return client;
}

/* ---- what clients and strangers get ---- */

static void run_a_visit(unsigned int workers, bool one_byte)
{
    uint8_t command[MESSAGE_COMMAND_SIZE], expected[MESSAGE_COMMAND_SIZE];
    char bytes[8];
    begin(workers);
    struct noise_peer control = log_in(one_byte);
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, expected);
    for (int i = 0; i < LIMIT_POOL_MIN; i++) {
        cr_assert(noise_peer_hear(&control, command, sizeof(command)));
        cr_assert_arr_eq(command, expected, sizeof(command));
    }
    struct noise_peer data = channel("");
    cr_assert_eq(side_first_service(server)->pool.parked_count, 1);
    int visitor = tcp_dial(&service_addr);
    side_settle(&side, 4);
    say(visitor, "ping", 4);
    uint8_t start[MESSAGE_DATA_COMMAND_SIZE], heard[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, start);
    cr_assert(noise_peer_hear(&data, heard, sizeof(heard)));
    cr_assert_arr_eq(heard, start, sizeof(start));
    cr_assert(noise_peer_hear(&data, bytes, 4));
    cr_assert_arr_eq(bytes, "ping", 4);
    noise_peer_tell(&data, "pong", 4);
    cr_assert(side_expect(&side, visitor, "pong", 4));
    (void)shutdown(data.fd, SHUT_WR);
    cr_assert_eq(side_end_of(&side, visitor), 1);
    noise_peer_hang_up(&data);
    (void)close(visitor);
    noise_peer_hang_up(&control);
    side_settle(&side, 10);
    cr_assert_not(atomic_load(&side_first_service(server)->up));
    finish();
}

Test(server_noise, a_visit)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        run_a_visit(workers, false);
        run_a_visit(workers, true);
    }
}

/* The bytes that a channel has sent behind its Hello wait with the channel in the pool. */
Test(server_noise, early_bytes_of_a_parked_channel)
{
    begin(1);
    struct noise_peer control = log_in(false);
    struct noise_peer data = channel("early");
    int visitor = tcp_dial(&service_addr);
    cr_assert(side_expect(&side, visitor, "early", 5));
    noise_peer_tell(&data, "later", 5);
    cr_assert(side_expect(&side, visitor, "later", 5));
    noise_peer_hang_up(&data);
    (void)close(visitor);
    noise_peer_hang_up(&control);
    data = channel("never asked for"); /* a channel of the session that has just ended */
    cr_assert_neq(side_end_of(&side, data.fd), 0);
    noise_peer_hang_up(&data);
    finish();
}

/* A channel that ends in the middle of a frame resets its visitor. */
Test(server_noise, a_truncated_channel)
{
    unsigned char frame[64];
    begin(1);
    struct noise_peer control = log_in(false);
    struct noise_peer data = channel("");
    int visitor = tcp_dial(&service_addr);
    side_settle(&side, 4);
    noise_peer_tell(&data, "whole", 5);
    size_t size = noise_ends_frame(data.link, engine, "part", 4, frame);
    say(data.fd, frame, size - 1);
    cr_assert(side_expect(&side, visitor, "whole", 5));
    (void)shutdown(data.fd, SHUT_WR);
    cr_assert_eq(side_end_of(&side, visitor), -ECONNRESET);
    noise_peer_hang_up(&data);
    (void)close(visitor);
    noise_peer_hang_up(&control);
    finish();
}

Test(server_noise, strangers_get_no_answer)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    begin(1);
    struct noise_keys wrong = client_keys;
    wrong.remote_public[3] ^= 1;
    struct noise_peer client = dial(&wrong);
    cr_assert_null(client.link);
    cr_assert_neq(side_end_of(&side, client.fd), 0);
    noise_peer_hang_up(&client);
    client = (struct noise_peer){.fd = tcp_dial(&control_addr)}; /* without Noise */
    message_hello_encode(MESSAGE_HELLO_CONTROL, session_key, hello);
    say(client.fd, hello, sizeof(hello));
    cr_assert_neq(side_end_of(&side, client.fd), 0);
    noise_peer_hang_up(&client);
    client = dial(&client_keys); /* a right handshake message, then a forged one */
    cr_assert_not_null(client.link);
    memset(hello, 0, sizeof(hello));
    hello[0] = 20;
    say(client.fd, hello, NOISE_FRAME_HEADER + 20);
    cr_assert_neq(side_end_of(&side, client.fd), 0);
    noise_peer_hang_up(&client);
    cr_assert_eq(side_metric(&side, METRIC_STRANGERS_REJECTED), 3);
    finish();
}

/* The deadline also ends a login that never finishes its handshake. */
Test(server_noise, one_deadline_for_all)
{
    begin(1);
    int silent = tcp_dial(&control_addr), begun = tcp_dial(&control_addr);
    struct noise_peer done = dial(&client_keys);
    say(begun, "\x30", 1);
    side_settle(&side, 4);
    /* A right first message counts as spoken, because its tag takes the server's public key. */
    cr_assert_eq(server->gate.counts[0][GATE_SILENT], 2);
    cr_assert_eq(server->gate.counts[0][GATE_SPOKE], 1);
    side_advance(&side, LIMIT_HANDSHAKE_MS + 100);
    cr_assert_neq(side_end_of(&side, silent), 0);
    cr_assert_neq(side_end_of(&side, begun), 0);
    cr_assert_neq(side_end_of(&side, done.fd), 0);
    cr_assert_eq(side_metric(&side, METRIC_STRANGERS_TIMED_OUT), 3);
    (void)close(silent);
    (void)close(begun);
    noise_peer_hang_up(&done);
    finish();
}

/* Clients get their handshakes back. Failed logins use up the budget of their address until it has
 * refilled. */
Test(server_noise, the_budget_of_handshakes)
{
    begin(1);
    struct addr_key key = addr_key(&control_addr, config_prefixes(server_config(server)));
    struct noise_peer control = log_in(false);
    cr_assert_eq(server->gate.known_count, 1);
    for (int i = 0; i < 3; i++) {
        struct noise_peer data = channel("");
        noise_peer_hang_up(&data);
        side_settle(&side, 4);
    }
    cr_assert_eq(server->gate.handshakes.all.spent, 0, "%u", server->gate.handshakes.all.spent);
    uint64_t now_ns = loop_now_ns(side.workers[0].loop);
    while (gate_take_handshake(&server->gate, &key, 1, now_ns))
        ;
    struct noise_peer refused = dial(&client_keys);
    cr_assert_null(refused.link);
    cr_assert_neq(side_end_of(&side, refused.fd), 0);
    cr_assert_eq(side_metric(&side, METRIC_HANDSHAKES_LIMITED), 1);
    cr_assert_eq(server->gate.pending_count, 0, "it gets no place either");
    noise_peer_hang_up(&refused);
    side_advance(&side, 1000);
    struct noise_peer data = channel("");
    cr_assert_eq(side_metric(&side, METRIC_HANDSHAKES_LIMITED), 1);
    noise_peer_hang_up(&data);
    noise_peer_hang_up(&control);
    finish();
}

/* ---- anything goes ---- */

static void storm_step(struct noise_peer *client, struct random *random)
{
    *client = dial(&client_keys);
    if (client->link == NULL)
        return;
    uint8_t hello[MESSAGE_HELLO_SIZE];
    enum message_hello_tag kind =
        random_permille(random, 300) ? MESSAGE_HELLO_CONTROL : MESSAGE_HELLO_DATA;
    message_hello_encode(kind, session_key, hello);
    noise_peer_tell(client, hello, 1 + random_below(random, sizeof(hello) + 20) % sizeof(hello));
    if (random_permille(random, 500))
        noise_peer_tell(client, "answer", 6);
    if (random_permille(random, 300))
        say(client->fd, "\x50\x00zzz", random_permille(random, 500) ? 1 : 5);
}

static void run_storm(uint64_t seed)
{
    enum { CLIENTS = 16 };
    struct noise_peer clients[CLIENTS];
    int visitors[CLIENTS];
    struct random random = {seed};
    begin(1 + (unsigned int)(seed % 2));
    struct noise_peer control = log_in(seed % 3 == 0);
    side_set_faults(&side, &(struct fake_faults){.reorder = 500,
                                                 .short_count = 200,
                                                 .lost_cancel = 500,
                                                 .eintr = 20,
                                                 .enobufs = 20});
    for (size_t i = 0; i < CLIENTS; i++) {
        storm_step(&clients[i], &random);
        visitors[i] = random_permille(&random, 500) ? tcp_dial(&service_addr) : -1;
        if (visitors[i] >= 0)
            say(visitors[i], "request", 7);
        side_settle(&side, (int)random_below(&random, 6));
        size_t old = random_below(&random, i + 1);
        if (random_permille(&random, 300) && visitors[old] >= 0) {
            if (random_permille(&random, 500))
                tcp_abort_on_close(visitors[old]);
            (void)close(visitors[old]);
            visitors[old] = -1;
        }
        if (random_permille(&random, 300))
            (void)shutdown(clients[old].fd, random_permille(&random, 500) ? SHUT_WR : SHUT_RDWR);
    }
    for (size_t i = 0; i < CLIENTS; i++) {
        noise_peer_hang_up(&clients[i]);
        if (visitors[i] >= 0)
            (void)close(visitors[i]);
    }
    noise_peer_hang_up(&control);
    finish();
}

Test(server_noise, storm)
{
    uint64_t only = env_number("SERVER_SEED", 0);
    for (uint64_t seed = 1; seed <= 60; seed++)
        run_storm(only != 0 ? only : seed);
}
