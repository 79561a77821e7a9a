/* The two ends of an encrypted connection, without a socket: keys that fit each other, and what a
 * handshake leaves. [0] is the initiator, a tunnel's client. Keys come from the kernel's
 * randomness; what tests check does not depend on them. */
#pragma once

#include "net/noise_link.h"

void noise_ends_keys(struct noise_keys keys[2], enum noise_pattern pattern);
/* Two ends after a handshake. Aborts the program on failure. */
void noise_ends_connect(struct noise_link *links[2], struct noise_engine *engine,
                        enum noise_pattern pattern);
/* A frame as another implementation may send it: size is 1 to NOISE_PAYLOAD_MAX (0, too, for what
 * must be refused). Returns the bytes in out. */
size_t noise_ends_frame(struct noise_link *link, struct noise_engine *engine, const void *plain,
                        size_t size, unsigned char *out);
