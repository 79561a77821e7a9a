/* A TLS ClientHello as it comes (RFC 8446 sections 4.1.2 and 5.1), perhaps spread over several
 * records: whether it is whole, and the name of the server that it is for. Nothing is decrypted,
 * and no TLS library is needed. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/host_name.h"
#include "base/macros.h"

enum { CLIENT_HELLO_FIRST_BYTE = 22 /* a handshake record */ };

enum client_hello {
    CLIENT_HELLO_MORE, /* so far it is one */
    CLIENT_HELLO_WHOLE,
    CLIENT_HELLO_NONE,      /* this is something else */
    CLIENT_HELLO_TOO_LARGE, /* larger than LIMIT_TLS_HELLO */
};

/* Looks at the beginning of a stream. CLIENT_HELLO_MORE: *ret_needed is a number of bytes below
 * which another look would say the same. */
enum client_hello client_hello_look(const uint8_t *bytes, size_t size, size_t *ret_needed);

/* Writes the server_name (RFC 6066 section 3) of a whole ClientHello in its one form. -ENOENT: it
 * has none. -EINVAL: the ClientHello, or the name, is broken. */
MUST_CHECK int client_hello_server_name(const uint8_t *bytes, size_t size,
                                        char out[static HOST_NAME_SIZE]);
