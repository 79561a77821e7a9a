/* Ephemeral keys, transport keys and login nonces of many handshakes in one process: none comes twice.
 * TEST_HANDSHAKES: how many; a million in the suite `robust`. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"
#include "crypto/noise.h"
#include "noise_pair.h"
#include "testing.h"

/* Of each value the first half: among millions the chance that two of these are equal is 1 in 10^24. */
enum { PART_SIZE = 16, PARTS = 5, HANDSHAKES = 1000, TIME_LIMIT_S = 7200 };

static int compare_parts(const void *a, const void *b)
{
    return memcmp(a, b, PART_SIZE);
}

static void handshake_once(uint8_t parts[PARTS][PART_SIZE])
{
    uint8_t nonce[KEYS_NONCE_SIZE];
    pair_begin_with_prologues("", "");
    for (size_t message = 0; !noise_handshake_done(&pair.sides[INITIATOR].handshake); message++) {
        struct noise_handshake *to = pair_reader();
        pair.size = noise_handshake_write(pair_writer(), pair.aead, NULL, 0, pair.message,
                                          sizeof(pair.message));
        if (pair.size < PART_SIZE || pair_read(to) != 0)
            cr_assert_fail("message %zu", message);
        memcpy(parts[message], pair.message, PART_SIZE); /* each of NK begins with a key */
    }
    noise_handshake_split(&pair.sides[INITIATOR].handshake, &pair.sides[INITIATOR].send,
                          &pair.sides[INITIATOR].receive, NULL);
    memcpy(parts[2], pair.sides[INITIATOR].send.key, PART_SIZE);
    memcpy(parts[3], pair.sides[INITIATOR].receive.key, PART_SIZE);
    keys_random(nonce, sizeof(nonce)); /* as src/server/login.c makes one */
    memcpy(parts[4], nonce, PART_SIZE);
}

Test(noise_unique, no_key_and_no_nonce_comes_twice, .init = pair_set_up, .fini = pair_tear_down,
     .timeout = TIME_LIMIT_S)
{
    size_t handshakes = env_number("TEST_HANDSHAKES", seeds_of(HANDSHAKES));
    size_t count = handshakes * PARTS, equal = 0;
    uint8_t(*parts)[PART_SIZE] = calloc(count, PART_SIZE);
    cr_assert_not_null(parts);
    pair_begin(NOISE_NK);
    for (size_t i = 0; i < handshakes; i++)
        handshake_once(parts + i * PARTS);
    qsort(parts, count, PART_SIZE, compare_parts);
    for (size_t i = 1; i < count; i++)
        equal += memcmp(parts[i - 1], parts[i], PART_SIZE) == 0;
    cr_expect_eq(equal, 0, "%zu of %zu came twice", equal, count);
    free(parts);
}
