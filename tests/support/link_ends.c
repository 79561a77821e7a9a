#include "link_ends.h"

#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"
#include "crypto/tls.h"
#include "net/tls_link.h"
#include "net/websocket_link.h"
#include "tls_pki.h"

enum { CLIENT, SERVER, ENDS, PIECES_MAX = 8, WIRE_MAX = 64 << 10 };

static struct tls_context *contexts[ENDS];
static struct random draws;

static void must(bool condition)
{
    if (!condition)
        abort();
}

void link_ends_set_up(void)
{
    struct pki_cert leaf;
    char why[TLS_WHY_SIZE] = "";
    must(keys_init() == 0);
    pki_begin();
    pki_make(&leaf, &(struct pki_order){.name = "a.example", .alt = "DNS:a.example"}, NULL);
    const char *certificate = pki_save("leaf.pem", &leaf, NULL);
    struct tls_settings settings[ENDS] = {
        [CLIENT] = {.hostname = "a.example", .trusted_root = certificate, .trusts_only_file = true},
        [SERVER] = {.is_server = true,
                    .certificate = certificate,
                    .private_key = pki_save_key("leaf.key", &leaf, NULL)}};
    for (size_t i = 0; i < ENDS; i++)
        must(tls_context_create(&settings[i], &contexts[i], why, sizeof(why)) == 0);
    pki_free(&leaf);
}

void link_ends_tear_down(void)
{
    for (size_t i = 0; i < ENDS; i++) {
        tls_context_destroy(contexts[i]);
        contexts[i] = NULL;
    }
    pki_end();
}

static void connect_tls(struct link *links[ENDS], struct link_engine *engine)
{
    static unsigned char wire[ENDS][WIRE_MAX]; /* towards this end */
    size_t sizes[ENDS] = {0};
    struct handshake *handshakes[ENDS] = {NULL};
    for (size_t i = 0; i < ENDS; i++)
        must(tls_handshake_create(contexts[i], i == CLIENT, &handshakes[i]) == 0);
    links[CLIENT] = links[SERVER] = NULL;
    for (size_t i = CLIENT; handshakes[CLIENT] != NULL || handshakes[SERVER] != NULL; i = 1 - i) {
        struct handshake_out out = {.data = wire[1 - i], .room = WIRE_MAX, .size = sizes[1 - i]};
        size_t used = 0;
        if (handshakes[i] == NULL)
            continue;
        int result = handshake_step(handshakes[i], engine, wire[i], sizes[i], &used, &out);
        must(result >= 0);
        sizes[1 - i] = out.size;
        sizes[i] -= used;
        memmove(wire[i], wire[i] + used, sizes[i]);
        if (result != HANDSHAKE_DONE)
            continue;
        must(handshake_finish(handshakes[i], engine, NULL, &links[i]) == 0);
        handshake_free(handshakes[i]);
        handshakes[i] = NULL;
    }
    if (sizes[CLIENT] > 0) /* tickets */
        must(link_open(links[CLIENT], engine, wire[CLIENT], sizes[CLIENT]) == 0);
}

void link_ends_connect(struct link *links[2], struct link_engine *engine, enum link_kind kind)
{
    links[CLIENT] = links[SERVER] = NULL;
    if (kind != KIND_WEBSOCKET)
        connect_tls(links, engine);
    for (size_t i = 0; i < ENDS && kind != KIND_TLS; i++) {
        links[i] = websocket_link_create(links[i], i == CLIENT, false);
        must(links[i] != NULL);
    }
}

/* ---- sealing ---- */

void link_ends_set_seed(uint64_t seed)
{
    draws.state = seed;
}

static size_t put(struct link *inner, struct link_engine *engine, const unsigned char *bytes,
                  size_t size, unsigned char *out)
{
    if (inner == NULL) {
        memcpy(out, bytes, size);
        return size;
    }
    ssize_t sealed = link_seal(inner, engine, bytes, size, out);
    must(sealed > 0);
    return (size_t)sealed;
}

static size_t put_frame(struct websocket_link *websocket, unsigned int first, const void *payload,
                        size_t size, unsigned char *out)
{
    static const uint8_t mask[WEBSOCKET_MASK_SIZE] = {1, 0x80, 0xff, 7};
    size_t made = websocket_encode(WEBSOCKET_BINARY, websocket->decoder.is_masked ? NULL : mask,
                                   payload, size, out);
    out[0] = (unsigned char)first;
    return made;
}

/* A message in frames, with pings among them. */
static size_t put_message(struct websocket_link *websocket, const unsigned char *plain, size_t size,
                          unsigned char *out)
{
    enum { FIN = 0x80 };
    size_t at = 0, done = 0;
    unsigned int opcode = WEBSOCKET_BINARY;
    for (int piece = 0; done < size; piece++) {
        if (random_permille(&draws, 200))
            at += put_frame(websocket, FIN | WEBSOCKET_PING, plain,
                            random_below(&draws, MIN(size, (size_t)126)), out + at);
        size_t part = piece < PIECES_MAX ? random_below(&draws, size - done + 1) : size - done;
        at += put_frame(websocket, opcode | (done + part == size ? FIN : 0), plain + done, part,
                        out + at);
        opcode = WEBSOCKET_CONTINUATION;
        done += part;
    }
    return at;
}

size_t link_ends_seal(struct link *link, struct link_engine *engine, const unsigned char *plain,
                      size_t size, unsigned char *out)
{
    static unsigned char frames[LINK_BATCH_CODED];
    struct websocket_link *websocket = NULL;
    struct link *inner = link;
    if (link->ops->read_size == LINK_BATCH_PLAIN) { /* only WebSocket's */
        websocket = container_of(link, struct websocket_link, link);
        inner = websocket->inner;
        size = put_message(websocket, plain, size, frames);
        plain = frames;
    }
    size_t at = 0, done = 0;
    for (int piece = 0; done < size; piece++) {
        size_t part = size - done;
        if (piece < PIECES_MAX && random_permille(&draws, 500))
            part = 1 + random_below(&draws, part);
        at += put(inner, engine, plain + done, part, out + at);
        done += part;
    }
    return at;
}
