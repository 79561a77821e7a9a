/* The client with Noise on the fake loop, against a server whose frames the test makes: logins,
 * data channels, servers with wrong keys, and frames that are cut or forged. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/client.h"
#include "crypto/keys.h"
#include "data_channel_priv.h"
#include "io/socket.h"
#include "noise_peer.h"
#include "proto/message.h"

#define SECRET "a secret"

static struct config *config;
static struct client *client;
static struct side side;
static int listener, local_listener;
static struct noise_keys server_keys;
static struct link_engine *engine; /* the server's */
static uint8_t session_key[KEYS_DIGEST_SIZE];
static size_t fds_before;

static void begin(unsigned int workers)
{
    static char text[600];
    struct addr server_addr, local_addr;
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    char public_text[KEYS_TEXT_SIZE];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(link_engine_create(&engine), 0);
    fds_before = open_fd_count();
    keys_pair_generate(private_key, public_key);
    keys_to_text(public_key, public_text);
    noise_keys_init(&server_keys, NOISE_NK, private_key, NULL);
    listener = tcp_listener(&server_addr);
    local_listener = tcp_listener(&local_addr);
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"" SECRET "\"\n"
                   "[client.services.echo]\nlocal_addr = \"127.0.0.1:%u\"\n"
                   "[client.transport]\ntype = \"noise\"\n"
                   "[client.transport.noise]\nremote_public_key = \"%s\"\n",
                   addr_port(&server_addr), addr_port(&local_addr), public_text);
    config = side_config(text);
    fake_loop_set_seed(workers);
    cr_assert_eq(side_init(&side, workers), 0);
    side_set_idle_step_ms(&side, 0);
    cr_assert_eq(client_create(&config->client, workers, &client), 0);
    cr_assert_eq(side_start(&side, &client_role, client), 0);
    side_settle(&side, 3);
}

static void finish(void)
{
    side_finish(&side);
    cr_assert_eq(client->fds.tcp_channels + client->fds.half_open + client->fds.tcp_served, 0);
    client_destroy(client);
    config_destroy(config);
    link_engine_destroy(engine);
    (void)close(listener);
    (void)close(local_listener);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors");
}

/* ---- the server ---- */

static int accepted(int at)
{
    int fd = -1;
    for (int turn = 0; turn < 10 && fd < 0; turn++) {
        fd = accept4(at, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        side_settle(&side, 1);
    }
    return fd;
}

static struct noise_peer answered(const struct noise_keys *keys)
{
    struct noise_peer peer;
    noise_peer_init(&peer, &side, engine, accepted(listener), keys, false);
    return peer;
}

static bool expect(struct noise_peer *peer, const void *bytes, size_t size)
{
    uint8_t heard[NOISE_PEER_HELD];
    return noise_peer_hear(peer, heard, size) && memcmp(heard, bytes, size) == 0;
}

static void tell_in_pieces(struct noise_peer *peer, const uint8_t *bytes, size_t size, size_t piece)
{
    for (size_t at = 0; at < size; at += piece)
        noise_peer_tell(peer, bytes + at, MIN(piece, size - at));
}

/* piece: the plaintext bytes of one frame. */
static struct noise_peer logged_in(size_t piece)
{
    uint8_t nonce[KEYS_NONCE_SIZE], digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE];
    uint8_t ack[MESSAGE_ACK_SIZE];
    struct noise_peer control = answered(&server_keys);
    cr_assert_not_null(control.link);
    keys_service_digest("echo", 4, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    cr_assert(expect(&control, hello, sizeof(hello)));
    keys_random(nonce, sizeof(nonce));
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    tell_in_pieces(&control, hello, sizeof(hello), piece);
    keys_auth_digest(SECRET, strlen(SECRET), nonce, session_key);
    cr_assert(expect(&control, session_key, sizeof(session_key)));
    message_ack_encode(MESSAGE_ACK_OK, ack);
    tell_in_pieces(&control, ack, sizeof(ack), piece);
    side_settle(&side, 4);
    cr_assert_eq(side_metric(&side, METRIC_LOGINS), 1);
    return control;
}

static struct noise_peer parked(struct noise_peer *control)
{
    uint8_t command[MESSAGE_COMMAND_SIZE], hello[MESSAGE_HELLO_SIZE];
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
    noise_peer_tell(control, command, sizeof(command));
    side_settle(&side, 4);
    struct noise_peer channel = answered(&server_keys);
    cr_assert_not_null(channel.link);
    message_hello_encode(MESSAGE_HELLO_DATA, session_key, hello);
    cr_assert(expect(&channel, hello, sizeof(hello)));
    return channel;
}

/* Sends the command, and the visitor's first bytes, in one frame. */
static int started(struct noise_peer *channel, const char *first)
{
    uint8_t bytes[MESSAGE_DATA_COMMAND_SIZE + 100];
    message_data_command_encode(MESSAGE_DATA_START_TCP, bytes);
    memcpy(bytes + MESSAGE_DATA_COMMAND_SIZE, first, strlen(first));
    noise_peer_tell(channel, bytes, MESSAGE_DATA_COMMAND_SIZE + strlen(first));
    int local = accepted(local_listener);
    cr_assert_geq(local, 0);
    socket_set_nodelay(local, true);
    return local;
}

/* ---- the tests ---- */

static void run_a_visit(unsigned int workers, size_t piece)
{
    begin(workers);
    struct noise_peer control = logged_in(piece);
    struct noise_peer channel = parked(&control);
    int local = started(&channel, "first");
    cr_assert(side_expect(&side, local, "first", 5));
    noise_peer_tell(&channel, "ping", 4);
    cr_assert(side_expect(&side, local, "ping", 4));
    say(local, "pong", 4);
    cr_assert(expect(&channel, "pong", 4));
    (void)shutdown(channel.fd, SHUT_WR);
    cr_assert_eq(side_end_of(&side, local), 1);
    say(local, "last", 4);
    cr_assert(expect(&channel, "last", 4), "a half-closed relay goes on");
    (void)close(local);
    cr_assert_eq(side_end_of(&side, channel.fd), 1);
    noise_peer_hang_up(&channel);
    noise_peer_hang_up(&control);
    finish();
}

Test(client_noise, a_visit)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        run_a_visit(workers, 100);
        run_a_visit(workers, 1);
    }
}

