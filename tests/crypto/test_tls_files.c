/* Contexts from settings: the files that work, and what is said about those that do not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "tls_pair.h"

TestSuite(tls_files, .init = tls_pair_set_up, .fini = tls_pair_tear_down);

static void expect_refused(const struct tls_settings *settings, int error, const char *words)
{
    char why[TLS_WHY_SIZE] = "";
    struct tls_context *context = NULL;
    cr_expect_eq(tls_context_create(settings, &context, why, sizeof(why)), error, "%s", why);
    cr_expect_null(context);
    cr_expect_not_null(strstr(why, words), "\"%s\" lacks \"%s\"", why, words);
    cr_expect_eq(ERR_peek_error(), 0);
}

static void expect_connects(const struct tls_settings *server, const struct tls_settings *client)
{
    tls_pair_context(SERVER, server);
    tls_pair_context(CLIENT, client);
    tls_pair_connect(WIRE_MAX);
    tls_pair_send(CLIENT, "hello", 5);
    cr_assert_eq(tls_pair_deliver(CLIENT, WIRE_MAX), 0);
    cr_expect_eq(ends[SERVER].plain_size, 5);
}

static struct tls_settings with_pkcs12(enum pki_pkcs12 kind, const char *password)
{
    return (struct tls_settings){.is_server = true,
                                 .pkcs12 =
                                     pki_save_pkcs12("leaf.p12", &leaf, &root, "secret", kind),
                                 .pkcs12_password = password};
}

/* ---- what works ---- */

Test(tls_files, pkcs12)
{
    struct tls_settings client = tls_pair_client();
    for (enum pki_pkcs12 kind = PKI_AES; kind <= PKI_RC2; kind++) {
        struct tls_settings server = with_pkcs12(kind, "secret");
        expect_connects(&server, &client);
        cr_expect_eq(sk_X509_num(SSL_get_peer_cert_chain(ends[CLIENT].session->ssl)), 2);
    }
}

Test(tls_files, pkcs12_without_password)
{
    struct tls_settings server = {.is_server = true}, client = tls_pair_client();
    server.pkcs12 = pki_save_pkcs12("empty.p12", &leaf, NULL, "", PKI_AES);
    expect_connects(&server, &client);
    server.pkcs12_password = "";
    expect_connects(&server, &client);
}

Test(tls_files, pem_with_chain)
{
    struct pki_cert middle, below;
    pki_make(&middle, &(struct pki_order){.name = "Middle", .is_ca = true}, &root);
    pki_make(&below, &(struct pki_order){.name = "x", .alt = "DNS:a.example", .is_rsa = true},
             &middle);
    struct tls_settings client = tls_pair_client();
    struct tls_settings server = {.is_server = true,
                                  .certificate = pki_save("chain.pem", &below, &middle, NULL),
                                  .private_key = pki_save_key("below.key", &below, NULL)};
    expect_connects(&server, &client);
    cr_expect_eq(sk_X509_num(SSL_get_peer_cert_chain(ends[CLIENT].session->ssl)), 2);
    pki_free(&middle);
    pki_free(&below);
}

/* rathole takes the first one alone. */
Test(tls_files, every_trusted_root_counts)
{
    struct pki_cert other;
    pki_make(&other, &(struct pki_order){.name = "Other", .is_ca = true}, NULL);
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    client.trusted_root = pki_save("roots.pem", &other, &root, NULL);
    expect_connects(&server, &client);
    client.trusts_only_file = false;
    expect_connects(&server, &client);
    pki_free(&other);
}

Test(tls_files, system_roots)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    cr_assert_eq(setenv("SSL_CERT_FILE", client.trusted_root, 1), 0);
    client.trusted_root = NULL;
    client.trusts_only_file = false;
    expect_connects(&server, &client);
}

