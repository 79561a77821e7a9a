/* TLS between two ends of ours, however the bytes are cut: the handshake, records, the end of each
 * direction, sessions taken up again. */
#include <criterion/criterion.h>
#include <openssl/ssl.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "tls_pair.h"

static unsigned char text[160 << 10];

static void set_up(void)
{
    tls_pair_set_up();
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    tls_pair_context(SERVER, &server);
    tls_pair_context(CLIENT, &client);
    keys_random(text, sizeof(text));
}

TestSuite(tls, .init = set_up, .fini = tls_pair_tear_down);

/* The client's context has this version alone. */
static void limit_version(int version)
{
    cr_assert_eq(SSL_CTX_set_min_proto_version(ends[CLIENT].context->ssl_ctx, version), 1);
    cr_assert_eq(SSL_CTX_set_max_proto_version(ends[CLIENT].context->ssl_ctx, version), 1);
}

static void expect_opened(int end, const void *plain, size_t size)
{
    cr_expect_eq(ends[end].plain_size, size);
    cr_expect_eq(memcmp(ends[end].plain, plain, MIN(size, ends[end].plain_size)), 0);
    ends[end].plain_size = 0;
}

static void expect_talk(size_t chunk)
{
    static const size_t sizes[] = {1, 100, 16383, 16384, 16385, 128 << 10};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (chunk < 100 && sizes[i] > 16385)
            continue;
        for (int from = 0; from < ENDS; from++) {
            tls_pair_send(from, text, sizes[i]);
            cr_assert_eq(tls_pair_deliver(from, chunk), 0);
            expect_opened(!from, text, sizes[i]);
        }
    }
}

static void expect_connection(int version)
{
    static const size_t chunks[] = {1, 2, 5, 7, 1000, 16384, WIRE_MAX};
    limit_version(version);
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        tls_pair_connect(chunks[i]);
        for (int end = 0; end < ENDS; end++) {
            cr_expect_eq(tls_session_version(ends[end].session), version);
            cr_expect_str_eq(tls_session_why(ends[end].session), "");
            cr_expect_not(tls_session_is_inside_record(ends[end].session));
        }
        /* The tickets of TLS 1.3 are still on their way. */
        cr_assert_eq(tls_pair_deliver(SERVER, chunks[i]), 0);
        cr_expect_eq(ends[CLIENT].plain_size, 0);
        cr_expect_eq(ends[CLIENT].wire_size, 0);
        expect_talk(chunks[i]);
    }
}

Test(tls, version_1_2)
{
    expect_connection(TLS1_2_VERSION);
}

Test(tls, version_1_3)
{
    expect_connection(TLS1_3_VERSION);
}

Test(tls, newest_version_is_chosen)
{
    tls_pair_connect(WIRE_MAX);
    cr_expect_eq(tls_session_version(ends[CLIENT].session), TLS1_3_VERSION);
}

Test(tls, older_versions_are_refused)
{
    tls_pair_sessions();
    SSL *ssl = ends[CLIENT].session->ssl;
    SSL_set_security_level(ssl, 0);
    cr_assert_eq(SSL_set_cipher_list(ssl, "ALL"), 1);
    cr_assert_eq(SSL_set_min_proto_version(ssl, TLS1_VERSION), 1);
    cr_assert_eq(SSL_set_max_proto_version(ssl, TLS1_1_VERSION), 1);
    cr_expect_not(tls_pair_shake(WIRE_MAX));
    cr_expect_eq(ends[SERVER].result, ERR_HANDSHAKE);
    cr_expect_eq(ends[CLIENT].result, ERR_HANDSHAKE);
    cr_expect_not_null(strstr(tls_session_why(ends[SERVER].session), "no TLS version in common"));
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "no TLS version in common"));
}

Test(tls, no_cipher_in_common)
{
    limit_version(TLS1_2_VERSION);
    cr_assert_eq(SSL_CTX_set_cipher_list(ends[CLIENT].context->ssl_ctx, "ECDHE+AES+SHA"), 1);
    tls_pair_sessions();
    cr_expect_not(tls_pair_shake(WIRE_MAX));
    cr_expect_not_null(strstr(tls_session_why(ends[SERVER].session), "no cipher in common"));
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "no cipher in common"));
}

