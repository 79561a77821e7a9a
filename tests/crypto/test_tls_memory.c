/* Memory: every allocation may fail, ours and OpenSSL's, nothing is left over, and an idle session is
 * small. OpenSSL lets a program bring its own malloc. */
#include <criterion/criterion.h>
#include <errno.h>
#include <malloc.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/error.h"
#include "tls_pair.h"

/* OpenSSL from 3.2 on has larger record layers, and 3.5 keeps the ML-KEM key of the handshake
 * (docs/decisions.md, "An idle TLS connection is as large as OpenSSL makes it"). */
#if OPENSSL_VERSION_NUMBER < 0x30200000L
enum { IDLE_MAX = 24 << 10 };
#else
enum { IDLE_MAX = 40 << 10 };
#endif
enum { IDLE_SESSIONS = 100, STRIDE_PART = 50 };

static bool is_paused = true, has_failed;
static unsigned int countdown;
static size_t blocks, bytes; /* of OpenSSL */

static bool must_fail_now(void)
{
    if (is_paused || countdown == 0 || --countdown > 0)
        return false;
    has_failed = true;
    return true;
}

static void *counted(void *block)
{
    blocks += block != NULL;
    bytes += malloc_usable_size(block);
    return block;
}

static void uncount(void *block)
{
    blocks -= block != NULL;
    bytes -= malloc_usable_size(block);
}

/* Not counted by alloc.c. */
void *__real_malloc(size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);

static void *openssl_malloc(size_t size, const char *file, int line)
{
    return must_fail_now() ? NULL : counted(__real_malloc(size));
}

static void *openssl_realloc(void *block, size_t size, const char *file, int line)
{
    if (must_fail_now())
        return NULL;
    uncount(block);
    void *moved = __real_realloc(block, size);
    return counted(moved != NULL || size == 0 ? moved : block) == moved ? moved : NULL;
}

static void openssl_free(void *block, const char *file, int line)
{
    uncount(block);
    __real_free(block);
}

static bool is_ours;

/* Criterion itself uses OpenSSL, and it has to be the first call. */
__attribute__((constructor)) static void replace_malloc(void)
{
    is_ours = CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) == 1;
}

static void set_up(void)
{
    cr_assert(is_ours);
    tls_pair_set_up();
}

TestSuite(tls_memory, .init = set_up, .fini = tls_pair_tear_down, .timeout = 300);

static void connect_contexts(int version)
{
    struct tls_settings server = tls_pair_server(), client = tls_pair_client();
    tls_pair_context(SERVER, &server);
    tls_pair_context(CLIENT, &client);
    cr_assert_eq(SSL_CTX_set_max_proto_version(ends[CLIENT].context->ssl_ctx, version), 1);
}

/* ---- an idle session ---- */

static void talk(void)
{
    static unsigned char text[40000];
    for (int from = 0; from < ENDS; from++) {
        tls_pair_send(from, text, sizeof(text));
        cr_assert_eq(tls_pair_deliver(from, 10000), 0);
        ends[!from].plain_size = 0;
    }
}

/* The bytes of an end that lives on while the other end is gone. */
static size_t idle_bytes(int end, int version, bool resumes)
{
    struct tls_session *kept[IDLE_SESSIONS];
    connect_contexts(version);
    tls_pair_connect(WIRE_MAX); /* what is made once */
    cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
    talk();
    size_t total = 0;
    for (size_t i = 0; i < IDLE_SESSIONS; i++) {
        if (!resumes)
            tls_resume_forget(ends[CLIENT].context);
        for (int j = 0; j < ENDS; j++) {
            tls_session_destroy(ends[j].session);
            ends[j].session = NULL;
        }
        size_t before = bytes;
        tls_pair_connect(WIRE_MAX);
        cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
        talk();
        cr_assert_eq(tls_session_was_resumed(ends[end].session), resumes);
        if (!resumes)
            tls_resume_forget(ends[CLIENT].context);
        tls_session_destroy(ends[!end].session);
        ends[!end].session = NULL;
        total += bytes - before + malloc_usable_size(ends[end].session);
        kept[i] = ends[end].session;
        ends[end].session = NULL;
    }
    for (size_t i = 0; i < IDLE_SESSIONS; i++)
        tls_session_destroy(kept[i]);
    return total / IDLE_SESSIONS;
}

Test(tls_memory, idle_session)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        for (int i = 0; i < 2 * ENDS; i++) {
            size_t size = idle_bytes(i / 2, version, i % 2 != 0);
            printf("idle: TLS 1.%d, %s, %s: %zu bytes\n", version - TLS1_VERSION,
                   i / 2 == SERVER ? "server" : "client", i % 2 != 0 ? "resumed" : "full handshake",
                   size);
            cr_expect_leq(size, IDLE_MAX);
        }
    }
}

/* ---- nothing is left over ---- */

static void connect_once(int version)
{
    connect_contexts(version);
    for (int i = 0; i < 3; i++) {
        tls_pair_connect(100);
        cr_assert_eq(tls_pair_deliver(SERVER, WIRE_MAX), 0);
        talk();
    }
    for (int i = 0; i < ENDS; i++) {
        tls_session_destroy(ends[i].session);
        tls_context_destroy(ends[i].context);
        ends[i].session = NULL;
        ends[i].context = NULL;
    }
}