/* The client reveals nothing about itself to a server without the right key, and tries again
 * later. */
Test(client_noise, a_server_with_another_key)
{
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE], answer[50] = {48};
    begin(1);
    struct noise_keys wrong;
    keys_pair_generate(private_key, public_key);
    noise_keys_init(&wrong, NOISE_NK, private_key, NULL);
    struct noise_peer stranger = answered(&wrong); /* it can't decrypt the first message */
    cr_assert_null(stranger.link);
    say(stranger.fd, answer, sizeof(answer)); /* so its answer is made up */
    cr_assert_neq(side_end_of(&side, stranger.fd), 0);
    noise_peer_hang_up(&stranger);
    cr_assert_eq(side_metric(&side, METRIC_LOGINS_FAILED), 1);
    side_advance(&side, 700);
    struct noise_peer control = logged_in(100);
    noise_peer_hang_up(&control);
    finish();
}

Test(client_noise, a_server_without_noise)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], nonce[KEYS_NONCE_SIZE] = {1};
    begin(1);
    int fd = accepted(listener);
    cr_assert_geq(fd, 0);
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    say(fd, hello, sizeof(hello));
    side_settle(&side, 4);
    (void)shutdown(fd, SHUT_WR);
    cr_assert_neq(side_end_of(&side, fd), 0);
    cr_assert_eq(side_metric(&side, METRIC_LOGINS_FAILED), 1);
    (void)close(fd);
    finish();
}

/* A forged frame ends the control channel, and the client logs in again. */
Test(client_noise, a_forged_command)
{
    unsigned char frame[64];
    begin(1);
    struct noise_peer control = logged_in(100);
    uint8_t command[MESSAGE_COMMAND_SIZE];
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
    size_t size = noise_ends_frame(control.link, engine, command, sizeof(command), frame);
    frame[size - 1] ^= 1;
    say(control.fd, frame, size);
    cr_assert_neq(side_end_of(&side, control.fd), 0);
    noise_peer_hang_up(&control);
    side_advance(&side, 700);
    struct noise_peer again = answered(&server_keys);
    cr_assert_not_null(again.link);
    noise_peer_hang_up(&again);
    finish();
}

/* A data channel that is cut within a frame resets its local connection, so that half an answer
 * does not look complete. */
Test(client_noise, a_truncated_channel)
{
    unsigned char frame[64];
    begin(1);
    struct noise_peer control = logged_in(100);
    struct noise_peer channel = parked(&control);
    int local = started(&channel, "whole");
    size_t size = noise_ends_frame(channel.link, engine, "part", 4, frame);
    say(channel.fd, frame, size - 1);
    cr_assert(side_expect(&side, local, "whole", 5));
    (void)shutdown(channel.fd, SHUT_WR);
    cr_assert_eq(side_end_of(&side, local), -ECONNRESET);
    (void)close(local);
    noise_peer_hang_up(&channel);
    noise_peer_hang_up(&control);
    finish();
}

/* The client gives up a server that never completes its handshake. */
Test(client_noise, a_silent_server)
{
    begin(1);
    int fd = accepted(listener);
    cr_assert_geq(fd, 0);
    for (unsigned int waited_ms = 0; waited_ms < LIMIT_LOGIN_MS; waited_ms += 1000)
        side_advance(&side, 1000);
    side_advance(&side, 100);
    cr_assert_neq(side_end_of(&side, fd), 0);
    cr_assert_eq(side_metric(&side, METRIC_LOGINS_FAILED), 1);
    (void)close(fd);
    finish();
}

/* The session key is in the channel until the end of the handshake, and is wiped with the
 * channel. */
Test(client_noise, a_hello_that_never_gets_out)
{
    static const uint8_t zero[MESSAGE_HELLO_SIZE];
    uint8_t command[MESSAGE_COMMAND_SIZE];
    begin(1);
    struct noise_peer control = logged_in(100);
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
    noise_peer_tell(&control, command, sizeof(command));
    side_settle(&side, 4);
    int fd = accepted(listener); /* the server never answers */
    cr_assert_geq(fd, 0);
    struct client_worker *worker = side.workers[0].role;
    cr_assert(!list_is_empty(&worker->channels));
    const struct data_channel *channel =
        container_of(worker->channels.next, struct data_channel, node);
    cr_assert(memcmp(channel->hello + MESSAGE_HELLO_SIZE - sizeof(session_key), session_key,
                     sizeof(session_key)) == 0);
    noise_peer_hang_up(&control);
    side_settle(&side, 4);
    cr_assert(list_is_empty(&worker->channels));
    cr_expect_arr_eq(channel->hello, zero, sizeof(zero)); /* in the memory of the slab */
    (void)close(fd);
    finish();
}