/* A client that puts ChaCha20 first gets it. */
Test(tls, client_prefers_chacha)
{
    cr_assert_eq(SSL_CTX_set_ciphersuites(ends[CLIENT].context->ssl_ctx,
                                          "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"),
                 1);
    tls_pair_connect(WIRE_MAX);
    cr_expect_str_eq(SSL_get_cipher_name(ends[SERVER].session->ssl),
                     "TLS_CHACHA20_POLY1305_SHA256");
}

/* Bytes behind the handshake belong to the link. */
Test(tls, handshake_leaves_what_follows)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        tls_pair_sessions();
        while (ends[CLIENT].result == 0) {
            tls_pair_step(CLIENT, WIRE_MAX);
            if (ends[CLIENT].result == 0)
                tls_pair_step(SERVER, WIRE_MAX);
        }
        if (version == TLS1_3_VERSION) {
            tls_pair_send(CLIENT, text, 1000);
            cr_expect_eq(ends[SERVER].result, 0);
            tls_pair_step(SERVER, WIRE_MAX);
        }
        cr_assert_eq(ends[SERVER].result, 1);
        cr_assert_eq(tls_pair_deliver(CLIENT, WIRE_MAX), 0);
        expect_opened(SERVER, text, version == TLS1_3_VERSION ? 1000 : 0);
    }
}

/* ---- the end of a stream ---- */

static void expect_half_close(int first)
{
    tls_pair_connect(WIRE_MAX);
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    tls_pair_send(first, text, 50);
    tls_pair_end(first);
    size_t said = ends[first].wire_size;
    tls_pair_end(first); /* once */
    cr_expect_eq(ends[first].wire_size, said);
    cr_assert_eq(tls_pair_deliver(first, 3), 0);
    expect_opened(!first, text, 50);
    cr_expect(tls_session_has_ended(ends[!first].session));
    cr_expect_not(tls_session_has_ended(ends[first].session));
    cr_expect_eq(ends[!first].wire_size, 0); /* it is not answered */
    /* The other direction goes on. */
    for (int i = 0; i < 3; i++) {
        tls_pair_send(!first, text, 40000);
        cr_assert_eq(tls_pair_deliver(!first, 1000), 0);
        expect_opened(first, text, 40000);
    }
    tls_pair_end(!first);
    cr_assert_eq(tls_pair_deliver(!first, WIRE_MAX), 0);
    cr_expect(tls_session_has_ended(ends[first].session));
}

Test(tls, half_close)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        expect_half_close(CLIENT);
        expect_half_close(SERVER);
    }
}

Test(tls, nothing_counts_behind_the_end)
{
    tls_pair_connect(WIRE_MAX);
    tls_pair_end(CLIENT);
    memcpy(ends[CLIENT].wire + ends[CLIENT].wire_size, text, 100);
    ends[CLIENT].wire_size += 100;
    cr_assert_eq(tls_pair_deliver(CLIENT, WIRE_MAX), 0);
    cr_expect(tls_session_has_ended(ends[SERVER].session));
    cr_expect_eq(ends[SERVER].plain_size, 0);
    cr_expect_not(tls_session_is_inside_record(ends[SERVER].session));
    memcpy(ends[CLIENT].wire, text, 100);
    ends[CLIENT].wire_size = 100;
    cr_assert_eq(tls_pair_deliver(CLIENT, WIRE_MAX), 0);
    cr_expect_eq(ends[SERVER].plain_size, 0);
}

Test(tls, end_before_the_handshake_says_nothing)
{
    tls_pair_sessions();
    tls_pair_step(CLIENT, 0);
    size_t said = ends[CLIENT].wire_size;
    tls_pair_end(CLIENT);
    cr_expect_eq(ends[CLIENT].wire_size, said);
}

