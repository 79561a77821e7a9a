/* A program that was built without OpenSSL's headers: the static one. */
#include <stdio.h>

#include "crypto/tls.h"

int tls_context_create(const struct tls_settings *settings, struct tls_context **ret, char *why,
                       size_t why_size)
{
    (void)settings;
    (void)ret;
    (void)snprintf(why, why_size,
                   "this rathole-uring was built without TLS (the static binary is): install the "
                   "package, or build it where OpenSSL's headers are (libssl-dev)");
    return -ENOTSUP;
}
