/* Bounds what the time of a wrong Auth tells about the right one: 0 or 31 of its leading bytes right,
 * 10^5 of each, in random order, through the server's own server_fsm_received(). Welch's t-test of the
 * two sets has to give |t| < 4.5, as in dudect.
 *
 *     auth_timing           exit code 0: no difference on this machine; 1: one was measured
 *     auth_timing leaky     with a comparison that stops at the first wrong byte. 0: it was found
 *
 * It measures one machine at one moment. That no branch depends on a secret is shown by
 * scripts/check_constant_time. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crypto/keys.h"
#include "proto/message.h"
#include "proto/server_fsm.h"

enum {
    AUTHS = 100000,
    RIGHT = 31, /* of 32 bytes */
    /* Interrupts and other processes only add time. What is above this quantile of all samples is left
     * out of both sets. */
    KEPT_PERCENT = 90,
};
#define T_MAX 4.5

static bool is_leaky;

bool __real_keys_equal(const void *a, const void *b, size_t size);
bool __wrap_keys_equal(const void *a, const void *b, size_t size);
bool __wrap_keys_equal(const void *a, const void *b, size_t size)
{
    const volatile uint8_t *x = a, *y = b;
    if (!is_leaky)
        return __real_keys_equal(a, b, size);
    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i])
            return false;
    }
    return true;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The time that the server takes for an Auth of which so many leading bytes are right. */
static uint64_t auth_ns(size_t right)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[MESSAGE_DIGEST_SIZE] = {1};
    uint8_t nonce[MESSAGE_DIGEST_SIZE], auth[MESSAGE_AUTH_SIZE];
    struct server_fsm fsm;
    struct server_action action;
    keys_random(nonce, sizeof(nonce));
    server_fsm_init(&fsm);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    server_fsm_received(&fsm, hello, sizeof(hello), &action);
    server_fsm_service_found(&fsm, "a token", strlen("a token"), nonce, &action);
    memcpy(auth, fsm.expected, sizeof(auth));
    for (size_t i = 0; i < sizeof(auth); i++) /* both sets do the same work */
        auth[i] ^= (uint8_t)(i < right ? 0 : 0xff);
    uint64_t began = now_ns();
    server_fsm_received(&fsm, auth, sizeof(auth), &action);
    uint64_t took = now_ns() - began;
    if (action.type != SERVER_ACTION_SEND_AND_CLOSE) {
        fprintf(stderr, "auth_timing: a wrong Auth is not refused\n");
        exit(2);
    }
    server_fsm_finish(&fsm);
    return took;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct set {
    double n, mean, m2; /* Welford */
};

static void set_add(struct set *set, double value)
{
    double delta = value - set->mean;
    set->n++;
    set->mean += delta / set->n;
    set->m2 += delta * (value - set->mean);
}

static double welch_t(const struct set *a, const struct set *b)
{
    double variance = a->m2 / (a->n - 1) / a->n + b->m2 / (b->n - 1) / b->n;
    return variance > 0 ? (a->mean - b->mean) / sqrt(variance) : 0;
}

int main(int argc, char **argv)
{
    static uint64_t took[2 * AUTHS], sorted[2 * AUTHS];
    static uint8_t which[2 * AUTHS];
    struct set sets[2] = {0};
    is_leaky = argc > 1 && strcmp(argv[1], "leaky") == 0;
    if (keys_init() < 0)
        return 2;
    for (size_t i = 0; i < 2 * AUTHS; i += 2) { /* in pairs: as many of each, in random order */
        uint8_t coin;
        keys_random(&coin, 1);
        which[i] = coin & 1;
        which[i + 1] = !which[i];
    }
    for (size_t i = 0; i < 2 * AUTHS; i++)
        took[i] = auth_ns(which[i] ? RIGHT : 0);
    memcpy(sorted, took, sizeof(sorted));
    qsort(sorted, 2 * AUTHS, sizeof(sorted[0]), by_size);
    uint64_t longest = sorted[2 * AUTHS / 100 * KEPT_PERCENT];
    for (size_t i = 0; i < 2 * AUTHS; i++) {
        if (took[i] <= longest)
            set_add(&sets[which[i]], (double)took[i]);
    }
    double t = welch_t(&sets[0], &sets[1]);
    printf("auth_timing: %d Auths with 0 bytes right: %.2f ns, with %d: %.2f ns; t = %.2f\n", AUTHS,
           sets[0].mean, RIGHT, sets[1].mean, t);
    return (fabs(t) >= T_MAX) == is_leaky ? 0 : 1;
}