/* Each place at which a record may be cut. */
Test(tls, inside_record)
{
    tls_pair_connect(WIRE_MAX);
    tls_pair_send(CLIENT, text, 20);
    tls_pair_send(CLIENT, text, 20);
    size_t record = ends[CLIENT].wire_size / 2;
    for (size_t i = 1; ends[CLIENT].wire_size > 0; i++) {
        size_t left = ends[CLIENT].wire_size - 1;
        memcpy(text, ends[CLIENT].wire + 1, left);
        ends[CLIENT].wire_size = 1;
        cr_assert_eq(tls_pair_deliver(CLIENT, 1), 0);
        cr_expect_eq(tls_session_is_inside_record(ends[SERVER].session), i % record != 0);
        cr_expect_eq(ends[SERVER].plain_size, i / record * 20);
        memcpy(ends[CLIENT].wire, text, left);
        ends[CLIENT].wire_size = left;
    }
}

/* ---- damage ---- */

Test(tls, damaged_record)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        tls_pair_connect(WIRE_MAX);
        tls_pair_send(CLIENT, text, 100);
        ends[CLIENT].wire[50] ^= 1;
        cr_expect_eq(tls_pair_deliver(CLIENT, WIRE_MAX), -EBADMSG);
        cr_expect_eq(ends[SERVER].plain_size, 0);
        ends[CLIENT].wire_size = 0;
        /* It says so to the peer, and is of no more use. */
        cr_expect_gt(ends[SERVER].wire_size, 0);
        cr_expect_eq(tls_pair_deliver(SERVER, WIRE_MAX), ERR_ALERT);
        cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "the peer refuses"));
        unsigned char bytes[100];
        struct tls_out out = {bytes, sizeof(bytes), 0};
        cr_expect_eq(tls_session_seal(ends[SERVER].session, text, 1, &out), -EIO);
        cr_expect_eq(tls_session_open(ends[SERVER].session, text, 1, bytes, 1, &out), -EBADMSG);
        cr_expect_eq(tls_session_end(ends[SERVER].session, &out), 0);
        cr_expect_eq(out.size, 0);
    }
}

Test(tls, plaintext_in_the_stream)
{
    tls_pair_connect(WIRE_MAX);
    memcpy(ends[CLIENT].wire, "GET / HTTP/1.1\r\n\r\n", 18);
    ends[CLIENT].wire_size = 18;
    cr_expect_eq(tls_pair_deliver(CLIENT, WIRE_MAX), -EBADMSG);
}

/* A record that was left out, or comes twice. */
Test(tls, replayed_record)
{
    tls_pair_connect(WIRE_MAX);
    tls_pair_send(CLIENT, text, 100);
    memcpy(ends[CLIENT].wire + ends[CLIENT].wire_size, ends[CLIENT].wire, ends[CLIENT].wire_size);
    ends[CLIENT].wire_size *= 2;
    cr_expect_eq(tls_pair_deliver(CLIENT, ends[CLIENT].wire_size / 2), -EBADMSG);
    expect_opened(SERVER, text, 100);
}

static void expect_no_tls(const char *sent, const char *words)
{
    tls_pair_sessions();
    memcpy(ends[CLIENT].wire, sent, strlen(sent));
    ends[CLIENT].wire_size = strlen(sent);
    while (ends[SERVER].result == 0 && ends[CLIENT].wire_size > 0)
        tls_pair_step(SERVER, 1);
    cr_expect_eq(ends[SERVER].result, ERR_HANDSHAKE);
    cr_expect_not_null(strstr(tls_session_why(ends[SERVER].session), words), "%s",
                       tls_session_why(ends[SERVER].session));
}

Test(tls, server_gets_something_else)
{
    expect_no_tls("GET / HTTP/1.1\r\n\r\n", "HTTP request");
    expect_no_tls("SSH-2.0-OpenSSH_9.2\r\n", "does not speak TLS");
    expect_no_tls("\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01", "does not speak TLS");
}

Test(tls, client_gets_something_else)
{
    tls_pair_sessions();
    tls_pair_step(CLIENT, 0);
    static const char answer[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    memcpy(ends[SERVER].wire, answer, strlen(answer));
    ends[SERVER].wire_size = strlen(answer);
    tls_pair_step(CLIENT, WIRE_MAX);
    cr_expect_eq(ends[CLIENT].result, ERR_HANDSHAKE);
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "does not speak TLS"));
}

