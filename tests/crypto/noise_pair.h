/* A handshake between two sides of ours, for the Noise tests. They share one `pair`: each test runs
 * in its own process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/aead.h"
#include "crypto/noise.h"

enum { PATTERN_COUNT = NOISE_KK + 1, SIDE_COUNT = 2, INITIATOR = 0, RESPONDER = 1 };

/* Holds the longest handshake message and some payload. */
enum { BUFFER_SIZE = NOISE_HANDSHAKE_MESSAGE_MAX + 64 };

struct side {
    struct noise_keys keys;
    struct noise_handshake handshake;
    struct noise_cipher send, receive;
};

/* The two sides know each other's keys as far as the pattern requires. */
struct pair {
    struct side sides[SIDE_COUNT];
    struct aead *aead;
    uint8_t message[BUFFER_SIZE];
    int size;
};

extern struct pair pair;

/* The .init and .fini of a TestSuite. */
void pair_set_up(void);
void pair_tear_down(void);

/* Makes new keys, and starts both handshakes. */
void pair_begin(enum noise_pattern pattern);
/* Starts both handshakes with the keys as they are. */
void pair_begin_with_prologues(const char *first, const char *second);
/* Configures the peer's key on that side, for XX. */
void pair_pin(size_t side, const uint8_t public_key[static NOISE_KEY_SIZE]);

/* The side whose turn it is to write, and the other one. */
struct noise_handshake *pair_writer(void);
struct noise_handshake *pair_reader(void);
/* Writes the next message, with an empty payload, to pair.message. Take pair_reader() before: the
 * sides change their turn. */
void pair_write(void);
/* Reads pair.message. */
int pair_read(struct noise_handshake *handshake);
/* pair_write and pair_read by the other side. */
void pair_pass(void);
/* Calls do_with before each message of each pattern; it has to write and read that message. */
void pair_before_each_message(void (*do_with)(enum noise_pattern pattern, size_t message));

bool pair_is_done(void);
void pair_split(void);
/* A whole handshake and the split. */
void pair_connect(enum noise_pattern pattern);
/* Then: messages of several sizes in both directions, in place and not. */
void pair_talk(struct aead *aead);
