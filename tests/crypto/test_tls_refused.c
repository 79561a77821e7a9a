/* Certificates that the other end refuses, and what it says. */
#include <criterion/criterion.h>
#include <openssl/ssl.h>
#include <string.h>

#include "base/error.h"
#include "tls_pair.h"

static struct tls_settings server, client;

static void set_up(void)
{
    tls_pair_set_up();
    server = tls_pair_server();
    client = tls_pair_client();
}

TestSuite(tls_refused, .init = set_up, .fini = tls_pair_tear_down);

static bool shake(void)
{
    tls_pair_context(SERVER, &server);
    tls_pair_context(CLIENT, &client);
    tls_pair_sessions();
    return tls_pair_shake(WIRE_MAX);
}

/* The client refuses, and tells the server. */
static void expect_client_refuses(const char *words)
{
    cr_expect_not(shake());
    cr_expect_eq(ends[CLIENT].result, ERR_HANDSHAKE);
    cr_expect_eq(ends[SERVER].result, ERR_HANDSHAKE);
    const char *why = tls_session_why(ends[CLIENT].session);
    cr_expect_not_null(strstr(why, words), "\"%s\" lacks \"%s\"", why, words);
    why = tls_session_why(ends[SERVER].session);
    cr_expect_not_null(strstr(why, "the peer refuses"), "%s", why);
}

static void serve(const struct pki_order *order, const struct pki_cert *issuer)
{
    struct pki_cert cert;
    pki_make(&cert, order, issuer);
    server.certificate = pki_save("served.pem", &cert, NULL);
    server.private_key = pki_save_key("served.key", &cert, NULL);
    pki_free(&cert);
}

static void expect_name(const char *hostname, bool is_right)
{
    client.hostname = hostname;
    if (is_right) {
        cr_expect(shake(), "%s: %s", hostname, tls_session_why(ends[CLIENT].session));
        return;
    }
    expect_client_refuses("is for a.example, *.b.example, 192.0.2.7, ::1, not for ");
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "tls.hostname"));
}

Test(tls_refused, name)
{
    expect_name("a.example", true);
    expect_name("A.Example", true);
    expect_name("a.example.", true);
    expect_name("x.b.example", true);
    expect_name("192.0.2.7", true);
    expect_name("::1", true);
    expect_name("[::1]", true);
    expect_name("[::1%lo]", true);
    expect_name("b.example", false);
    expect_name("x.y.b.example", false);
    expect_name("xa.example", false);
    expect_name("a.example.org", false);
    expect_name("192.0.2.8", false);
    expect_name("::2", false);
}

Test(tls_refused, partial_wildcard)
{
    serve(&(struct pki_order){.name = "x", .alt = "DNS:w*.example"}, &root);
    client.hostname = "www.example";
    expect_client_refuses("is for w*.example, not for www.example");
}

/* An address is not a name: not as a DNS entry, and not as the common name. */
Test(tls_refused, address_as_name)
{
    client.hostname = "192.0.2.7";
    serve(&(struct pki_order){.name = "192.0.2.7", .alt = "DNS:192.0.2.7"}, &root);
    expect_client_refuses("not for 192.0.2.7");
    serve(&(struct pki_order){.name = "192.0.2.7"}, &root);
    expect_client_refuses("not for 192.0.2.7");
}

Test(tls_refused, server_name_indication)
{
    static const char *const names[][2] = {{"a.example", "a.example"},
                                           {"a.example.", "a.example"},
                                           {"192.0.2.7", NULL},
                                           {"[::1]", NULL}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        client.hostname = names[i][0];
        cr_expect(shake());
        const char *sni = SSL_get_servername(ends[SERVER].session->ssl, TLSEXT_NAMETYPE_host_name);
        cr_expect((sni == NULL) == (names[i][1] == NULL));
        if (sni != NULL)
            cr_expect_str_eq(sni, names[i][1]);
    }
}

Test(tls_refused, long_list_of_names)
{
    char alt[4096];
    size_t size = 0;
    for (int i = 0; i < 100; i++)
        size += (size_t)snprintf(alt + size, sizeof(alt) - size, "%sDNS:name-%d.example",
                                 i > 0 ? "," : "", i);
    serve(&(struct pki_order){.name = "x", .alt = alt}, &root);
    expect_client_refuses("name-7.example, ..., not for a.example");
    serve(
        &(struct pki_order){
            .name = "x",
            .alt = "DNS:a-name-that-is-as-long-as-a-label-may-be-and-no-longer-than-that.example,"
                   "DNS:b-name-that-is-as-long-as-a-label-may-be-and-no-longer-than-that.example,"
                   "DNS:c-name-that-is-as-long-as-a-label-may-be-and-no-longer-than-that.example,"
                   "DNS:d-name-that-is-as-long-as-a-label-may-be-and-no-longer-than-that.example,"
                   "DNS:short.example"},
        &root);
    expect_client_refuses("that.example, ..., not for a.example");
}

Test(tls_refused, expired)
{
    serve(&(struct pki_order){.name = "a.example",
                              .alt = "DNS:a.example",
                              .from_days = -30,
                              .to_days = -1},
          &root);
    expect_client_refuses("the server's certificate 'a.example' has expired on 20");
}

Test(tls_refused, not_yet_valid)
{
    serve(&(struct pki_order){.name = "a.example",
                              .alt = "DNS:a.example",
                              .from_days = 2,
                              .to_days = 30},
          &root);
    expect_client_refuses("the server's certificate 'a.example' is valid from 20");
}