/* No byte of a handshake may be wrong without notice, and none may break anything. */
Test(tls, damaged_handshake, .timeout = 120)
{
    for (size_t at = 0;; at += 37) {
        tls_pair_sessions();
        bool changed = false;
        size_t passed[ENDS] = {0};
        tls_pair_step(CLIENT, 0);
        for (bool moved = true; moved;) {
            moved = false;
            for (int i = 0; i < ENDS; i++) {
                size_t size = ends[!i].wire_size;
                if (ends[i].result != 0 || size == 0)
                    continue;
                if (!changed && i == SERVER && at < passed[i] + size) {
                    ends[!i].wire[at - passed[i]] ^= 0x55;
                    changed = true;
                }
                passed[i] += size;
                tls_pair_step(i, WIRE_MAX);
                moved = true;
            }
        }
        if (!changed)
            break;
        cr_expect_neq(ends[SERVER].result, 1, "at %zu", at);
    }
}

/* ---- what a stranger may cost ---- */

static int gate_count;

static bool gate_open(void *arg)
{
    gate_count++;
    return *(bool *)arg;
}

Test(tls, gate)
{
    bool is_open = true;
    tls_pair_sessions();
    tls_session_set_gate(ends[SERVER].session, gate_open, &is_open);
    tls_pair_step(CLIENT, 0);
    while (ends[CLIENT].wire_size > 1)
        tls_pair_step(SERVER, 1);
    cr_expect_eq(gate_count, 0);
    cr_expect_eq(ends[SERVER].wire_size, 0);
    tls_pair_step(SERVER, 1);
    cr_expect_eq(gate_count, 1);
    cr_expect_gt(ends[SERVER].wire_size, 0);

    is_open = false;
    tls_pair_sessions();
    tls_session_set_gate(ends[SERVER].session, gate_open, &is_open);
    cr_expect_not(tls_pair_shake(WIRE_MAX));
    cr_expect_eq(gate_count, 2);
    cr_expect_eq(ends[SERVER].result, ERR_LIMIT);
    cr_expect_eq(ends[CLIENT].result, ERR_HANDSHAKE);
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "too many"));
}

/* A HelloRetryRequest brings a second ClientHello. */
Test(tls, gate_is_asked_once)
{
    bool is_open = true;
    cr_assert_eq(SSL_CTX_set1_groups_list(ends[SERVER].context->ssl_ctx, "P-384"), 1);
    tls_pair_sessions();
    tls_session_set_gate(ends[SERVER].session, gate_open, &is_open);
    cr_expect(tls_pair_shake(WIRE_MAX));
    cr_expect_eq(gate_count, 1);
}

/* Cut into records of one byte, and into pieces. */
Test(tls, hello_in_many_records)
{
    static const size_t chunks[] = {1, 3, 6, 100, WIRE_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        tls_pair_sessions();
        tls_pair_step(CLIENT, 0);
        struct pair_end *client = &ends[CLIENT];
        size_t size = client->wire_size - 5;
        memcpy(text, client->wire + 5, size);
        for (size_t j = 0; j < size; j++) {
            memcpy(client->wire + 6 * j, "\x16\x03\x01\x00\x01", 5);
            client->wire[6 * j + 5] = text[j];
        }
        client->wire_size = 6 * size;
        cr_expect(tls_pair_shake_on(chunks[i]));
        expect_talk(WIRE_MAX);
    }
}

/* Nothing of OpenSSL's is there before the ClientHello is. */
Test(tls, waiting_costs_nothing)
{
    tls_pair_sessions();
    cr_expect_null(ends[SERVER].session->ssl);
    tls_pair_step(SERVER, 0);
    tls_pair_step(CLIENT, 0);
    while (ends[CLIENT].wire_size > 1) {
        tls_pair_step(SERVER, 7 < ends[CLIENT].wire_size ? 7 : ends[CLIENT].wire_size - 1);
        cr_expect_eq(ends[SERVER].result, 0);
        cr_expect_null(ends[SERVER].session->ssl);
    }
    tls_pair_step(SERVER, 1);
    cr_expect_not_null(ends[SERVER].session->ssl);
    cr_expect_null(ends[SERVER].session->held);
}

