/* WebSocket's handshake, alone and over another link: both sides, bytes in any pieces, and what
 * comes behind the header. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "net/recipe.h"
#include "net/websocket_link.h"
#include "record_link.h"
#include "testing.h"

#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* What rathole's client sends and its server answers. */
static const char rathole_request[] = "GET / HTTP/1.1\r\n"
                                      "Host: localhost:2333\r\n"
                                      "Connection: Upgrade\r\n"
                                      "Upgrade: websocket\r\n"
                                      "Sec-WebSocket-Version: 13\r\n"
                                      "Sec-WebSocket-Key: " KEY "\r\n"
                                      "\r\n";
static const char rathole_answer[] = "HTTP/1.1 101 Switching Protocols\r\n"
                                     "connection: Upgrade\r\n"
                                     "upgrade: websocket\r\n"
                                     "sec-websocket-accept: " ACCEPT "\r\n"
                                     "\r\n";

static struct link_engine *engine;
static unsigned char out_bytes[LINK_REPLY_MAX];
static struct handshake_out out;

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(link_engine_create(&engine), 0);
    out = (struct handshake_out){.data = out_bytes, .room = sizeof(out_bytes)};
}

static void tear_down(void)
{
    link_engine_destroy(engine);
}

TestSuite(websocket_handshake, .init = set_up, .fini = tear_down);

static struct handshake *begin(const char *host, bool has_inner)
{
    struct handshake *handshake = NULL;
    cr_assert_eq(websocket_handshake_create(host, has_inner, &handshake), 0);
    out.size = 0;
    return handshake;
}

/* In pieces of at most `chunk` bytes, in memory of exactly that size; first none. */
static int step(struct handshake *handshake, const void *bytes, size_t size, size_t chunk,
                size_t *used)
{
    size_t taken;
    int result = handshake_step(handshake, engine, NULL, 0, &taken, &out);
    *used = 0;
    while (result == HANDSHAKE_MORE && *used < size) {
        size_t count = MIN(chunk, size - *used);
        unsigned char *copy = malloc(count);
        cr_assert_not_null(copy);
        memcpy(copy, (const unsigned char *)bytes + *used, count);
        result = handshake_step(handshake, engine, copy, count, &taken, &out);
        free(copy);
        cr_assert(taken == count || (taken < count && result != HANDSHAKE_MORE));
        *used += taken;
    }
    return result;
}

static struct link *finish(struct handshake *handshake, struct link *inner)
{
    struct link *link = NULL;
    cr_assert_eq(handshake_finish(handshake, engine, inner, &link), 0);
    handshake_free(handshake);
    cr_assert_not_null(link);
    return link;
}

/* ---- alone ---- */

Test(websocket_handshake, a_client_of_rathole)
{
    for (size_t chunk = 1; chunk <= sizeof(rathole_request) + 4; chunk++) {
        struct handshake *server = begin(NULL, false);
        size_t used;
        char bytes[sizeof(rathole_request) + 3] = {0};
        memcpy(bytes, rathole_request, sizeof(rathole_request) - 1);
        cr_assert_eq(step(server, bytes, sizeof(bytes), chunk, &used), HANDSHAKE_DONE);
        cr_assert_eq(used, sizeof(rathole_request) - 1, "what follows is left");
        cr_assert_eq(out.size, sizeof(rathole_answer) - 1);
        cr_assert_arr_eq(out.data, rathole_answer, out.size);
        cr_assert_not(server->has_proved);
        struct link *link = finish(server, NULL);
        cr_assert(link->holds_end && link->ends_in_band);
        cr_assert_null(link->early);
        link_free(link);
    }
}

