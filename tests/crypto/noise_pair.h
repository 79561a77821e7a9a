/* A handshake between two sides of ours, for the tests of Noise. There is one pair, `pair`; each
 * test runs in a process of its own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/aead.h"
#include "crypto/noise.h"

enum { PATTERN_COUNT = NOISE_KK + 1, SIDE_COUNT = 2, INITIATOR = 0, RESPONDER = 1 };

/* The longest handshake message, and some payload. */
enum { BUFFER_SIZE = NOISE_HANDSHAKE_MESSAGE_MAX + 64 };

struct side {
    struct noise_keys keys;
    struct noise_handshake handshake;
    struct noise_cipher send, receive;
};

/* Two sides that know each other's keys, as far as their pattern needs it. */
struct pair {
    struct side sides[SIDE_COUNT];
    struct aead *aead;
    uint8_t message[BUFFER_SIZE];
    int size;
};

extern struct pair pair;

/* For TestSuite. */
void pair_set_up(void);
void pair_tear_down(void);

/* New keys, and both handshakes before their first message. */
void pair_begin(enum noise_pattern pattern);
/* The same with the keys as they are. */
void pair_begin_with_prologues(const char *first, const char *second);
/* Knows, in XX, whom to expect. */
void pair_pin(size_t side, const uint8_t public_key[static NOISE_KEY_SIZE]);

/* Whose turn it is to write, and the other one. */
struct noise_handshake *pair_writer(void);
struct noise_handshake *pair_reader(void);
/* The next message, with an empty payload, goes to pair.message. From then on pair_reader() is
 * another one. */
void pair_write(void);
/* Of pair.message. */
int pair_read(struct noise_handshake *handshake);
/* Both, from the one to the other. */
void pair_pass(void);
/* Calls do_with with the handshake just before each message of each pattern. */
void pair_before_each_message(void (*do_with)(enum noise_pattern pattern, size_t message));

bool pair_is_done(void);
void pair_split(void);
/* A whole handshake. */
void pair_connect(enum noise_pattern pattern);
/* After it: both ways, several messages, in place and not. */
void pair_talk(struct aead *aead);
