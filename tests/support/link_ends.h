/* Two ends of a coded connection of each kind (net/link.h), without a socket. Link the program with
 * noise_ends.c and tls_pki.c. */
#pragma once

#include "net/link.h"
#include "testing.h"

enum link_kind { KIND_TLS, KIND_WEBSOCKET, KIND_WEBSOCKET_TLS, LINK_KINDS };

/* Makes and frees the TLS contexts, once for all tests of a process. */
void link_ends_set_up(void);
void link_ends_tear_down(void);
/* Two ends after a handshake: [0] is the client, [1] the server. Aborts the program on failure. */
void link_ends_connect(struct link *links[2], struct link_engine *engine, enum link_kind kind);

/* The generator that link_ends_seal draws from. */
void link_ends_set_seed(uint64_t seed);
/* Seals as other implementations may: small records, and messages of several frames, with pings and
 * empty frames between them. out has LINK_BATCH_CODED bytes. size: at most LINK_ENDS_MAX. Returns
 * the bytes in out. */
enum { LINK_ENDS_MAX = 65519 };
size_t link_ends_seal(struct link *link, struct link_engine *engine, const unsigned char *plain,
                      size_t size, unsigned char *out);