/* OpenSSL would wait for the rest of SSL 2's ClientHello. */
Test(tls, hello_of_ssl_2)
{
    expect_no_tls("\x80\x2e\x01\x03\x01\x03\x01\x03", "does not speak TLS");
}

Test(tls, endless_hello)
{
    tls_pair_sessions();
    /* A ClientHello of 128,000 bytes, in records of 1,000. */
    int result = 0;
    size_t sent = 0;
    for (int i = 0; i < 100 && result == 0; i++) {
        unsigned char *at = ends[CLIENT].wire;
        memset(at, 0, 1005);
        memcpy(at, "\x16\x03\x01\x03\xe8", 5);
        if (i == 0)
            memcpy(at + 5, "\x01\x01\xf4\x00", 4);
        ends[CLIENT].wire_size = 1005;
        tls_pair_step(SERVER, WIRE_MAX);
        result = ends[SERVER].result;
        sent += 1005;
    }
    cr_expect_eq(result, ERR_HANDSHAKE);
    cr_expect_eq(sent, 1005); /* its length says it */
    cr_expect_not_null(strstr(tls_session_why(ends[SERVER].session), "ClientHello"));
}

/* Its records have more headers than contents. */
Test(tls, endless_records)
{
    tls_pair_sessions();
    size_t sent = 0;
    for (int i = 0; ends[SERVER].result == 0; i++) {
        memcpy(ends[CLIENT].wire, "\x16\x03\x01\x00\x01\x00", 6);
        if (i == 0)
            ends[CLIENT].wire[5] = 1;
        if (i == 2)
            ends[CLIENT].wire[5] = 0x40;
        ends[CLIENT].wire_size = 6;
        tls_pair_step(SERVER, WIRE_MAX);
        sent += 6;
        cr_assert_leq(sent, LIMIT_TLS_HELLO + 5000);
    }
    cr_expect_eq(ends[SERVER].result, ERR_HANDSHAKE);
    cr_expect_null(ends[SERVER].session->ssl);
}

