/* TLS as a link: a server of ours, and a client that is OpenSSL as everybody uses it. */
#include "net/tls_link.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "tls_pki.h"

enum { TEXT_MAX = LINK_BATCH_PLAIN };

static struct tls_context *context;
static struct link_engine *engine;
static struct handshake *handshake;
static struct link *link_;
static SSL_CTX *peer_context;
static SSL *peer;
static unsigned char text[TEXT_MAX], opened[LINK_BATCH_CODED], bytes[LINK_BATCH_CODED],
    sealed[LINK_BATCH_CODED];
static size_t opened_size;

static void begin(void)
{
    handshake_free(handshake);
    link_free(link_);
    SSL_free(peer);
    link_ = NULL;
    cr_assert_eq(tls_handshake_create(context, 1, &handshake), 0);
    peer = SSL_new(peer_context);
    cr_assert_not_null(peer);
    SSL_set_bio(peer, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(peer);
}

static void set_up(void)
{
    struct pki_cert root, leaf;
    char why[TLS_WHY_SIZE] = "";
    cr_assert_eq(keys_init(), 0);
    pki_begin();
    pki_make(&root, &(struct pki_order){.name = "Test Root", .is_ca = true}, NULL);
    pki_make(&leaf, &(struct pki_order){.name = "a.example", .alt = "DNS:a.example"}, &root);
    struct tls_settings settings = {.is_server = true,
                                    .certificate = pki_save("leaf.pem", &leaf, NULL),
                                    .private_key = pki_save_key("leaf.key", &leaf, NULL)};
    cr_assert_eq(tls_context_create(&settings, &context, why, sizeof(why)), 0, "%s", why);
    pki_free(&root);
    pki_free(&leaf);
    cr_assert_eq(link_engine_create(&engine), 0);
    peer_context = SSL_CTX_new(TLS_client_method());
    cr_assert_not_null(peer_context);
    keys_random(text, sizeof(text));
    begin();
}

static void tear_down(void)
{
    handshake_free(handshake);
    link_free(link_);
    link_engine_destroy(engine);
    tls_context_destroy(context);
    SSL_free(peer);
    SSL_CTX_free(peer_context);
    pki_end();
}

TestSuite(tls_link, .init = set_up, .fini = tear_down);

/* ---- the peer ---- */

/* What the peer has to send, at most so much. */
static size_t take_sent(unsigned char *out, size_t size)
{
    int got = BIO_read(SSL_get_wbio(peer), out, (int)size);
    return got > 0 ? (size_t)got : 0;
}

static void give(const void *coded, size_t size)
{
    if (size > 0)
        cr_assert_eq(BIO_write(SSL_get_rbio(peer), coded, (int)size), (int)size);
}

/* One step of ours with so many bytes; those that it leaves are opened by the link. */
static int step(size_t chunk)
{
    unsigned char in[4096];
    struct handshake_out out = {.data = engine->plain, .room = HANDSHAKE_OUT_MAX};
    size_t size = take_sent(in, MIN(chunk, sizeof(in))), used = 0;
    int result = handshake_step(handshake, engine, in, size, &used, &out);
    give(out.data, out.size);
    if (result != HANDSHAKE_DONE)
        return result;
    cr_assert(handshake->has_proved);
    cr_assert_eq(handshake_finish(handshake, engine, NULL, &link_), 0);
    handshake_free(take_ptr(handshake));
    if (used == size)
        return HANDSHAKE_DONE;
    ssize_t got = link_open(link_, engine, in + used, size - used);
    cr_assert_geq(got, 0);
    memcpy(opened, engine->plain, (size_t)got);
    opened_size = (size_t)got;
    return HANDSHAKE_DONE;
}

static void connect_with(size_t chunk)
{
    begin();
    opened_size = 0;
    while (link_ == NULL) {
        (void)SSL_do_handshake(peer);
        do {
            cr_assert_geq(step(chunk), 0, "%s", handshake->why);
        } while (link_ == NULL && BIO_pending(SSL_get_wbio(peer)) > 0);
    }
    cr_assert_eq(SSL_do_handshake(peer), 1);
}

/* All that the peer has sent, in pieces. Returns 0 or the error. */
static int open_all(size_t chunk)
{
    for (size_t size; (size = take_sent(bytes, chunk)) > 0;) {
        ssize_t got = link_open(link_, engine, bytes, size);
        if (got < 0)
            return (int)got;
        memcpy(opened + opened_size, engine->plain, (size_t)got);
        opened_size += (size_t)got;
    }
    return 0;
}

static void expect_received(const unsigned char *expected, size_t size)
{
    static unsigned char got[TEXT_MAX];
    size_t have = 0, more = 0;
    while (have < size && SSL_read_ex(peer, got + have, sizeof(got) - have, &more) == 1)
        have += more;
    cr_expect_eq(have, size);
    cr_expect_eq(memcmp(got, expected, have), 0);
}

static void seal_and_give(size_t size)
{
    ssize_t coded = link_seal(link_, engine, text, size, sealed);
    cr_assert_gt(coded, 0);
    give(sealed, (size_t)coded);
}

/* ---- */

Test(tls_link, both_directions)
{
    static const size_t chunks[] = {1, 6, 1000, 4096}, sizes[] = {1, 5000, 16385, TEXT_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        connect_with(chunks[i]);
        cr_expect(link_->ends_in_band);
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
            seal_and_give(sizes[j]);
            expect_received(text, sizes[j]);
            if (chunks[i] < 1000 && sizes[j] > 5000)
                continue;
            opened_size = 0;
            cr_assert_eq(SSL_write(peer, text, (int)sizes[j]), (int)sizes[j]);
            cr_assert_eq(open_all(chunks[i]), 0);
            cr_expect_eq(opened_size, sizes[j]);
            cr_expect_eq(memcmp(opened, text, sizes[j]), 0);
        }
    }
}

