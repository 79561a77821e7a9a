#include "tls_pair.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"

struct pair_end ends[ENDS];
uint64_t tls_pair_peer = 1;
struct pki_cert root, leaf, client_leaf;

void tls_pair_set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    pki_begin();
    pki_make(&root, &(struct pki_order){.name = "Test Root", .is_ca = true}, NULL);
    pki_make(&leaf,
             &(struct pki_order){.name = "a.example",
                                 .alt = "DNS:a.example,DNS:*.b.example,IP:192.0.2.7,IP:::1"},
             &root);
    pki_make(&client_leaf, &(struct pki_order){.name = "a client"}, &root);
    for (int i = 0; i < ENDS; i++) {
        ends[i].wire = malloc(WIRE_MAX);
        ends[i].plain = malloc(WIRE_MAX);
        cr_assert(ends[i].wire != NULL && ends[i].plain != NULL);
    }
}

void tls_pair_tear_down(void)
{
    for (int i = 0; i < ENDS; i++) {
        tls_session_destroy(ends[i].session);
        tls_context_destroy(ends[i].context);
        free(ends[i].wire);
        free(ends[i].plain);
    }
    pki_free(&root);
    pki_free(&leaf);
    pki_free(&client_leaf);
    pki_end();
}

struct tls_settings tls_pair_server(void)
{
    return (struct tls_settings){.is_server = true,
                                 .certificate = pki_save("leaf.pem", &leaf, &root, NULL),
                                 .private_key = pki_save_key("leaf.key", &leaf, NULL)};
}

struct tls_settings tls_pair_client(void)
{
    return (struct tls_settings){.hostname = "a.example",
                                 .trusted_root = pki_save("root.pem", &root, NULL),
                                 .trusts_only_file = true};
}

void tls_pair_context(int end, const struct tls_settings *settings)
{
    char why[TLS_WHY_SIZE] = "";
    tls_context_destroy(ends[end].context);
    ends[end].context = NULL;
    int r = tls_context_create(settings, &ends[end].context, why, sizeof(why));
    cr_assert_eq(r, 0, "%s", why);
    cr_assert_str_eq(why, "");
}

void tls_pair_sessions(void)
{
    for (int i = 0; i < ENDS; i++) {
        tls_session_destroy(ends[i].session);
        ends[i].session = NULL;
        cr_assert_eq(tls_session_create(ends[i].context, i == CLIENT ? tls_pair_peer : 0,
                                        &ends[i].session),
                     0);
        ends[i].result = 0;
        ends[i].wire_size = ends[i].plain_size = 0;
    }
}

static void take_off(struct pair_end *from, size_t size)
{
    memmove(from->wire, from->wire + size, from->wire_size - size);
    from->wire_size -= size;
}

void tls_pair_step(int end, size_t chunk)
{
    struct pair_end *own = &ends[end], *other = &ends[!end];
    struct tls_out out = {own->wire, WIRE_MAX, own->wire_size};
    size_t size = MIN(chunk, other->wire_size), used = 0;
    /* In memory of exactly this size, for the sanitizers. */
    unsigned char *in = malloc(size + (size == 0));
    cr_assert_not_null(in);
    memcpy(in, other->wire, size);
    own->result = tls_session_handshake(own->session, in, size, &used, &out);
    free(in);
    cr_assert_leq(used, size);
    if (own->result == 0)
        cr_assert_eq(used, size);
    take_off(other, used);
    own->wire_size = out.size;
}

bool tls_pair_shake(size_t chunk)
{
    tls_pair_step(CLIENT, 0);
    return tls_pair_shake_on(chunk);
}

bool tls_pair_shake_on(size_t chunk)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < ENDS; i++) {
            if (ends[i].result == 0 && ends[!i].wire_size > 0) {
                tls_pair_step(i, chunk);
                moved = true;
            }
        }
    }
    return ends[SERVER].result == 1 && ends[CLIENT].result == 1;
}

void tls_pair_connect(size_t chunk)
{
    tls_pair_sessions();
    cr_assert(tls_pair_shake(chunk), "%s / %s", tls_session_why(ends[SERVER].session),
              tls_session_why(ends[CLIENT].session));
}

int tls_pair_deliver(int from, size_t chunk)
{
    struct pair_end *own = &ends[!from], *sender = &ends[from];
    while (sender->wire_size > 0) {
        size_t size = MIN(chunk, sender->wire_size);
        struct tls_out reply = {own->wire, WIRE_MAX, own->wire_size};
        unsigned char *in = malloc(size);
        cr_assert_not_null(in);
        memcpy(in, sender->wire, size);
        size_t room = size + TLS_RECORD_PLAIN;
        cr_assert_leq(own->plain_size + room, WIRE_MAX);
        ssize_t r =
            tls_session_open(own->session, in, size, own->plain + own->plain_size, room, &reply);
        free(in);
        own->wire_size = reply.size;
        if (r < 0)
            return (int)r;
        own->plain_size += (size_t)r;
        take_off(sender, size);
    }
    return 0;
}

void tls_pair_send(int from, const void *plain, size_t size)
{
    struct pair_end *own = &ends[from];
    struct tls_out out = {own->wire, WIRE_MAX, own->wire_size};
    cr_assert_eq(tls_session_seal(own->session, plain, size, &out), 0);
    cr_assert_leq(out.size - own->wire_size, TLS_SEALED_MAX(size));
    own->wire_size = out.size;
}

void tls_pair_end(int from)
{
    struct pair_end *own = &ends[from];
    struct tls_out out = {own->wire, WIRE_MAX, own->wire_size};
    cr_assert_eq(tls_session_end(own->session, &out), 0);
    cr_assert_leq(out.size - own->wire_size, TLS_SEALED_MAX((size_t)0));
    own->wire_size = out.size;
}
