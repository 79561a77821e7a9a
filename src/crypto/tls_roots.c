/* The system's roots, as OpenSSL finds them: a file, and directories of openssl-rehash(1). They are
 * read at once, because a worker that checks a certificate may open no file; and once for all
 * contexts, because it takes some 100 ms of the main thread. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "crypto/keys.h"
#include "tls_priv.h"

static STACK_OF(X509) * kept;
static uint64_t kept_mark;

static const char *roots_file(void)
{
    const char *given = secure_getenv(openssl.X509_get_default_cert_file_env());
    return given != NULL ? given : openssl.X509_get_default_cert_file();
}

/* A list, to be freed. */
static char *roots_directories(void)
{
    const char *given = secure_getenv(openssl.X509_get_default_cert_dir_env());
    return strdup(given != NULL ? given : openssl.X509_get_default_cert_dir());
}

/* What shows that something is replaced: for a directory, that a name was added or removed. */
static uint64_t mark_path(const char *path, uint64_t before)
{
    struct stat about = {0};
    (void)stat(path, &about);
    const uint64_t facts[] = {before,
                              about.st_dev,
                              about.st_ino,
                              (uint64_t)about.st_size,
                              (uint64_t)about.st_mtim.tv_sec,
                              (uint64_t)about.st_mtim.tv_nsec};
    return keys_hash(facts, sizeof(facts));
}

uint64_t tls_roots_mark(void)
{
    if (openssl_load_tls() < 0)
        return 0;
    uint64_t mark = mark_path(roots_file(), 0);
    CLEANUP_FREE char *directories = roots_directories();
    char *rest = directories, *directory;
    while ((directory = strsep(&rest, ":")) != NULL)
        mark = mark_path(directory, mark);
    return mark;
}

/* Has the sandbox leave it to us, and says why it can't be read. What is not there is not used. */
static void roots_remember(const char *path)
{
    int fd = files_open(path);
    if (fd >= 0)
        (void)close(fd);
    else if (fd != -ENOENT)
        log_error("tls: the system's roots: '%s': %s", path, error_text(fd));
}

/* Whether it is named after its certificate's hash: "5ed36f99.0". */
static bool is_hash_name(const char *name)
{
    return strspn(name, "0123456789abcdef") == 8 && name[8] == '.' &&
           isdigit((unsigned char)name[9]);
}

/* A file that is no certificate is of no use to OpenSSL either. The names are links: one of each
 * directory that they lead to is remembered. */
static void read_directory(X509_STORE *store, const char *directory)
{
    char path[PATH_MAX], real[PATH_MAX], last[PATH_MAX] = "";
    const struct dirent *entry;
    if (snprintf(path, sizeof(path), "%s/.", directory) < (int)sizeof(path))
        roots_remember(path);
    DIR *names = opendir(directory);
    while (names != NULL && (entry = readdir(names)) != NULL) {
        if (!is_hash_name(entry->d_name) ||
            snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name) >= (int)sizeof(path))
            continue;
        if (realpath(path, real) != NULL) {
            *strrchr(real, '/') = '\0';
            if (strcmp(real, last) != 0)
                roots_remember(path);
            memcpy(last, real, sizeof(last));
        }
        (void)openssl.X509_STORE_load_file(store, path);
    }
    if (names != NULL)
        (void)closedir(names);
}

static int read_roots(SSL_CTX *ssl_ctx, const struct tls_why *why)
{
    X509_STORE *store = openssl.SSL_CTX_get_cert_store(ssl_ctx);
    roots_remember(roots_file());
    if (openssl.SSL_CTX_set_default_verify_file(ssl_ctx) != 1)
        return tls_error_say(why, -ENOMEM, "the system's roots can't be used: %s",
                             tls_error_last());
    CLEANUP_FREE char *directories = roots_directories();
    char *rest = directories, *directory;
    if (directories == NULL)
        return tls_error_say(why, -ENOMEM, "out of memory");
    while ((directory = strsep(&rest, ":")) != NULL)
        read_directory(store, directory);
    openssl.OPENSSL_sk_pop_free((OPENSSL_STACK *)kept, (OPENSSL_sk_freefunc)openssl.X509_free);
    kept = openssl.X509_STORE_get1_all_certs(store); /* NULL: without memory; then read again */
    return 0;
}

int tls_roots_trust(SSL_CTX *ssl_ctx, const struct tls_why *why)
{
    uint64_t mark =
        tls_roots_mark(); /* before they are read, or a change meanwhile would be lost */
    int r = 0;
    if (kept == NULL || mark != kept_mark) {
        r = read_roots(ssl_ctx, why);
        kept_mark = mark;
    } else {
        X509_STORE *store = openssl.SSL_CTX_get_cert_store(ssl_ctx);
        int count = openssl.OPENSSL_sk_num((const OPENSSL_STACK *)kept);
        for (int i = 0; i < count && r == 0; i++) {
            X509 *root = openssl.OPENSSL_sk_value((const OPENSSL_STACK *)kept, i);
            if (openssl.X509_STORE_add_cert(store, root) != 1)
                r = tls_error_say(why, -ENOMEM, "out of memory");
        }
    }
    openssl.ERR_clear_error();
    return r;
}