/* The first bytes may come together with the last ones of the handshake. */
Test(tls_link, early_bytes)
{
    begin();
    opened_size = 0;
    while (SSL_do_handshake(peer) != 1)
        cr_assert_eq(step(4096), HANDSHAKE_MORE);
    cr_assert_eq(SSL_write(peer, text, 1000), 1000);
    cr_assert_eq(step(4096), HANDSHAKE_DONE);
    cr_expect_eq(opened_size, 1000);
    cr_expect_eq(memcmp(opened, text, 1000), 0);
}

Test(tls_link, end_of_stream)
{
    unsigned char out[LINK_REPLY_MAX + LINK_END_MAX];
    connect_with(4096);
    cr_expect_eq(link_fin(link_), ERR_TRUNCATED); /* a FIN alone is none */
    cr_assert_eq(SSL_write(peer, text, 100), 100);
    cr_assert_eq(SSL_shutdown(peer), 0);
    opened_size = 0;
    cr_assert_eq(open_all(7), 0);
    cr_expect_eq(opened_size, 100);
    cr_expect(link_->has_ended);
    cr_expect_eq(link_fin(link_), ERR_EOF);
    cr_expect_eq(link_->reply_size, 0);
    /* The other direction goes on. */
    seal_and_give(20000);
    expect_received(text, 20000);
    ssize_t size = link_end(link_, out);
    cr_assert_gt(size, 0);
    give(out, (size_t)size);
    cr_expect_eq(SSL_shutdown(peer), 1);
    cr_expect_eq(link_end(link_, out), 0);
}

Test(tls_link, our_end_first)
{
    unsigned char out[LINK_REPLY_MAX + LINK_END_MAX];
    connect_with(4096);
    ssize_t size = link_end(link_, out);
    cr_assert_gt(size, 0);
    give(out, (size_t)size);
    unsigned char byte;
    cr_expect_eq(SSL_read(peer, &byte, 1), 0);
    cr_expect_eq(SSL_get_error(peer, 0), SSL_ERROR_ZERO_RETURN);
    cr_assert_eq(SSL_write(peer, text, 20000), 20000);
    opened_size = 0;
    cr_assert_eq(open_all(1000), 0);
    cr_expect_eq(opened_size, 20000);
    cr_expect_not(link_->has_ended);
}

