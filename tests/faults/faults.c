/* The plan of faults: rules and seeds, and what has happened. */
#include "faults.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RULES_MAX = 8 };

struct rule {
    enum fault_call call;
    unsigned int failure;
    uint64_t nth, count;
    _Atomic uint64_t uses;
};

static struct rule rules[RULES_MAX];
static _Atomic unsigned int rule_count;
static uint64_t draw_seed;
static _Atomic unsigned int draw_permille;
static enum fault_call draw_only;
static _Atomic uint64_t uses[FAULT_CALL_COUNT], happened;
static bool is_told;
static __thread bool is_exempt;

void faults_exempt(bool exempt)
{
    is_exempt = exempt;
}

void faults_tell(bool tell)
{
    is_told = tell;
}

void faults_clear(void)
{
    atomic_store(&rule_count, 0);
    atomic_store(&draw_permille, 0);
    atomic_store(&happened, 0);
    for (unsigned int i = 0; i < FAULT_CALL_COUNT; i++)
        atomic_store(&uses[i], 0);
}

void faults_add(enum fault_call call, unsigned int failure, uint64_t nth, uint64_t count)
{
    unsigned int at = atomic_load(&rule_count);
    if (at == RULES_MAX)
        abort();
    rules[at].call = call;
    rules[at].failure = failure;
    rules[at].nth = nth;
    rules[at].count = count;
    atomic_store(&rules[at].uses, 0);
    atomic_store(&rule_count, at + 1);
}

void faults_draw(uint64_t seed, unsigned int permille, enum fault_call only)
{
    draw_seed = seed;
    draw_only = only;
    atomic_store(&draw_permille, permille);
}

struct fault_plan faults_plan(void)
{
    if (atomic_load(&rule_count) > 0)
        return (struct fault_plan){.call = rules[0].call, .failure = rules[0].failure};
    if (atomic_load(&draw_permille) > 0)
        return (struct fault_plan){.call = draw_only, .seed = draw_seed};
    return (struct fault_plan){.call = FAULT_CALL_COUNT};
}

uint64_t faults_happened(void)
{
    return atomic_load(&happened);
}

uint64_t faults_uses(enum fault_call call)
{
    return atomic_load(&uses[call]);
}

void faults_wait(void)
{
    (void)usleep(FAULT_DELAY_MS * 1000);
}

static void tell(enum fault_call call, unsigned int failure, uint64_t n)
{
    char line[120];
    (void)atomic_fetch_add(&happened, 1);
    if (!is_told)
        return;
    int size = snprintf(line, sizeof(line), "fault: %s %s, use %llu\n", fault_call_name(call),
                        fault_name(failure), (unsigned long long)n);
    ssize_t written = write(STDERR_FILENO, line, (size_t)size);
    (void)written;
}

static bool is_one_of(unsigned int failure, unsigned int kinds)
{
    return (FAULT_BIT(fault_of(failure).what) & kinds) != 0;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Draws one of the failures that this use of the call can have. */
static struct fault drawn(enum fault_call call, unsigned int kinds, uint64_t n)
{
    unsigned int permille = atomic_load(&draw_permille), candidates = 0;
    uint64_t number = mix(draw_seed * 0x9e3779b97f4a7c15u + (uint64_t)call * 1000003 + mix(n));
    if (permille == 0 || (draw_only != FAULT_CALL_COUNT && draw_only != call) ||
        number % 1000 >= permille)
        return (struct fault){FAULT_NOTHING, 0};
    for (unsigned int i = 0; fault_name(i) != NULL; i++)
        candidates += fault_is_possible(call, i) && is_one_of(i, kinds) ? 1 : 0;
    if (candidates == 0)
        return (struct fault){FAULT_NOTHING, 0};
    uint64_t chosen = mix(number) % candidates;
    for (unsigned int i = 0; fault_name(i) != NULL; i++) {
        if (fault_is_possible(call, i) && is_one_of(i, kinds) && chosen-- == 0) {
            tell(call, i, n);
            return fault_of(i);
        }
    }
    return (struct fault){FAULT_NOTHING, 0};
}

struct fault faults_at(enum fault_call call, unsigned int kinds)
{
    if (is_exempt)
        return (struct fault){FAULT_NOTHING, 0};
    uint64_t n = atomic_fetch_add(&uses[call], 1) + 1;
    unsigned int count = atomic_load(&rule_count);
    for (unsigned int i = 0; i < count; i++) {
        struct rule *rule = &rules[i];
        if (rule->call != call || !is_one_of(rule->failure, kinds))
            continue;
        uint64_t use = atomic_fetch_add(&rule->uses, 1) + 1;
        if (use >= rule->nth && use - rule->nth < rule->count) {
            tell(call, rule->failure, use);
            return fault_of(rule->failure);
        }
    }
    return drawn(call, kinds, n);
}

/* ---- rules as text ---- */

static bool parse_call(const char *text, enum fault_call *ret)
{
    for (unsigned int i = 0; i < FAULT_CALL_COUNT; i++) {
        if (strcmp(fault_call_name((enum fault_call)i), text) == 0) {
            *ret = (enum fault_call)i;
            return true;
        }
    }
    return false;
}

static bool parse_rule(char *text)
{
    char *rest = text;
    const char *name = strsep(&rest, ":");
    const char *failure = strsep(&rest, ":");
    const char *nth = strsep(&rest, ":");
    const char *count = strsep(&rest, ":");
    enum fault_call call;
    if (failure == NULL || !parse_call(name, &call))
        return false;
    for (unsigned int i = 0; fault_name(i) != NULL; i++) {
        if (strcmp(fault_name(i), failure) == 0) {
            faults_add(call, i, nth != NULL ? strtoull(nth, NULL, 10) : 1,
                       count != NULL ? strtoull(count, NULL, 10) : 1);
            return true;
        }
    }
    return false;
}

static bool parse_seed(char *text)
{
    uint64_t seed = 0;
    unsigned int permille = 10;
    enum fault_call only = FAULT_CALL_COUNT;
    const char *word;
    while ((word = strsep(&text, ":")) != NULL) {
        if (strncmp(word, "seed=", 5) == 0)
            seed = strtoull(word + 5, NULL, 10);
        else if (strncmp(word, "permille=", 9) == 0)
            permille = (unsigned int)strtoul(word + 9, NULL, 10);
        else if (strncmp(word, "call=", 5) != 0 || !parse_call(word + 5, &only))
            return false;
    }
    faults_draw(seed, permille, only);
    return true;
}

bool faults_parse(const char *text)
{
    char copy[512];
    if (strlen(text) >= sizeof(copy))
        return false;
    (void)snprintf(copy, sizeof(copy), "%s", text);
    char *rest = copy, *word;
    while ((word = strsep(&rest, ",")) != NULL) {
        if (strncmp(word, "seed=", 5) == 0 ? !parse_seed(word) : !parse_rule(word))
            return false;
    }
    return true;
}