/* A directory as openssl-rehash(1) makes it. All of it is read at the start: a worker may not. */
Test(tls_files, system_roots_in_a_directory)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    char first[] = "/tmp/roots.XXXXXX", second[] = "/tmp/roots.XXXXXX", name[64], both[64];
    cr_assert_not_null(mkdtemp(first));
    cr_assert_not_null(mkdtemp(second));
    (void)snprintf(name, sizeof(name), "%s/%08lx.0", second,
                   X509_NAME_hash_ex(X509_get_subject_name(root.cert), NULL, NULL, NULL));
    (void)snprintf(both, sizeof(both), "%s:%s", first, second);
    cr_assert_eq(symlink(client.trusted_root, name), 0);
    cr_assert_eq(setenv("SSL_CERT_FILE", "/nonexistent", 1), 0);
    cr_assert_eq(setenv("SSL_CERT_DIR", both, 1), 0);
    client.trusted_root = NULL;
    client.trusts_only_file = false;
    tls_pair_context(SERVER, &server);
    tls_pair_context(CLIENT, &client);
    cr_assert_eq(unlink(name), 0);
    cr_assert_eq(rmdir(first), 0);
    cr_assert_eq(rmdir(second), 0);
    tls_pair_connect(WIRE_MAX);
    tls_pair_send(CLIENT, "hello", 5);
    cr_assert_eq(tls_pair_deliver(CLIENT, WIRE_MAX), 0);
    cr_expect_eq(ends[SERVER].plain_size, 5);
}

Test(tls_files, text_around_certificates)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    FILE *file = fopen(pki_path("root.pem"), "ae");
    cr_assert_not_null(file);
    cr_assert_geq(fputs("\nsome words at the end\n", file), 0);
    cr_assert_eq(fclose(file), 0);
    client.trusted_root = pki_path("root.pem");
    expect_connects(&server, &client);
}

Test(tls_files, client_certificate)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    server.client_ca = pki_save("ca.pem", &root, NULL);
    client.certificate = pki_save("client.pem", &client_leaf, NULL);
    client.private_key = pki_save_key("client.key", &client_leaf, NULL);
    expect_connects(&server, &client);
    /* It can be resumed. */
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    tls_pair_connect(WIRE_MAX);
    cr_expect(tls_session_was_resumed(ends[SERVER].session));
    client.pkcs12 = pki_save_pkcs12("client.p12", &client_leaf, NULL, "pw", PKI_AES);
    client.pkcs12_password = "pw";
    client.certificate = client.private_key = NULL;
    expect_connects(&server, &client);
}

Test(tls_files, expiry)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    tls_pair_context(SERVER, &server);
    tls_pair_context(CLIENT, &client);
    time_t days = (tls_context_expiry(ends[SERVER].context) - time(NULL)) / 86400;
    cr_expect(days == 179 || days == 180);
    cr_expect_eq(tls_context_expiry(ends[CLIENT].context), 0);
}

/* ---- what is refused ---- */

Test(tls_files, settings_that_do_not_fit)
{
    struct tls_settings server = {.is_server = true};
    expect_refused(&server, -EINVAL, "needs a certificate");
    server = tls_pair_server();
    server.private_key = NULL;
    expect_refused(&server, -EINVAL, "one is missing");
    server = tls_pair_server();
    server.pkcs12 = "x";
    expect_refused(&server, -EINVAL, "leave one out");
    struct tls_settings client = tls_pair_client();
    client.hostname = NULL;
    expect_refused(&client, -EINVAL, "needs a hostname");
    client.hostname = "";
    expect_refused(&client, -EINVAL, "no name that");
    client = tls_pair_client();
    client.trusted_root = NULL;
    expect_refused(&client, -EINVAL, "trusted_root is missing");
}

Test(tls_files, files_that_cannot_be_read)
{
    struct tls_settings server = {.is_server = true, .pkcs12 = pki_path("nothing.p12")};
    expect_refused(&server, -ENOENT, "no such file");
    expect_refused(&server, -ENOENT, "nothing.p12");
    server.pkcs12 = pki_path(".");
    expect_refused(&server, ERR_NOT_A_FILE, "not a regular file");
    server.pkcs12 = pki_path("fifo");
    cr_assert_eq(mkfifo(server.pkcs12, 0600), 0);
    expect_refused(&server, ERR_NOT_A_FILE, "not a regular file"); /* and nobody waits */
    server.pkcs12 = pki_save_text("large", "");
    cr_assert_eq(truncate(server.pkcs12, LIMIT_TLS_FILE + 1), 0);
    expect_refused(&server, -EFBIG, "large");
    server = tls_pair_server();
    server.private_key = pki_path("nothing.key");
    expect_refused(&server, -ENOENT, "private_key '");
    server = tls_pair_server();
    server.client_ca = pki_path("nothing.pem");
    expect_refused(&server, -ENOENT, "client_ca '");
    struct tls_settings client = tls_pair_client();
    client.trusted_root = pki_path("nothing.pem");
    expect_refused(&client, -ENOENT, "trusted_root '");
}

