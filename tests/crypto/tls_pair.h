/* A server's and a client's session of ours, joined in memory. Each test runs in its own process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "tls_pki.h"
#include "tls_priv.h"

enum { SERVER, CLIENT, ENDS };
enum { WIRE_MAX = 1 << 20 };

struct pair_end {
    struct tls_context *context;
    struct tls_session *session;
    int result;          /* of the handshake: 0, 1 or an error */
    unsigned char *wire; /* what this end has sent and the other has not taken yet */
    size_t wire_size;
    unsigned char *plain; /* what it has opened */
    size_t plain_size;
};

extern struct pair_end ends[ENDS];
/* The client's name for the server. */
extern uint64_t tls_pair_peer;
/* A root, a certificate of it for a.example, *.b.example, 192.0.2.7 and ::1, and a client's. */
extern struct pki_cert root, leaf, client_leaf;

/* The .init and .fini of a TestSuite. */
void tls_pair_set_up(void);
void tls_pair_tear_down(void);

/* Settings that work: PEM for the server; a.example and the root for the client. */
struct tls_settings tls_pair_server(void);
struct tls_settings tls_pair_client(void);
/* Makes a context, which has to work. Replaces the end's context. */
void tls_pair_context(int end, const struct tls_settings *settings);
/* New sessions of the two contexts. */
void tls_pair_sessions(void);
/* Both handshakes, with what is sent cut into pieces of `chunk` bytes. True: both are done. */
bool tls_pair_shake(size_t chunk);
/* The same after the client's first step. */
bool tls_pair_shake_on(size_t chunk);
/* tls_pair_sessions and tls_pair_shake, which has to work. */
void tls_pair_connect(size_t chunk);
/* One step of an end, with so many of the bytes that the other has sent. */
void tls_pair_step(int end, size_t chunk);

/* Seals, opens and compares. */
void tls_pair_send(int from, const void *plain, size_t size);
/* What is on the wire is opened by the other end, in pieces. Returns 0 or the error. */
int tls_pair_deliver(int from, size_t chunk);
void tls_pair_end(int from);
