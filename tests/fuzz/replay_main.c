/* Runs a fuzz target without libFuzzer, so that an ordinary test run exercises it:
 *
 *   fuzz_NAME CORPUS_DIR [MUTATIONS [SEED]]
 *
 * Runs each file of the directory, and then MUTATIONS changed copies of it. The changes depend only
 * on the seed and the file's name, so a failure can be reproduced; the handler prints the file and
 * the mutation. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"
#include "fuzz.h"

enum {
    INPUT_MAX = 64 << 10,
    FILES_MAX = 4096,
    CHANGES_MAX = 8, /* of one mutation */
};

struct input {
    char *name;
    uint8_t *bytes;
    size_t len;
};

static struct input inputs[FILES_MAX];
static size_t input_count;
static uint64_t random_state;
/* The current run, for the signal handler. */
static const char *running_name = "";
static unsigned long running_mutation;

static uint32_t random_below(size_t limit)
{
    /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    z ^= z >> 31;
    return limit == 0 ? 0 : (uint32_t)(z % limit);
}

static void seed_for(const char *name, uint64_t seed)
{
    random_state = seed;
    for (; *name != '\0'; name++)
        random_state = random_state * 31 + (unsigned char)*name;
}

static void report_and_die(int number)
{
    /* fprintf is not async-signal-safe, but the process is ending. */
    fprintf(stderr, "died in %s, mutation %lu (0 = the file itself)\n", running_name,
            running_mutation);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static void load(const char *directory, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    struct input *input = &inputs[input_count++];
    *input = (struct input){.name = strdup(name), .bytes = malloc(INPUT_MAX)};
    if (file == NULL || input->name == NULL || input->bytes == NULL) {
        perror(path);
        exit(1);
    }
    input->len = fread(input->bytes, 1, INPUT_MAX, file);
    (void)fclose(file);
}

static void load_corpus(const char *directory)
{
    DIR *dir = opendir(directory);
    if (dir == NULL) {
        perror(directory);
        exit(1);
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        if (input_count == FILES_MAX) {
            fprintf(stderr, "%s: more than %d files\n", directory, FILES_MAX);
            exit(1);
        }
        load(directory, entry->d_name);
    }
    (void)closedir(dir);
    /* readdir(3) gives an arbitrary order. */
    qsort(inputs, input_count, sizeof(inputs[0]), compare_names);
}

static size_t insert(uint8_t *bytes, size_t len, size_t at, const uint8_t *what, size_t what_len)
{
    what_len = MIN(what_len, INPUT_MAX - len);
    memmove(bytes + at + what_len, bytes + at, len - at);
    memcpy(bytes + at, what, what_len);
    return len + what_len;
}

static size_t insert_random(uint8_t *bytes, size_t len, size_t at)
{
    uint8_t random[8];
    for (size_t i = 0; i < sizeof(random); i++)
        random[i] = (uint8_t)random_below(256);
    return insert(bytes, len, at, random, 1 + random_below(sizeof(random)));
}

static size_t remove_some(uint8_t *bytes, size_t len, size_t at)
{
    size_t count = 1 + random_below(8);
    count = MIN(len - at, count);
    memmove(bytes + at, bytes + at + count, len - at - count);
    return len - count;
}

/* Inserts bytes of another file, or of the same one. */
static size_t splice(uint8_t *bytes, size_t len, size_t at)
{
    const struct input *other = &inputs[random_below(input_count)];
    size_t from = random_below(other->len);
    size_t count = random_below(other->len - from + 1);
    return insert(bytes, len, at, other->bytes + from, count);
}

static size_t mutate_once(uint8_t *bytes, size_t len)
{
    static const uint8_t notable[] = {0x00, 0x01, 0x02, 0x7f, 0x80, 0xff, '\n', ' ',
                                      '"',  '%',  '[',  ']',  ':',  '=',  '#',  '\\'};
    size_t at = random_below(len + 1);
    switch (random_below(6)) {
    case 0:
        if (at < len)
            bytes[at] ^= (uint8_t)(1u << random_below(8));
        return len;
    case 1:
        if (at < len)
            bytes[at] = notable[random_below(sizeof(notable))];
        return len;
    case 2:
        return insert_random(bytes, len, at);
    case 3:
        return remove_some(bytes, len, at);
    case 4:
        return splice(bytes, len, at);
    default:
        return random_below(4) == 0 ? at : len; /* sometimes truncate */
    }
}

/* Uses a heap block of exactly this size, so that a sanitizer sees a read behind it. */
static void run(const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len);
    if (exact == NULL && len > 0)
        abort();
    if (len > 0)
        memcpy(exact, bytes, len);
    (void)LLVMFuzzerTestOneInput(exact, len);
    free(exact);
}

static void replay(const struct input *input, unsigned long mutations, uint64_t seed)
{
    static uint8_t bytes[INPUT_MAX];
    running_name = input->name;
    running_mutation = 0;
    run(input->bytes, input->len);
    seed_for(input->name, seed);
    for (running_mutation = 1; running_mutation <= mutations; running_mutation++) {
        size_t len = input->len;
        memcpy(bytes, input->bytes, len);
        for (size_t changes = 1 + random_below(CHANGES_MAX); changes > 0; changes--)
            len = mutate_once(bytes, len);
        run(bytes, len);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s CORPUS_DIR [MUTATIONS [SEED]]\n", argv[0]);
        return 2;
    }
    unsigned long mutations = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    (void)signal(SIGABRT, report_and_die);
    (void)signal(SIGSEGV, report_and_die);

    load_corpus(argv[1]);
    if (input_count == 0) {
        fprintf(stderr, "%s: no seeds\n", argv[1]);
        return 1;
    }
    run((const uint8_t *)"", 0);
    for (size_t i = 0; i < input_count; i++)
        replay(&inputs[i], mutations, seed);
    printf("%zu files, %lu mutations of each\n", input_count, mutations);
    for (size_t i = 0; i < input_count; i++) {
        free(inputs[i].name);
        free(inputs[i].bytes);
    }
    return 0;
}
