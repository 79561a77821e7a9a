/* Streams that begin with a proxy, on the fake loop: a plain connection behind it, and Noise. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "fake_loop.h"
#include "io/socket.h"
#include "net/handshake.h"
#include "net/proxy_handshake.h"
#include "net/recipe.h"
#include "net/stream.h"
#include "testing.h"

#define GREETING "\5\2\0\2"
#define USER     "\1\2me\6secret"
#define CONNECT  "\5\1\0\3\13example.org\x09\x1d"
#define ANSWER   "\5\2\1\0\5\0\0\1\1\2\3\4\0\1"

struct rig {
    struct stream stream;
    struct loop *loop;
    struct metrics metrics;
    struct link_engine *engine;
    int peer;
    char in[64];
    int read_result, write_result;
    unsigned int reads, writes, closes;
    char why[PROXY_WHY_SIZE];
};

static void on_read(struct stream *stream, int result)
{
    struct rig *rig = container_of(stream, struct rig, stream);
    const char *why = stream_handshake_why(stream);
    rig->read_result = result;
    rig->reads++;
    (void)snprintf(rig->why, sizeof(rig->why), "%s", why != NULL ? why : "");
}

static void on_write(struct stream *stream, int result)
{
    struct rig *rig = container_of(stream, struct rig, stream);
    rig->write_result = result;
    rig->writes++;
}

static void on_close(struct stream *stream)
{
    container_of(stream, struct rig, stream)->closes++;
}

static const struct stream_ops rig_ops = {.read_done = on_read,
                                          .write_done = on_write,
                                          .closed = on_close};

/* The client has a stream through a proxy, reads 4 bytes and writes "hello"; the test is the
 * proxy. */
static void rig_init(struct rig *rig, uint64_t seed, const struct recipe *recipe)
{
    struct handshake *first;
    int fds[2];
    memset(rig, 0, sizeof(*rig));
    cr_assert_eq(keys_init(), 0);
    fake_loop_set_seed(seed);
    struct loop_options options = {.metrics = &rig->metrics};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    struct fake_faults faults = {.delay = 300, .short_count = 300, .eintr = 50, .eagain = 50};
    fake_loop_set_faults(rig->loop, &faults);
    cr_assert_eq(link_engine_create(&rig->engine), 0);
    tcp_pair(fds, 0);
    rig->peer = fds[0];
    socket_set_nodelay(fds[0], true); /* each piece has to arrive in the next turn */
    socket_set_nodelay(fds[1], true);
    alloc_count_begin();
    stream_init(&rig->stream, rig->loop, fds[1], &rig_ops);
    cr_assert_eq(recipe_begin(recipe, recipe->servers, NULL, &first), 0);
    stream_begin(&rig->stream, rig->engine, first);
    cr_assert(stream_is_at_proxy(&rig->stream));
    stream_read(&rig->stream, rig->in, 4);
    stream_write(&rig->stream, "hello", 5);
}

static void turns(struct rig *rig, int count)
{
    for (int i = 0; i < count; i++)
        cr_assert_eq(loop_run_once(rig->loop), 0);
}

static void rig_finish(struct rig *rig)
{
    stream_terminate(&rig->stream, STREAM_ABORT);
    for (int i = 0; i < 200 && rig->closes == 0; i++)
        turns(rig, 1);
    cr_assert_eq(rig->closes, 1);
    cr_assert_eq(alloc_blocks(), 0);
    link_engine_destroy(rig->engine);
    loop_destroy(rig->loop);
    (void)close(rig->peer);
}

static bool hears(struct rig *rig, const char *bytes, size_t size)
{
    char got[256];
    size_t have = 0;
    for (int i = 0; i < 200 && have < size; i++) {
        ssize_t result = recv(rig->peer, got + have, size - have, MSG_DONTWAIT);
        have += result > 0 ? (size_t)result : 0;
        turns(rig, 1);
    }
    return have == size && memcmp(got, bytes, size) == 0;
}

#define HEARS(rig, text) hears(rig, text, sizeof(text) - 1)

static void tell(struct rig *rig, const char *bytes, size_t size, size_t piece)
{
    for (size_t at = 0; at < size; at += piece) {
        cr_assert_eq(send(rig->peer, bytes + at, MIN(piece, size - at), MSG_NOSIGNAL),
                     (ssize_t)MIN(piece, size - at));
        turns(rig, 5);
    }
    turns(rig, 20);
}

static struct recipe_server server = {.proxy = {PROXY_SOCKS5, "example.org", 2333, "me", "secret"}};
static const struct recipe plain = {
    .is_initiator = true, .has_proxy = true, .servers = &server, .server_count = 1};

Test(stream_proxy, then_it_is_plain)
{
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct rig rig;
        rig_init(&rig, seed, &plain);
        cr_assert(HEARS(&rig, GREETING));
        tell(&rig, ANSWER, 2, 1 + seed % 2);
        cr_assert(HEARS(&rig, USER));
        tell(&rig, &ANSWER[2], 2, 1 + seed % 2);
        cr_assert(HEARS(&rig, CONNECT));
        cr_assert_eq(rig.writes + rig.reads, 0);
        tell(&rig, &ANSWER[4], 10, 1 + seed % 10);
        cr_assert(HEARS(&rig, "hello"));
        cr_assert(rig.writes == 1 && rig.write_result == 0);
        cr_assert_not(stream_is_at_proxy(&rig.stream));
        cr_assert_eq(alloc_blocks(), 0, "a plain stream holds nothing");
        tell(&rig, "answer", 6, 6);
        cr_assert(rig.reads == 1 && rig.read_result == 4);
        cr_assert_eq(memcmp(rig.in, "answ", 4), 0);
        struct transport transport = stream_release(&rig.stream);
        cr_assert_null(transport.link);
        char rest[8];
        cr_assert_eq(recv(transport.fd, rest, sizeof(rest), MSG_DONTWAIT), 2, "not one byte more");
        stream_init(&rig.stream, rig.loop, transport.fd, &rig_ops);
        rig_finish(&rig);
    }
}