Test(tls_link, cut_inside_a_record)
{
    connect_with(4096);
    cr_assert_eq(SSL_write(peer, text, 100), 100);
    size_t size = take_sent(bytes, sizeof(bytes));
    cr_expect_not(link_->ops->is_inside_frame(link_));
    cr_assert_eq(link_open(link_, engine, bytes, size - 1), 0);
    cr_expect(link_->ops->is_inside_frame(link_));
    cr_assert_eq(link_open(link_, engine, bytes + size - 1, 1), 100);
    cr_expect_not(link_->ops->is_inside_frame(link_));
}

Test(tls_link, damage)
{
    connect_with(4096);
    cr_assert_eq(SSL_write(peer, text, 100), 100);
    size_t size = take_sent(bytes, sizeof(bytes));
    bytes[20] ^= 1;
    cr_expect_eq(link_open(link_, engine, bytes, size), -EBADMSG);
    cr_expect_gt(link_->reply_size, 0); /* the alert */
    cr_expect_eq(link_open(link_, engine, bytes, size), -EBADMSG);
    cr_expect_lt(link_seal(link_, engine, text, 1, sealed), 0);
}

/* ---- replies ---- */

static void ask_for_key(int times)
{
    for (int i = 0; i < times; i++) {
        cr_assert_eq(SSL_key_update(peer, SSL_KEY_UPDATE_REQUESTED), 1);
        cr_assert_eq(SSL_do_handshake(peer), 1);
    }
}

/* OpenSSL answers the last one with the next bytes, those before at once. */
Test(tls_link, key_updates)
{
    connect_with(4096);
    ask_for_key(3);
    cr_assert_eq(open_all(LINK_BATCH_CODED), 0);
    cr_expect_lt(link_->reply_size, 200);
    seal_and_give(100);
    cr_expect_eq(link_->reply_size, 0);
    expect_received(text, 100);
    cr_assert_eq(SSL_write(peer, text, 100), 100);
    opened_size = 0;
    cr_assert_eq(open_all(LINK_BATCH_CODED), 0);
    cr_expect_eq(opened_size, 100);
}

Test(tls_link, flood_of_key_updates)
{
    connect_with(4096);
    ask_for_key(2000);
    cr_expect_eq(open_all(LINK_BATCH_CODED), -ENOBUFS);
    cr_expect_leq(link_->reply_size, LINK_REPLY_MAX);
}

/* ---- the handshake ---- */

static bool gate_says(void *arg)
{
    return *(bool *)arg;
}

Test(tls_link, gate)
{
    bool is_open = false;
    handshake->may_begin = gate_says;
    handshake->may_begin_arg = &is_open;
    cr_assert_eq(SSL_do_handshake(peer), -1);
    cr_expect_eq(step(10), HANDSHAKE_MORE);
    cr_expect_eq(step(4096), ERR_LIMIT);
    cr_expect_not(handshake->has_proved);
    cr_expect_null(handshake->why);
}

Test(tls_link, reason)
{
    cr_assert_gt(BIO_write(SSL_get_wbio(peer), "GET / HTTP/1.1\r\n\r\n", 18), 0);
    cr_expect_eq(step(4096), ERR_HANDSHAKE);
    cr_assert_not_null(handshake->why);
    cr_expect_not_null(strstr(handshake->why, "HTTP request"));
}

Test(tls_link, no_memory)
{
    struct handshake *none = NULL;
    for (unsigned int n = 1; n <= 2; n++) {
        alloc_fail_nth(n);
        cr_expect_eq(tls_handshake_create(context, 1, &none), -ENOMEM);
        cr_expect(alloc_has_failed());
        cr_expect_null(none);
    }
    (void)SSL_do_handshake(peer);
    cr_assert_eq(step(4096), HANDSHAKE_MORE);
    cr_assert_eq(SSL_do_handshake(peer), 1);
    struct handshake_out out = {.data = engine->plain, .room = HANDSHAKE_OUT_MAX};
    size_t used = 0, size = take_sent(bytes, sizeof(bytes));
    cr_assert_eq(handshake_step(handshake, engine, bytes, size, &used, &out), HANDSHAKE_DONE);
    alloc_fail_nth(1);
    cr_expect_eq(handshake_finish(handshake, engine, NULL, &link_), -ENOMEM);
    cr_expect_null(link_);
}
