/* Each allocation of the layer fails once, which has to give an error and nothing else (a sanitizer
 * build also sees leaks and double frees). The linker wraps the C library's functions with those
 * below. */
#include <criterion/criterion.h>
#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "config/config.h"
#include "config/config_copy.h"

static unsigned int countdown; /* the allocation that counts it down to 0 fails; 0 = off */
static bool has_failed;

static bool must_fail(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    has_failed = true;
    errno = ENOMEM;
    return true;
}

/* Counts freed blocks that still hold a secret. */
static const char secret[] = "HUSH-HUSH";
static const char secret_text[] = "SFVTSC1IVVNI"; /* the same in base64 */
static bool is_watching;
static unsigned int freed_count, leaked_count;

void __real_free(void *block);
void __wrap_free(void *block);
void __wrap_free(void *block)
{
    if (is_watching && block != NULL) {
        freed_count++;
        size_t size = malloc_usable_size(block);
        if (memmem(block, size, secret, strlen(secret)) != NULL ||
            memmem(block, size, secret_text, strlen(secret_text)) != NULL)
            leaked_count++;
    }
    __real_free(block);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return must_fail() ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return must_fail() ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
    return must_fail() ? NULL : __real_realloc(old, size);
}

char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    return must_fail() ? NULL : __real_strdup(text);
}

char *__real_strndup(const char *text, size_t size);
char *__wrap_strndup(const char *text, size_t size);
char *__wrap_strndup(const char *text, size_t size)
{
    return must_fail() ? NULL : __real_strndup(text, size);
}

int __wrap_vasprintf(char **ret, const char *format, va_list args) PRINTF_FORMAT(2, 0);
int __real_vasprintf(char **ret, const char *format, va_list args) PRINTF_FORMAT(2, 0);
int __wrap_vasprintf(char **ret, const char *format, va_list args)
{
    return must_fail() ? -1 : __real_vasprintf(ret, format, args);
}

int __wrap_asprintf(char **ret, const char *format, ...) PRINTF_FORMAT(2, 3);
int __wrap_asprintf(char **ret, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = must_fail() ? -1 : __real_vasprintf(ret, format, args);
    va_end(args);
    return length;
}

/* With _FORTIFY_SOURCE these are called instead. */
int __wrap___vasprintf_chk(char **ret, int flag, const char *format, va_list args)
    PRINTF_FORMAT(3, 0);
int __wrap___vasprintf_chk(char **ret, int flag, const char *format, va_list args)
{
    (void)flag;
    return must_fail() ? -1 : __real_vasprintf(ret, format, args);
}

int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...) PRINTF_FORMAT(3, 4);
int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...)
{
    va_list args;
    (void)flag;
    va_start(args, format);
    int length = must_fail() ? -1 : __real_vasprintf(ret, format, args);
    va_end(args);
    return length;
}

/* Loads the text (path NULL) or the file (its server half) with each allocation failing in turn. */
static void fail_each(const char *path, const char *text, int expected)
{
    unsigned int allocations = 0;
    do {
        struct config *config = NULL;
        struct config_report report;
        has_failed = false;
        countdown = ++allocations;
        int result = path != NULL ? config_load_half(path, CONFIG_SERVER, &config, &report)
                                  : config_parse("f", text, strlen(text), &config, &report);
        countdown = 0;
        if (!has_failed)
            cr_expect_eq(result, expected);
        else if (expected != 0)
            cr_expect_lt(result, 0, "allocation %u", allocations);
        cr_expect_eq(result == 0, config != NULL, "allocation %u", allocations);
        if (result == 0)
            config_check("/", config, &report);
        config_destroy(config);
        config_report_finish(&report);
    } while (has_failed);
    cr_expect_gt(allocations, 2);
}

/* The 32 bytes of this key begin with HUSH-HUSH. */
#define KEY "local_private_key=SFVTSC1IVVNILXRoaXMga2V5IGlzIG5vdCBvbmUuLi4=\n"