Test(websocket_handshake, both_sides_are_ours)
{
    struct random random = {4};
    for (int round = 0; round < 50; round++) {
        struct handshake *client = begin("a.example:1", false), *server;
        unsigned char request[LINK_REPLY_MAX], frame[64];
        size_t used, size;
        cr_assert_eq(step(client, NULL, 0, 1, &used), HANDSHAKE_MORE);
        size = out.size;
        memcpy(request, out.data, size);
        cr_assert_not_null(memmem(request, size, "\r\nHost: a.example:1\r\n", 21));
        server = begin(NULL, false);
        cr_assert_eq(step(server, request, size, 1 + random_below(&random, 300), &used),
                     HANDSHAKE_DONE);
        cr_assert_eq(used, size);
        size = out.size;
        memcpy(request, out.data, size);
        out.size = 0;
        cr_assert_eq(step(client, request, size, 1 + random_below(&random, 200), &used),
                     HANDSHAKE_DONE);
        cr_assert_eq(used, size);
        cr_assert_eq(out.size, 0, "a request is sent once");

        struct link *links[2] = {finish(client, NULL), finish(server, NULL)};
        for (size_t from = 0; from < 2; from++) {
            cr_assert_not(links[from]->holds_end, "the client keeps the other direction");
            ssize_t sealed = link_seal(links[from], engine, "hello", 5, frame);
            cr_assert_eq(link_open(links[1 - from], engine, frame, (size_t)sealed), 5);
            cr_assert_arr_eq(engine->plain, "hello", 5);
        }
        link_free(links[0]);
        link_free(links[1]);
    }
}

Test(websocket_handshake, each_request_has_its_own_key)
{
    unsigned char first[LINK_REPLY_MAX];
    size_t used;
    for (int i = 0; i < 2; i++) {
        struct handshake *client = begin("a:1", false);
        cr_assert_eq(step(client, NULL, 0, 1, &used), HANDSHAKE_MORE);
        if (i == 0)
            memcpy(first, out.data, out.size);
        else
            cr_assert(memcmp(first, out.data, out.size) != 0);
        handshake_free(client);
    }
}

/* ---- refused ---- */

