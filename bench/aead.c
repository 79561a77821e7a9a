/* What the AEAD alone costs: seals and opens what a Noise link of this program seals and opens at a time,
 * with its backends and its buffers, and nothing else.
 *
 *     aead [SECONDS]     as long for all backends together (1)
 *
 * A JSON object: for each backend that there is, and for what the program itself would choose, the CPU
 * seconds of 10^9 bytes. "s_per_gb" is both together: in a tunnel a byte is sealed once and opened
 * once. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crypto/aead.h"
#include "crypto/keys.h"
#include "net/noise_link.h"

enum {
    CODED_FRAME = NOISE_FRAME_PAYLOAD + NOISE_FRAME_OVERHEAD,
    TURNS = 3 /* of each backend, interleaved; the best counts */
};

struct contender {
    const char *name;
    struct aead *aead; /* NULL: not here */
    double seal_s_per_gb, open_s_per_gb;
};

static unsigned char plain[NOISE_BATCH_FRAMES * NOISE_FRAME_PAYLOAD];
static unsigned char coded[NOISE_BATCH_CODED], opened[sizeof(plain)];
static uint8_t key[AEAD_KEY_SIZE];

static double cpu_seconds(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void seal_batch(struct aead *aead)
{
    for (uint64_t i = 0; i < NOISE_BATCH_FRAMES; i++)
        aead_seal(aead, key, i, NULL, 0, plain + i * NOISE_FRAME_PAYLOAD, NOISE_FRAME_PAYLOAD,
                  coded + i * CODED_FRAME + NOISE_FRAME_HEADER);
}

static void open_batch(struct aead *aead)
{
    for (uint64_t i = 0; i < NOISE_BATCH_FRAMES; i++) {
        if (aead_open(aead, key, i, NULL, 0, coded + i * CODED_FRAME + NOISE_FRAME_HEADER,
                      CODED_FRAME - NOISE_FRAME_HEADER, opened + i * NOISE_FRAME_PAYLOAD) < 0)
            abort(); /* it is what seal_batch made */
    }
}

static double s_per_gb(struct aead *aead, void (*batch)(struct aead *aead), double seconds)
{
    double start = cpu_seconds(), now, bytes = 0;
    do {
        batch(aead);
        bytes += sizeof(plain);
        now = cpu_seconds();
    } while (now - start < seconds);
    return (now - start) / bytes * 1e9;
}

static void lower(double *best, double value)
{
    if (*best == 0 || value < *best)
        *best = value;
}

static void measure(struct contender *contenders, size_t count, double seconds)
{
    double share = seconds / (double)(TURNS * count * 2);
    for (int turn = 0; turn < TURNS; turn++) {
        for (struct contender *it = contenders; it < contenders + count; it++) {
            if (it->aead == NULL)
                continue;
            lower(&it->seal_s_per_gb, s_per_gb(it->aead, seal_batch, share));
            lower(&it->open_s_per_gb, s_per_gb(it->aead, open_batch, share));
        }
    }
}

static void print(const struct contender *contenders, size_t count)
{
    printf("{\"choice\": \"%s\", \"record\": %d", aead_description(), NOISE_FRAME_PAYLOAD);
    for (const struct contender *it = contenders; it < contenders + count; it++) {
        if (it->aead != NULL)
            printf(
                ", \"%s\": {\"seal_s_per_gb\": %.4f, \"open_s_per_gb\": %.4f, \"s_per_gb\": %.4f}",
                it->name, it->seal_s_per_gb, it->open_s_per_gb,
                it->seal_s_per_gb + it->open_s_per_gb);
    }
    printf("}\n");
}

int main(int argc, char **argv)
{
    struct contender contenders[] = {{.name = "chosen"},
                                     {.name = "libsodium"},
                                     {.name = "libcrypto"}};
    char *end = NULL;
    double seconds = argc == 2 ? strtod(argv[1], &end) : 1;
    if (argc > 2 || (end != NULL && *end != '\0') || !(seconds > 0 && seconds <= 60)) {
        fprintf(stderr, "usage: aead [SECONDS]\n");
        return 2;
    }
    int r = keys_init();
    if (r == 0) {
        aead_setup();
        r = aead_create(&contenders[0].aead);
    }
    if (r == 0)
        r = aead_create_with(AEAD_SODIUM, &contenders[1].aead);
    if (r == 0) {
        keys_random(key, sizeof(key));
        keys_random(plain, sizeof(plain));
        r = aead_create_with(AEAD_LIBCRYPTO, &contenders[2].aead);
        if (r == -ENOTSUP)
            r = 0; /* this build or this machine does without */
    }
    if (r == 0) {
        size_t count = sizeof(contenders) / sizeof(contenders[0]);
        measure(contenders, count, seconds);
        print(contenders, count);
    } else {
        fprintf(stderr, "aead: %s\n", strerror(-r));
    }
    for (size_t i = 0; i < sizeof(contenders) / sizeof(contenders[0]); i++)
        aead_destroy(contenders[i].aead);
    return r == 0 ? 0 : 1;
}
