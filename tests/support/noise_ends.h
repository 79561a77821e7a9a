/* Two ends of an encrypted connection, without a socket: matching keys, and the links after a
 * handshake. [0] is the initiator, which is the client of a tunnel. Keys are random; tests do not
 * depend on their values. */
#pragma once

#include "net/noise_link.h"

static inline struct noise_link *noise_of(struct link *link)
{
    return container_of(link, struct noise_link, link);
}

void noise_ends_keys(struct noise_keys keys[2], enum noise_pattern pattern);
/* Two ends after a handshake. Aborts the program on failure. */
void noise_ends_connect(struct link *links[2], struct link_engine *engine,
                        enum noise_pattern pattern);
/* Writes a frame of any size that another implementation may send: 1 to NOISE_PAYLOAD_MAX bytes of
 * plaintext, or 0, which must be refused. Returns the bytes in out. */
size_t noise_ends_frame(struct link *link, struct link_engine *engine, const void *plain,
                        size_t size, unsigned char *out);