Test(websocket_handshake, a_reason_in_words)
{
    static const struct {
        const char *host, *bytes, *why;
    } cases[] = {
        {"a:1", "HTTP/1.1 404 Not Found\r\n", "HTTP status 404"},
        {"a:1", rathole_answer, "does not match"},
        {"a:1", "SSH-2.0-x\r\n", "not HTTP/1.1"},
        {NULL, "POST / HTTP/1.1\r\n", "GET"},
        {NULL, "\x16\x03\x01", "not an HTTP header"},
        {NULL, "GET / HTTP/1.1\r\n\r\n", "lacks"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t used;
        struct handshake *handshake = begin(cases[i].host, false);
        cr_assert_eq(step(handshake, cases[i].bytes, strlen(cases[i].bytes), 2, &used),
                     ERR_PROTOCOL);
        cr_assert_not_null(handshake->why);
        cr_assert_not_null(strstr(handshake->why, cases[i].why), "%s", handshake->why);
        if (cases[i].host == NULL)
            cr_assert_eq(out.size, 0, "no answer, as rathole gives none");
        handshake_free(handshake);
    }
    size_t used;
    struct handshake *client = begin("a b", false);
    cr_assert_eq(step(client, NULL, 0, 1, &used), -EINVAL);
    handshake_free(client);
}

Test(websocket_handshake, no_room)
{
    size_t used;
    out.room = 50;
    struct handshake *client = begin("a:1", false), *server;
    cr_assert_eq(step(client, NULL, 0, 1, &used), -ENOBUFS);
    server = begin(NULL, false);
    cr_assert_eq(step(server, rathole_request, strlen(rathole_request), 100, &used), -ENOBUFS);
    handshake_free(client);
    handshake_free(server);
}

/* ---- over another link ---- */

/* What comes behind the request cannot be left for others, since its bytes are decoded already. */
static struct handshake *request_and(const void *behind, size_t size)
{
    unsigned char bytes[2000];
    size_t used, header = strlen(rathole_request);
    struct handshake *server = begin(NULL, true);
    memcpy(bytes, rathole_request, header);
    memcpy(bytes + header, behind, size);
    cr_assert_eq(step(server, bytes, header + size, SIZE_MAX, &used), HANDSHAKE_DONE);
    cr_assert_eq(used, header + size);
    return server;
}

Test(websocket_handshake, frames_behind_the_request)
{
    static const char frames[] = "\x82\x83\0\0\0\0abc\x89\x81\0\0\0\0p\x82\x82\0\0\0\0de\x82\x84";
    unsigned char plain[16], sealed[64];
    struct link *link = finish(request_and(frames, sizeof(frames) - 1), record_link_create());
    cr_assert_eq(link_take_early(link, plain, sizeof(plain)), 5);
    cr_assert_arr_eq(plain, "abcde", 5);
    /* The pong is there, sealed by the inner link; the frame that has begun goes on. */
    cr_assert_eq(link->reply_size, RECORD_HEADER + 3);
    struct link *peer = record_link_create();
    cr_assert_not_null(peer);
    size_t size = record_link_put(peer, RECORD_DATA, "\0\0\0\0wxyz", 8, sealed);
    cr_assert_eq(link_open(link, engine, sealed, size), 4);
    cr_assert_arr_eq(engine->plain, "wxyz", 4);
    link_free(peer);
    link_free(link);
}

Test(websocket_handshake, nothing_and_ends_behind_the_request)
{
    struct link *link = finish(request_and("", 0), record_link_create());
    cr_assert(link->early == NULL && !link->has_ended && link->holds_end);
    link_free(link);
    link = finish(request_and("\x82\x81\0\0\0\0x\x88\x80\0\0\0\0", 13), record_link_create());
    cr_assert(link->early != NULL && link->has_ended);
    link_free(link);
}

Test(websocket_handshake, a_wrong_frame_behind_the_request)
{
    struct link *link = NULL;
    alloc_count_begin();
    struct handshake *server = request_and("\x82\x81\0\0\0\0x\x82\x01y", 10);
    cr_assert_eq(handshake_finish(server, engine, record_link_create(), &link), -EBADMSG);
    cr_assert_null(link);
    handshake_free(server);
    cr_assert_eq(alloc_blocks(), 0);
}

/* ---- memory ---- */

/* All that a connection allocates until it is set up, each time without one of them. */
Test(websocket_handshake, without_memory)
{
    static const char frame[] = "\x82\x83\0\0\0\0abc";
    unsigned char bytes[1000];
    size_t header = strlen(rathole_request), size = header + sizeof(frame) - 1, used;
    memcpy(bytes, rathole_request, header);
    memcpy(bytes + header, frame, sizeof(frame) - 1);
    for (unsigned int n = 1;; n++) {
        struct handshake *server = NULL;
        struct link *inner = record_link_create(), *link = NULL;
        cr_assert_not_null(inner);
        alloc_count_begin();
        alloc_fail_nth(n);
        int result = websocket_handshake_create(NULL, true, &server);
        out.size = 0;
        if (result == 0)
            result = handshake_step(server, engine, bytes, size, &used, &out);
        if (result == HANDSHAKE_DONE)
            result = handshake_finish(server, engine, take_ptr(inner), &link);
        bool has_failed = alloc_has_failed();
        alloc_fail_nth(0);
        cr_assert_eq(result, has_failed ? -ENOMEM : 0, "allocation %u", n);
        cr_assert_eq(link != NULL, !has_failed);
        handshake_free(server);
        link_free(link);
        link_free(inner);
        cr_assert_eq(alloc_blocks(), 0, "allocation %u", n);
        if (!has_failed) {
            cr_assert_gt(n, 4, "only %u allocations: the test does not reach what it tests", n);
            return;
        }
    }
}

/* A reload frees the recipe while a handshake waits for the one before it, such as TLS. */
Test(websocket_handshake, the_recipe_may_go_first)
{
    struct recipe *recipe = calloc(1, sizeof(*recipe));
    struct handshake *client;
    size_t used;
    cr_assert_not_null(recipe);
    recipe->holders = 1;
    recipe->is_initiator = recipe->is_websocket = true;
    recipe->servers = calloc(1, sizeof(*recipe->servers));
    cr_assert_not_null(recipe->servers);
    recipe->server_count = 1;
    recipe->servers[0].host = strdup("a-server-with-a-long-name.example:2333");
    cr_assert_eq(recipe_begin(recipe, recipe->servers, NULL, &client), 0);
    recipe_destroy(recipe);
    out.size = 0;
    cr_assert_eq(handshake_step(client, engine, NULL, 0, &used, &out), HANDSHAKE_MORE);
    static const char expected[] = "Host: a-server-with-a-long-name.example:2333\r\n";
    cr_assert_not_null(memmem(out.data, out.size, expected, sizeof(expected) - 1));
    handshake_free(client);
}