/* Each asks for an answer. */
Test(tls, flood_of_key_updates)
{
    tls_pair_connect(WIRE_MAX);
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    struct tls_session *client = ends[CLIENT].session;
    struct tls_out out = {ends[CLIENT].wire, WIRE_MAX, 0};
    for (int i = 0; i < 1000; i++) {
        client->out = &out;
        cr_assert_eq(SSL_key_update(client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        cr_assert_eq(SSL_do_handshake(client->ssl), 1);
    }
    client->out = NULL;
    unsigned char bytes[4096], plain[1 << 16];
    struct tls_out reply = {bytes, sizeof(bytes), 0};
    cr_expect_eq(tls_session_open(ends[SERVER].session, out.data, out.size, plain, sizeof(plain),
                                  &reply),
                 -ENOBUFS);
    cr_expect_leq(reply.size, sizeof(bytes));
}

Test(tls, key_update)
{
    limit_version(TLS1_3_VERSION);
    tls_pair_connect(WIRE_MAX);
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    struct tls_session *client = ends[CLIENT].session;
    cr_assert_eq(SSL_key_update(client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    tls_pair_send(CLIENT, text, 100);
    cr_assert_eq(tls_pair_deliver(CLIENT, 1), 0);
    expect_opened(SERVER, text, 100);
    /* The answer comes at once or in front of the next bytes, as OpenSSL likes. */
    tls_pair_send(SERVER, text, 100);
    size_t size = ends[SERVER].wire_size;
    cr_assert_eq(tls_pair_deliver(SERVER, 1), 0);
    expect_opened(CLIENT, text, 100);
    tls_pair_send(SERVER, text, 100);
    cr_expect_lt(ends[SERVER].wire_size, size);
    cr_assert_eq(tls_pair_deliver(SERVER, 1), 0);
    expect_opened(CLIENT, text, 100);
    expect_talk(1000);
    cr_expect_eq(ends[CLIENT].wire_size, 0);
}

/* Ours comes when a key has sealed enough. */
Test(tls, new_key_in_time)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        tls_pair_connect(WIRE_MAX);
        cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
        tls_pair_send(CLIENT, text, 100);
        size_t usual = ends[CLIENT].wire_size;
        ends[CLIENT].session->sealed_records = (1 << 24) - 1;
        tls_pair_send(CLIENT, text, 100);
        if (version == TLS1_3_VERSION)
            cr_expect_gt(ends[CLIENT].wire_size, 2 * usual);
        else
            cr_expect_eq(ends[CLIENT].wire_size, 2 * usual);
        cr_assert_eq(tls_pair_deliver(CLIENT, 1), 0);
        cr_expect_eq(ends[SERVER].plain_size, 200);
        ends[SERVER].plain_size = 0;
        cr_expect_eq(ends[SERVER].wire_size, 0);
        expect_talk(WIRE_MAX);
    }
}

/* The peer's wish for small records costs more than ours have. */
Test(tls, small_fragments)
{
    cr_assert_eq(SSL_CTX_set_tlsext_max_fragment_length(ends[CLIENT].context->ssl_ctx,
                                                        TLSEXT_max_fragment_length_512),
                 1);
    tls_pair_connect(WIRE_MAX);
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    expect_talk(WIRE_MAX);
}

/* ---- resumption ---- */

static void expect_resumption(int version, bool is_resumed)
{
    tls_pair_connect(WIRE_MAX);
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    cr_expect_eq(tls_session_version(ends[CLIENT].session), version);
    for (int end = 0; end < ENDS; end++)
        cr_expect_eq(tls_session_was_resumed(ends[end].session), is_resumed);
    expect_talk(WIRE_MAX);
}

Test(tls, resumed_1_2)
{
    limit_version(TLS1_2_VERSION);
    expect_resumption(TLS1_2_VERSION, false);
    for (int i = 0; i < 5; i++)
        expect_resumption(TLS1_2_VERSION, true);
}

/* A ticket is used again and again, and brings no other one. */
Test(tls, resumed_1_3)
{
    limit_version(TLS1_3_VERSION);
    expect_resumption(TLS1_3_VERSION, false);
    const SSL_SESSION *kept = ends[CLIENT].context->kept[0].session;
    cr_assert_not_null(kept);
    for (int i = 0; i < 5; i++) {
        expect_resumption(TLS1_3_VERSION, true);
        cr_expect_eq(ends[CLIENT].context->kept[0].session, kept);
    }
}

/* As rathole's server does it. */
Test(tls, newer_ticket_replaces_the_older)
{
    limit_version(TLS1_3_VERSION);
    (void)SSL_CTX_set_session_ticket_cb(ends[SERVER].context->ssl_ctx, NULL, NULL, NULL);
    expect_resumption(TLS1_3_VERSION, false);
    for (int i = 0; i < 5; i++) {
        const SSL_SESSION *kept = ends[CLIENT].context->kept[0].session;
        expect_resumption(TLS1_3_VERSION, true);
        cr_expect_neq(ends[CLIENT].context->kept[0].session, kept);
    }
}

/* A resumed session was checked when it was new, so it must not live for ever, even in use. */
Test(tls, session_in_use_expires)
{
    const struct timespec pause = {0, 200000000};
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        (void)SSL_CTX_set_timeout(ends[SERVER].context->ssl_ctx, 2);
        expect_resumption(version, false);
        int left = 50;
        do {
            (void)nanosleep(&pause, NULL);
            tls_pair_connect(WIRE_MAX);
            cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
        } while (tls_session_was_resumed(ends[CLIENT].session) && --left > 0);
        cr_expect_gt(left, 0, "its life was prolonged again and again");
        struct tls_settings client = tls_pair_client();
        tls_pair_context(CLIENT, &client);
    }
}

/* A new context of the server has other ticket keys: a full handshake, no failure. */
Test(tls, tickets_of_an_earlier_context)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        expect_resumption(version, false);
        struct tls_settings server = tls_pair_server();
        tls_pair_context(SERVER, &server);
        expect_resumption(version, false);
        expect_resumption(version, true);
        struct tls_settings client = tls_pair_client();
        tls_pair_context(CLIENT, &client);
    }
}