Test(tls_memory, no_leak)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        connect_once(version);
        size_t before = blocks;
        alloc_count_begin();
        connect_once(version);
        cr_expect_eq(blocks, before);
        cr_expect_eq(alloc_blocks(), 0);
    }
}

/* ---- no memory ---- */

static void fail_nth(unsigned int n)
{
    has_failed = false;
    countdown = n;
    is_paused = false;
}

Test(tls_memory, context_without_memory)
{
    struct tls_settings settings[] = {tls_pair_server(),
                                      tls_pair_client(),
                                      {.is_server = true,
                                       .pkcs12 = pki_save_pkcs12("leaf.p12", &leaf, &root, "secret",
                                                                 PKI_AES),
                                       .pkcs12_password = "secret"}};
    settings[0].client_ca = settings[1].trusted_root;
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        char why[TLS_WHY_SIZE] = "";
        tls_pair_context(SERVER, &settings[i]); /* what is made once */
        size_t failures = 0;
        for (unsigned int n = 1;; n += 1 + n / STRIDE_PART) {
            struct tls_context *context = NULL;
            fail_nth(n);
            int r = tls_context_create(&settings[i], &context, why, sizeof(why));
            is_paused = true;
            /* OpenSSL can do without some. */
            cr_assert(r == 0 || why[0] != '\0');
            cr_assert_eq(r == 0, context != NULL);
            failures += r != 0;
            tls_context_destroy(context);
            if (!has_failed)
                break;
        }
        cr_expect_gt(failures, 30, "%zu of the context %zu", failures, i);
        for (unsigned int n = 1;; n++) { /* ours */
            struct tls_context *context = NULL;
            alloc_fail_nth(n);
            int r = tls_context_create(&settings[i], &context, why, sizeof(why));
            alloc_fail_nth(0);
            tls_context_destroy(context);
            if (r == 0)
                break;
            cr_assert_eq(r, -ENOMEM);
        }
    }
}

/* Whatever fails, the error comes from the call that needed the memory, the other end gets no wrong
 * bytes, and both can be freed. */
static bool connect_failing(unsigned int n, int version, bool resumes)
{
    if (!resumes)
        tls_resume_forget(ends[CLIENT].context);
    fail_nth(n);
    for (int i = 0; i < ENDS; i++) {
        tls_session_destroy(ends[i].session);
        ends[i].session = NULL;
        ends[i].result = 0;
        ends[i].wire_size = ends[i].plain_size = 0;
    }
    for (int i = 0; i < ENDS; i++) {
        if (tls_session_create(ends[i].context, 1, &ends[i].session) < 0) {
            cr_assert(has_failed);
            return true;
        }
    }
    bool done = tls_pair_shake(WIRE_MAX);
    cr_assert(done || has_failed);
    if (done) {
        cr_assert_eq(tls_session_version(ends[SERVER].session), version);
        unsigned char text[100] = "text";
        struct tls_out out = {ends[CLIENT].wire, WIRE_MAX, ends[CLIENT].wire_size};
        int r = tls_session_seal(ends[CLIENT].session, text, sizeof(text), &out);
        ends[CLIENT].wire_size = out.size;
        if (r == 0)
            r = tls_pair_deliver(CLIENT, WIRE_MAX);
        cr_assert(r == 0 || has_failed);
        cr_assert(r < 0 || (ends[SERVER].plain_size == sizeof(text) &&
                            memcmp(ends[SERVER].plain, text, sizeof(text)) == 0));
    }
    return has_failed;
}

static void expect_failures(int version, bool resumes)
{
    connect_contexts(version);
    tls_pair_connect(WIRE_MAX);
    /* A handshake allocates some thousand times: each of the first, then every so many-th. */
    unsigned int n = 1;
    while (connect_failing(n, version, resumes)) {
        is_paused = true;
        n += 1 + n / STRIDE_PART;
    }
    is_paused = true;
    cr_expect_gt(n, 400);
}

Test(tls_memory, session_without_memory_1_2)
{
    expect_failures(TLS1_2_VERSION, false);
}

/* Its session is used again and again. */
Test(tls_memory, resumption_without_memory_1_2)
{
    expect_failures(TLS1_2_VERSION, true);
}

Test(tls_memory, session_without_memory_1_3)
{
    expect_failures(TLS1_3_VERSION, false);
}

Test(tls_memory, our_session_without_memory)
{
    connect_contexts(TLS1_3_VERSION);
    /* What is held of a ClientHello. */
    tls_pair_sessions();
    tls_pair_step(CLIENT, 0);
    size_t used = 0;
    struct tls_out out = {ends[SERVER].wire, WIRE_MAX, 0};
    alloc_fail_nth(1);
    cr_expect_eq(tls_session_handshake(ends[SERVER].session, ends[CLIENT].wire, 10, &used, &out),
                 -ENOMEM);
    cr_expect(alloc_has_failed());
    struct tls_session *session = NULL;
    alloc_fail_nth(1);
    cr_expect_eq(tls_session_create(ends[SERVER].context, 0, &session), -ENOMEM);
    cr_expect(alloc_has_failed());
    cr_expect_null(session);
}