Test(stream_proxy, then_noise_begins)
{
    uint8_t private_key[KEYS_X25519_SIZE], public_key[KEYS_X25519_SIZE];
    struct recipe recipe = plain;
    struct rig rig;
    cr_assert_eq(keys_init(), 0);
    keys_pair_generate(private_key, public_key);
    recipe.has_noise = true;
    noise_keys_init(&recipe.noise, NOISE_NK, NULL, public_key);
    rig_init(&rig, 1, &recipe);
    cr_assert(HEARS(&rig, GREETING));
    tell(&rig, ANSWER, 4, 4);
    cr_assert(HEARS(&rig, USER CONNECT));
    cr_assert(stream_is_at_proxy(&rig.stream));
    tell(&rig, &ANSWER[4], 10, 3);
    cr_assert_not(stream_is_at_proxy(&rig.stream));
    cr_assert(HEARS(&rig, "\x30\0"), "the length of NK's first message");
    char rest[256];
    cr_assert_eq(recv(rig.peer, rest, sizeof(rest), MSG_DONTWAIT), 48);
    cr_assert_eq(rig.reads + rig.writes, 0);
    (void)shutdown(rig.peer, SHUT_WR);
    turns(&rig, 50);
    cr_assert_eq(rig.read_result, ERR_HANDSHAKE, "not the proxy's fault: %d", rig.read_result);
    rig_finish(&rig);
    noise_keys_wipe(&recipe.noise);
}

/* Refused, gone, reset, garbage: in each the read fails, once, and with the reason if there is
 * one. */
Test(stream_proxy, failures)
{
    static const struct {
        const char *bytes;
        size_t size;
        bool ends;
        int result;
        const char *why;
    } cases[] = {
        {"\5\xff", 2, false, ERR_PROXY,
         "the proxy takes neither a user and password, nor goes without"},
        {"\5\2\1\1", 4, false, ERR_PROXY, "the proxy refused the user or the password"},
        {"\5\0\5\4", 4, false, ERR_PROXY, "the proxy refused: host unreachable"},
        {"SSH-2.0", 7, false, ERR_PROXY, "the answer is not that of a SOCKS5 proxy"},
        {"\5\0\5\4", 4, true, ERR_PROXY, "the proxy refused: host unreachable"},
        {"\5\0\5", 3, true, ERR_PROXY, ""},
        {"", 0, true, ERR_PROXY, ""},
        {ANSWER "x", sizeof(ANSWER), false, ERR_PROTOCOL, ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct rig rig;
        rig_init(&rig, i, &plain);
        tell(&rig, cases[i].bytes, cases[i].size, SIZE_MAX / 2);
        if (cases[i].ends)
            (void)shutdown(rig.peer, SHUT_WR);
        turns(&rig, 100);
        cr_expect_eq(rig.reads, 1, "%zu", i);
        cr_expect_eq(rig.read_result, cases[i].result, "%zu: %d", i, rig.read_result);
        cr_expect_str_eq(rig.why, cases[i].why);
        cr_expect_eq(rig.writes, 0, "%zu", i);
        rig_finish(&rig);
    }
}

/* A termination in each step leaves nothing. */
Test(stream_proxy, terminated_at_any_step)
{
    for (size_t size = 0; size < sizeof(ANSWER) - 1; size++) {
        struct rig rig;
        rig_init(&rig, size, &plain);
        tell(&rig, ANSWER, size, 1);
        rig_finish(&rig);
        cr_expect_eq(rig.reads + rig.writes, 0);
    }
}

Test(stream_proxy, out_of_memory)
{
    static const uint8_t key[KEYS_X25519_SIZE] = {9};
    struct recipe recipe = plain;
    recipe.has_noise = true;
    noise_keys_init(&recipe.noise, NOISE_NK, NULL, key);
    bool has_failed = true;
    for (unsigned int n = 1; has_failed; n++) {
        struct handshake *first = NULL;
        alloc_count_begin();
        alloc_fail_nth(n);
        int result = recipe_begin(&recipe, recipe.servers, NULL, &first);
        has_failed = alloc_has_failed();
        alloc_fail_nth(0);
        cr_assert_eq(result, has_failed ? -ENOMEM : 0);
        if (!has_failed)
            handshake_free(first);
        cr_assert_eq(alloc_blocks(), 0);
    }
}

/* What is sent does not depend on the caller's texts any more. */
Test(stream_proxy, the_request_is_a_copy)
{
    char host[] = "a", user[] = "b", password[] = "c";
    struct proxy_request borrowed = {PROXY_HTTP, host, 1, user, password}, copy;
    struct handshake *handshake;
    unsigned char bytes[PROXY_OUT_MAX];
    struct handshake_out out = {.data = bytes, .room = sizeof(bytes)};
    size_t used;
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(proxy_request_copy(&borrowed, &copy), 0);
    cr_assert_eq(proxy_handshake_create(&copy, &handshake), 0);
    proxy_request_finish(&copy);
    proxy_request_finish(&copy);
    cr_assert_null(copy.password);
    *host = *user = *password = 'x';
    cr_assert_eq(handshake_step(handshake, NULL, NULL, 0, &used, &out), HANDSHAKE_MORE);
    cr_assert_not_null(memmem(bytes, out.size, "CONNECT a:1 HTTP/1.1\r\n", 22));
    cr_assert_not_null(memmem(bytes, out.size, "Basic Yjpj\r\n", 12));
    handshake_free(handshake);
}