/* Each has its own ticket keys. */
Test(tls, sessions_of_several_servers)
{
    limit_version(TLS1_3_VERSION);
    struct tls_context *servers[3] = {ends[SERVER].context};
    struct tls_settings server = tls_pair_server();
    for (size_t i = 1; i < ARRAY_SIZE(servers); i++) {
        ends[SERVER].context = NULL;
        tls_pair_context(SERVER, &server);
        servers[i] = ends[SERVER].context;
    }
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(servers); i++) {
            tls_pair_peer = 10 + i;
            ends[SERVER].context = servers[i];
            expect_resumption(TLS1_3_VERSION, round > 0);
        }
    }
    /* The failure of one is not the others'. */
    tls_pair_send(SERVER, text, 100);
    ends[SERVER].wire[50] ^= 1;
    cr_expect_eq(tls_pair_deliver(SERVER, WIRE_MAX), -EBADMSG);
    for (size_t i = 0; i < ARRAY_SIZE(servers); i++) {
        tls_pair_peer = 10 + i;
        ends[SERVER].context = servers[i];
        expect_resumption(TLS1_3_VERSION, i + 1 < ARRAY_SIZE(servers));
    }
    for (size_t i = 0; i + 1 < ARRAY_SIZE(servers); i++)
        tls_context_destroy(servers[i]);
}

Test(tls, sessions_have_a_bound)
{
    limit_version(TLS1_3_VERSION);
    for (tls_pair_peer = 1; tls_pair_peer <= LIMIT_TLS_KEPT + 1; tls_pair_peer++)
        expect_resumption(TLS1_3_VERSION, false);
    tls_pair_peer--;
    expect_resumption(TLS1_3_VERSION, true);
    tls_pair_peer = 1;
    expect_resumption(TLS1_3_VERSION, false);
    tls_pair_peer = 3;
    expect_resumption(TLS1_3_VERSION, true);
}

/* A session that has failed is not taken up again; one that was only cut off is. */
Test(tls, no_resumption_after_failure)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        limit_version(version);
        expect_resumption(version, false);
        for (int resumed = 0; resumed < 2; resumed++) { /* the connection that fails */
            tls_pair_send(SERVER, text, 100);
            ends[SERVER].wire[50] ^= 1;
            cr_expect_eq(tls_pair_deliver(SERVER, WIRE_MAX), -EBADMSG);
            expect_resumption(version, false);
            expect_resumption(version, true);
        }
        struct tls_settings client = tls_pair_client();
        tls_pair_context(CLIENT, &client);
    }
}

/* An older connection's failure says nothing about the session that is kept now. */
Test(tls, failure_of_an_older_session)
{
    limit_version(TLS1_3_VERSION);
    expect_resumption(TLS1_3_VERSION, false);
    const SSL_SESSION *own = ends[CLIENT].session->kept;
    cr_assert_eq(own, ends[CLIENT].context->kept[0].session);
    ends[CLIENT].session->kept = (const SSL_SESSION *)(const void *)text;
    tls_pair_send(SERVER, text, 100);
    ends[SERVER].wire[50] ^= 1;
    cr_expect_eq(tls_pair_deliver(SERVER, WIRE_MAX), -EBADMSG);
    expect_resumption(TLS1_3_VERSION, true);
}

/* ---- contexts ---- */

Test(tls, sessions_outlive_their_context)
{
    tls_pair_connect(WIRE_MAX);
    for (int i = 0; i < ENDS; i++) {
        tls_context_destroy(ends[i].context);
        ends[i].context = NULL;
    }
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    expect_talk(1000);
}

Test(tls, description)
{
    cr_assert_not_null(tls_description());
    cr_expect_eq(strncmp(tls_description(), "OpenSSL 3.", 10), 0);
}