static const char good[] = "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\nheartbeat_interval=0\n"
                           "[server.services.a]\nbind_addr=1.2.3.4:2\nudp_timeout=1\n"
                           "[server.services.b]\nbind_addr=h:2\ntoken=env:PATH\n"
                           "[server.services.r]\nbind_addr=h:9\nsni=a,*.b.c\n"
                           "[server.services.q]\nbind_addr=h:9\nhost=a\ndefault=true\n"
                           "[server.services]\nc.bind_addr=::1:2\nd={bind_addr=h:3}\nc.token=x\n"
                           "[server.transport.tcp]\nkeepalive_secs=86400\n"
                           "[server.transport.noise]\npattern=x\nlocal_private_key=x\n"
                           "[client]\nremote_addr=h:1\nretry_interval=0\n"
                           "[client.services.a]\nlocal_addr=h:2\ntoken=x\n"
                           "[client.services.\"g{port}\"]\nlocal_addr=h:7-9\ntoken=y\n"
                           "[client.services.b]\nlocal_addr=h:3\ntoken=z\n"
                           "[client.transport]\ntype=noise\n[client.transport.noise]\n"
                           "pattern=Noise_XX_25519_ChaChaPoly_BLAKE2s\n" KEY;
static const char bad[] = "[server]\nbind_addr=22\nx=1\ny\ntoken=t\n[server.services.a]\n"
                          "[server.services.a]\nbind_addr=1.2.3.4:2\nbind_addr=5\n[x]\n"
                          "[client]\ndefault_token=file:${CREDENTIALS_DIRECTORY}/x\n"
                          "[client.transport]\ntype=noise\n[client.transport.noise]\n" KEY
                          "remote_public_key=file:${CREDENTIALS_DIRECTORY}/x\n";

static const char good_tls[] =
    "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\n[server.services.a]\nbind_addr=h:2\n"
    "[server.transport]\ntype=tls\ntls.pkcs12=p\ntls.pkcs12_password=w\ntls.client_ca=c\n"
    "[client]\nremote_addr=h:1\ndefault_token=t\n[client.services.a]\nlocal_addr=h:2\n"
    "[client.transport]\ntype=websocket\nwebsocket.tls=true\ntls.hostname=h\n"
    "tls.trusted_root=${CREDENTIALS_DIRECTORY}/r\n"
    "tls.certificate=c\ntls.private_key=k\ntcp.proxy=\"http://u:p@h:1/x\"\n";
static const char bad_tls[] =
    "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\n[server.services.a]\nbind_addr=h:2\n"
    "[server.transport]\ntype=tls\ntls.pkcs12=p\ntls.certificate=c\n"
    "[client]\nremote_addr=h:1\ndefault_token=t\n[client.services.a]\nlocal_addr=h:2\n"
    "[client.transport]\ntype=websocket\nwebsocket.tls=true\ntls.hostname=h:1\n"
    "tcp.proxy=\"socks5://u:p@h\"\n";

Test(memory, good_file_with_tls)
{
    (void)setenv("CREDENTIALS_DIRECTORY", "/nonexistent", 1);
    fail_each(NULL, good_tls, 0);
}

Test(memory, bad_file_with_tls)
{
    fail_each(NULL, bad_tls, ERR_CONFIG);
}

/* A copy is whole, or there is none. */
Test(memory, copy_of_a_peer)
{
    (void)setenv("CREDENTIALS_DIRECTORY", "/nonexistent", 1);
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("f", good_tls, strlen(good_tls), &config, &report), 0);
    config_report_finish(&report);
    unsigned int allocations = 0;
    do {
        const struct config_peer *copy = NULL;
        has_failed = false;
        countdown = ++allocations;
        int result = config_peer_copy(&config->client, &copy);
        countdown = 0;
        cr_expect_eq(result, has_failed ? -ENOMEM : 0);
        cr_expect_eq(copy != NULL, result == 0);
        config_peer_free(copy);
    } while (has_failed);
    cr_expect_eq(allocations, 8, "the object, six texts, and none");
    config_destroy(config);
}

Test(memory, good_file)
{
    fail_each(NULL, good, 0);
}

Test(memory, bad_file)
{
    (void)setenv("CREDENTIALS_DIRECTORY", "/nonexistent", 1);
    fail_each(NULL, bad, ERR_CONFIG);
}

