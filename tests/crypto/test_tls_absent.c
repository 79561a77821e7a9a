/* A machine without OpenSSL, and a build without its headers (WITHOUT_HEADERS: with tls_none.c). */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "crypto/tls.h"

#ifdef WITHOUT_HEADERS
#define WORDS "built without TLS"
#else
#define WORDS "install OpenSSL"
void *__wrap_dlopen(const char *file, int flags);
void *__real_dlopen(const char *file, int flags);

static const char *missing;

void *__wrap_dlopen(const char *file, int flags)
{
    return strcmp(file, missing) == 0 ? NULL : __real_dlopen(file, flags);
}
#endif

static void expect_none(void)
{
    static const struct tls_settings settings = {.hostname = "a.example"};
    struct tls_context *context = NULL;
    char why[TLS_WHY_SIZE] = "", little[10] = "";
    cr_expect_eq(tls_context_create(&settings, &context, why, sizeof(why)), -ENOTSUP);
    cr_expect_null(context);
    cr_expect_not_null(strstr(why, WORDS), "%s", why);
    cr_expect_eq(tls_context_create(&settings, &context, little, sizeof(little)), -ENOTSUP);
    cr_expect_eq(strlen(little), sizeof(little) - 1);
}

#ifdef WITHOUT_HEADERS
Test(tls_absent, in_the_program)
{
    expect_none();
}
#else
Test(tls_absent, libcrypto)
{
    missing = "libcrypto.so.3";
    expect_none();
}

Test(tls_absent, libssl)
{
    missing = "libssl.so.3";
    expect_none();
}
#endif