Test(tls_files, unreadable_file)
{
    struct tls_settings server = tls_pair_server();
    uid_t own = geteuid();
    cr_assert_eq(chmod(pki_path("."), 0755), 0);
    cr_assert_eq(chmod(server.certificate, 0644), 0);
    cr_assert_eq(chmod(server.private_key, 0), 0);
    cr_assert(own != 0 || seteuid(65534) == 0); /* root reads everything */
    expect_refused(&server, -EACCES, "permission denied (the program's user");
    cr_assert_eq(seteuid(own), 0);
}

Test(tls_files, pkcs12_faults)
{
    for (enum pki_pkcs12 kind = PKI_AES; kind <= PKI_RC2; kind++) {
        struct tls_settings server = with_pkcs12(kind, "wrong");
        expect_refused(&server, -EINVAL, "pkcs12_password is wrong");
        server.pkcs12_password = NULL;
        expect_refused(&server, -EINVAL, "pkcs12_password is missing");
    }
    struct tls_settings server = {.is_server = true};
    server.pkcs12 = pki_save("leaf.pem", &leaf, NULL);
    expect_refused(&server, -EINVAL, "no PKCS#12 file: for PEM");
    server.pkcs12 = pki_save_text("empty", "");
    expect_refused(&server, -EINVAL, "no PKCS#12 file");
    /* Without a key, and cut. */
    struct pki_cert keyless = {.cert = root.cert};
    server.pkcs12 = pki_save_pkcs12("keyless.p12", &keyless, NULL, "secret", PKI_AES);
    server.pkcs12_password = "secret";
    expect_refused(&server, -EINVAL, "it needs a certificate with its key");
    server = with_pkcs12(PKI_AES, "secret");
    cr_assert_eq(truncate(server.pkcs12, 500), 0);
    expect_refused(&server, -EINVAL, "no PKCS#12 file");
}

/* Where the legacy provider is not installed. */
Test(tls_files, pkcs12_without_legacy_provider)
{
    struct tls_settings server = with_pkcs12(PKI_RC2, "secret");
    cr_assert_eq(OSSL_PROVIDER_set_default_search_path(NULL, "/nowhere"), 1);
    expect_refused(&server, -EINVAL, "legacy provider");
}

Test(tls_files, pem_faults)
{
    struct tls_settings server = tls_pair_server();
    server.private_key = pki_save_key("other.key", &client_leaf, NULL);
    expect_refused(&server, -EINVAL, "the private key is not the certificate's");
    server.private_key = pki_save_key("encrypted.key", &leaf, "secret");
    expect_refused(&server, -EINVAL, "is encrypted");
    server.private_key = server.certificate;
    expect_refused(&server, -EINVAL, "has no private key in PEM");
    server = tls_pair_server();
    server.certificate = server.private_key;
    expect_refused(&server, -EINVAL, "has no certificate in PEM");
    server.certificate = pki_save_text("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"
                                                  "-----END CERTIFICATE-----\n");
    expect_refused(&server, -EINVAL, "is damaged");
    struct tls_settings client = tls_pair_client();
    client.trusted_root = pki_save_text("empty.pem", "");
    expect_refused(&client, -EINVAL, "has no certificate in PEM");
    client.trusted_root = server.certificate;
    expect_refused(&client, -EINVAL, "is damaged");
}

Test(tls_files, other_kind_of_key)
{
    struct pki_cert other;
    pki_make(&other, &(struct pki_order){.name = "x", .is_rsa = true}, NULL);
    struct tls_settings server = tls_pair_server();
    server.private_key = pki_save_key("rsa.key", &other, NULL);
    expect_refused(&server, -EINVAL, "the private key is not the certificate's");
    pki_free(&other);
}

Test(tls_files, weak_key)
{
    struct pki_cert weak;
    pki_make(&weak, &(struct pki_order){.name = "x", .is_rsa = true, .rsa_bits = 768}, NULL);
    struct tls_settings server = {.is_server = true,
                                  .certificate = pki_save("weak.pem", &weak, NULL),
                                  .private_key = pki_save_key("weak.key", &weak, NULL)};
    expect_refused(&server, -EINVAL, "longer key");
    pki_free(&weak);
}