/* The client's half is dropped, and its secrets are wiped. */
Test(memory, half_of_a_file)
{
    static const char text[] = "[server]\nbind_addr=h:1\ndefault_token=HUSH-HUSH\n"
                               "[server.services.a]\nbind_addr=h:2\n"
                               "[client]\nremote_addr=h:3\ndefault_token=env:RU_NO_SUCH_TOKEN\n"
                               "[client.transport]\ntype=tls\n"
                               "[client.services.a]\nlocal_addr=h:4\ntoken=HUSH-HUSH\n";
    char path[] = "/tmp/test_memory_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    is_watching = true;
    fail_each(path, NULL, 0);
    is_watching = false;
    cr_expect_eq(leaked_count, 0);
    (void)unlink(path);
}

Test(memory, lists_of_addresses)
{
    char path[] = "/tmp/test_memory_XXXXXX", text[512];
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "10.0.0.0/8\n::1\n", 15), 15);
    (void)close(fd);
    (void)snprintf(text, sizeof text,
                   "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\nallow=::/0\n"
                   "[server.services.a]\nbind_addr=1.2.3.4:2\nallow=10.0.0.0/8,file:%s\n"
                   "deny=[\"10.0.0.0/9\"]\n",
                   path);
    fail_each(NULL, text, 0);
    (void)snprintf(text, sizeof text,
                   "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\n[server.services.a]\n"
                   "bind_addr=1.2.3.4:2\nallow=10.0.0.0/8,x\ndeny=file:%s/x,::1\n",
                   path);
    fail_each(NULL, text, ERR_CONFIG);
    (void)unlink(path);
}

Test(memory, file_of_frp)
{
    fail_each(NULL, "[common]\nbind_port = 7000\n", ERR_CONFIG);
}

Test(memory, unreadable_file)
{
    fail_each("/nonexistent", NULL, -ENOENT);
}

static void check_wiped(const char *path, int expected)
{
    struct config *config = NULL;
    struct config_report report;
    freed_count = leaked_count = 0;
    is_watching = true;
    cr_expect_eq(config_load(path, &config, &report), expected);
    config_destroy(config);
    config_report_finish(&report);
    is_watching = false;
    cr_expect_gt(freed_count, 2);
    cr_expect_eq(leaked_count, 0);
}

Test(memory, secrets_are_wiped)
{
    static const char text[] = "[server]\nbind_addr=h:1\ndefault_token=HUSH-HUSH\n"
                               "[server.services.a]\nbind_addr=h:2\n"
                               "[server.services.b]\nbind_addr=h:3\ntoken=\"\\u0048USH-HUSH\"\n"
                               "[server.services.c]\nbind_addr=h:4\ntoken=env:RU_TEST_TOKEN\n"
                               "[server.services]\nd.token=\"\"\"\nHUSH-\\\n HUSH\"\"\"\n"
                               "d.bind_addr=h:6\ne={bind_addr=h:7,token=HUSH-HUSH}\n"
                               "[server.transport.noise]\n" KEY "[server.transport]\ntype=noise\n"
                               "tls.pkcs12_password=HUSH-HUSH\n";
    char path[] = "/tmp/test_memory_XXXXXX", more[512];
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)setenv("RU_TEST_TOKEN", secret, 1);
    check_wiped(path, 0);
    /* A token from a file: this one, which holds the secret as well. */
    int length =
        snprintf(more, sizeof more,
                 "[server.services.f]\nbind_addr=h:5\ntoken=file:%s\n"
                 "[client]\nremote_addr=h:1\n"
                 "[client.transport.noise]\n" KEY /* ignored: the type is tls */
                 "[client.transport]\ntype=tls\ntls.pkcs12=p\n"
                 "tls.pkcs12_password=HUSH-HUSH\ntcp.proxy=http://HUSH-HUSH:HUSH-HUSH@h:1\n",
                 path);
    cr_assert_eq(write(fd, more, (size_t)length), length);
    check_wiped(path, 0);
    /* A half-built object is wiped as well. */
    cr_assert_eq(write(fd, "[x]\n", 4), 4);
    check_wiped(path, ERR_CONFIG);
    (void)close(fd);
    (void)unlink(path);
}

/* Without a countdown the wrappers change nothing. */
Test(memory, nothing_fails_when_nothing_is_asked_to)
{
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("f", good, strlen(good), &config, &report), 0);
    config_destroy(config);
    config_report_finish(&report);
}