Test(tls_refused, expired_root)
{
    struct pki_cert old;
    pki_make(&old,
             &(struct pki_order){.name = "Old Root", .is_ca = true, .from_days = -9, .to_days = -1},
             NULL);
    serve(&(struct pki_order){.name = "a.example", .alt = "DNS:a.example"}, &old);
    client.trusted_root = pki_save("old.pem", &old, NULL);
    expect_client_refuses("the server's CA certificate 'Old Root' has expired");
    pki_free(&old);
}

Test(tls_refused, unknown_issuer)
{
    struct pki_cert other;
    pki_make(&other, &(struct pki_order){.name = "Other Root", .is_ca = true}, NULL);
    client.trusted_root = pki_save("other.pem", &other, NULL);
    server.certificate = pki_save("lone.pem", &leaf, NULL);
    expect_client_refuses("issued by 'Test Root', which is not trusted here: give the file with");
    server.certificate = pki_save("chain.pem", &leaf, &root, NULL);
    expect_client_refuses("'Test Root', which is not trusted here");
    cr_expect_not_null(strstr(tls_session_why(ends[CLIENT].session), "trusted_root"));
    client.trusted_root = NULL;
    client.trusts_only_file = false;
    cr_assert_eq(setenv("SSL_CERT_FILE", pki_path("other.pem"), 1), 0);
    expect_client_refuses("name the file with that one's certificate in trusted_root");
    pki_free(&other);
}

/* Alone it is its own root, so that trusted_root may have it. */
Test(tls_refused, self_signed)
{
    struct pki_cert own;
    pki_make(&own, &(struct pki_order){.name = "a.example", .alt = "DNS:a.example"}, NULL);
    server.certificate = pki_save("own.pem", &own, NULL);
    server.private_key = pki_save_key("own.key", &own, NULL);
    expect_client_refuses("is signed by itself or its own root, 'a.example', which is not trusted");
    client.trusted_root = pki_save("trusted.pem", &own, NULL);
    cr_expect(shake(), "%s", tls_session_why(ends[CLIENT].session));
    pki_free(&own);
}

Test(tls_refused, wrong_usage)
{
    serve(&(struct pki_order){.name = "x", .alt = "DNS:a.example", .usage = "clientAuth"}, &root);
    expect_client_refuses("extended key usage needs serverAuth");
}

Test(tls_refused, weak_root)
{
    struct pki_cert weak;
    pki_make(
        &weak,
        &(struct pki_order){.name = "Weak Root", .is_ca = true, .is_rsa = true, .rsa_bits = 768},
        NULL);
    serve(&(struct pki_order){.name = "x", .alt = "DNS:a.example"}, &weak);
    client.trusted_root = pki_save("weak.pem", &weak, NULL);
    expect_client_refuses("the server's CA certificate is too weak");
    pki_free(&weak);
}

/* A name of bytes that no name has. */
Test(tls_refused, strange_name)
{
    serve(&(struct pki_order){.name = "x\n\x1b[2J y"}, &root);
    expect_client_refuses("is for x??[2J?y, not for");
}

/* ---- client certificates ---- */

static void offer(const struct pki_order *order, const struct pki_cert *issuer)
{
    struct pki_cert cert;
    pki_make(&cert, order, issuer);
    client.certificate = pki_save("offered.pem", &cert, NULL);
    client.private_key = pki_save_key("offered.key", &cert, NULL);
    pki_free(&cert);
}

/* The client of TLS 1.3 is done before the server has looked at its certificate. */
static void expect_server_refuses(const char *words, const char *client_words)
{
    server.client_ca = pki_save("ca.pem", &root, NULL);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tls_pair_context(SERVER, &server);
        tls_pair_context(CLIENT, &client);
        cr_assert_eq(SSL_CTX_set_max_proto_version(ends[CLIENT].context->ssl_ctx, version), 1);
        tls_pair_sessions();
        cr_expect_not(tls_pair_shake(WIRE_MAX));
        cr_expect_eq(ends[SERVER].result, ERR_HANDSHAKE);
        const char *why = tls_session_why(ends[SERVER].session);
        cr_expect_not_null(strstr(why, words), "\"%s\" lacks \"%s\"", why, words);
        if (version == TLS1_3_VERSION) {
            cr_assert_eq(ends[CLIENT].result, 1);
            cr_expect_eq(tls_pair_deliver(SERVER, WIRE_MAX), ERR_ALERT);
        } else {
            cr_expect_eq(ends[CLIENT].result, ERR_HANDSHAKE);
        }
        why = tls_session_why(ends[CLIENT].session);
        cr_expect_not_null(strstr(why, client_words), "\"%s\" lacks \"%s\"", why, client_words);
    }
}

Test(tls_refused, client_without_certificate)
{
    expect_server_refuses("client_ca demands one", "wants a client certificate");
}

Test(tls_refused, client_of_another_ca)
{
    struct pki_cert other;
    pki_make(&other, &(struct pki_order){.name = "Other Root", .is_ca = true}, NULL);
    offer(&(struct pki_order){.name = "stranger"}, &other);
    expect_server_refuses("issued by 'Other Root', which is not in client_ca", "does not trust");
    pki_free(&other);
}

Test(tls_refused, expired_client)
{
    offer(&(struct pki_order){.name = "old client", .from_days = -9, .to_days = -1}, &root);
    expect_server_refuses("the client's certificate 'old client' has expired",
                          "our certificate has expired");
}

Test(tls_refused, client_of_wrong_usage)
{
    offer(&(struct pki_order){.name = "x", .usage = "serverAuth"}, &root);
    expect_server_refuses("extended key usage needs clientAuth", "does not accept our certificate");
}
