/* Every call and every failure that it can have, one at a time, under a whole tunnel (scenario.h).
 * What can't happen has its reason in faults_table.c; a pair with neither is an error, and so is one
 * whose fault did not happen. Each run is a process of its own, so a crash or a hang is seen.
 *
 *     test_faults [--full] [--seed N] [--only CALL:FAILURE] [--jobs N]
 *     test_faults --drawn N [--seed N]                    so many drawn runs alone
 *     test_faults --replay RULES plain|noise start|up     one run, with its log */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "faults.h"
#include "io/loop.h"
#include "scenario.h"
#include "testing.h"

enum {
    RUNS_MAX = 60000,
    RUN_SECONDS = 40, /* a hang */
    NTH_MAX = 4,      /* of each pair, at full size */
    JOBS_MAX = 16,
    VOID_ROUNDS_MAX = 2,
    EXIT_SKIP = 77,
};

/* What else happens, where a call would not be made otherwise. */
enum variant { ORDINARY, CROWDED, BLOCKED, LATE };

struct run {
    enum fault_call call;
    unsigned int failure;
    uint64_t nth, count;
    uint64_t seed; /* not 0: a drawn run */
    enum scenario_transport transport;
    enum variant variant;
    bool when_up;      /* counted from when the service is up, else from the start */
    const char *rules; /* of --replay; NULL: the above says it */
};

struct result {
    struct verdict verdict;
    uint64_t happened, took_ms;
    uint64_t at_up[FAULT_CALL_COUNT], in_all[FAULT_CALL_COUNT];
};

static struct run runs[RUNS_MAX];
static unsigned int run_count;
static struct result *results; /* shared with the children */
static int *logs;

/* ---- one run ---- */

static unsigned int failure_number(const char *name)
{
    for (unsigned int i = 0; fault_name(i) != NULL; i++) {
        if (strcmp(fault_name(i), name) == 0)
            return i;
    }
    abort();
}

/* Calls that are made only after another one has failed. */
static const struct companion {
    enum fault_call call, other;
    const char *failure;
    uint64_t count;
} companions[] = {
    {FAULT_SEND, FAULT_SEND_NOW, "EAGAIN", 12},
    {FAULT_SENDMSG, FAULT_SENDMMSG, "EIO", 100},
};

static const struct companion *companion_of(enum fault_call call)
{
    for (size_t i = 0; i < ARRAY_SIZE(companions); i++) {
        if (companions[i].call == call)
            return &companions[i];
    }
    return NULL;
}

static void add_companion(enum fault_call call)
{
    const struct companion *companion = companion_of(call);
    if (companion != NULL)
        faults_add(companion->other, failure_number(companion->failure), 1, companion->count);
}

static void plan(const struct run *run)
{
    faults_clear();
    if (run->rules != NULL) {
        if (!faults_parse(run->rules))
            abort(); /* replay_one has looked */
        return;
    }
    if (run->seed != 0) {
        faults_draw(run->seed, 10, run->call);
        return;
    }
    if (run->call == FAULT_CALL_COUNT)
        return; /* the run that only counts */
    faults_add(run->call, run->failure, run->nth, run->count);
    add_companion(run->call);
}

static void plan_before(void *arg)
{
    const struct run *run = arg;
    faults_clear();
    if (!run->when_up)
        plan(run);
}

static void plan_up(void *arg)
{
    const struct run *run = arg;
    for (unsigned int i = 0; i < FAULT_CALL_COUNT; i++)
        results[run - runs].at_up[i] = faults_uses((enum fault_call)i);
    if (run->when_up)
        plan(run);
}

static int run_in_child(struct run *run)
{
    struct result *result = &results[run - runs];
    uint64_t begun_ms = clock_monotonic_ms();
    (void)alarm(RUN_SECONDS);
    faults_tell(true);
    log_configure(run->rules != NULL ? LOG_DEBUG : LOG_INFO, LOG_TEXT);
    const struct scenario scenario = {
        .transport = run->transport,
        .crowded = run->variant == CROWDED,
        .blocked = run->variant == BLOCKED,
        .late = run->variant == LATE,
        .settles = run->seed != 0 ||
                   (run->call != FAULT_CALL_COUNT && fault_of(run->failure).what == FAULT_DELAY),
        .before = plan_before,
        .up = plan_up,
        .arg = run,
    };
    scenario_run(&scenario, &result->verdict);
    for (unsigned int i = 0; i < FAULT_CALL_COUNT; i++)
        result->in_all[i] = faults_uses((enum fault_call)i);
    result->happened = faults_happened();
    result->took_ms = clock_monotonic_ms() - begun_ms;
    return result->verdict.text[0] == '\0' ? 0 : 1;
}

static pid_t begin_run(unsigned int index)
{
    logs[index] = memfd_create("log", MFD_CLOEXEC);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(logs[index], STDERR_FILENO);
        _exit(run_in_child(&runs[index]));
    }
    return child;
}

/* ---- what is run ---- */

static enum variant variant_of(const struct run *run)
{
    if (run->seed != 0)
        return ORDINARY;
    switch ((int)run->call) {
    case FAULT_ACCEPT:
        return CROWDED;
    case FAULT_ACCEPT_MULTISHOT:
        return fault_of(run->failure).what == FAULT_SURPLUS ? CROWDED : ORDINARY;
    case FAULT_NOP:
    case FAULT_EPOLL_CREATE:
    case FAULT_EPOLL_ADD:
    case FAULT_EPOLL_WAIT:
        return BLOCKED;
    case FAULT_LOOK:
        return LATE;
    default:
        return ORDINARY;
    }
}

static void add(const struct run *run)
{
    if (run_count == RUNS_MAX)
        return;
    runs[run_count] = *run;
    runs[run_count++].variant = variant_of(run);
}

/* Which uses of a call fail: at full size each of the first, otherwise one, after the start if there
 * is any then. */
static void add_pair_with(enum fault_call call, unsigned int failure, bool full,
                          enum scenario_transport transport)
{
    const struct result *counted = &results[transport]; /* of the run without a fault */
    uint64_t at_start = counted->at_up[call], later = counted->in_all[call] - at_start;
    struct run run = {.call = call, .failure = failure, .transport = transport, .count = 1};
    if (at_start + later == 0 && results[SCENARIO_PLAIN].in_all[call] > 0)
        return;
    if (at_start + later == 0)
        later = 1; /* it is made only where something else goes wrong */
    if (companion_of(call) != NULL && companion_of(call)->call == FAULT_SEND)
        at_start = MAX(at_start, 1ull);
    bool surplus = fault_of(failure).what == FAULT_SURPLUS; /* counts cancels */
    for (unsigned int when_up = 0; when_up < 2; when_up++) {
        uint64_t most =
            MIN(when_up != 0 ? later : at_start, full ? env_number("FAULTS_NTH", NTH_MAX) : 1);
        run.when_up = when_up != 0;
        if (!full && when_up == 0 && (later > 0 || surplus) && call != FAULT_SEND)
            continue;
        if (surplus)
            most = 1;
        for (run.nth = 1; run.nth <= most; run.nth++)
            add(&run);
    }
}

/* An error ends a relay alike with both transports, so everyday runs have the others over Noise,
 * where a coded stream is in between. */
static void add_pair(enum fault_call call, unsigned int failure, bool full)
{
    bool is_coded = call == FAULT_RECV_SELECT || call == FAULT_SEND || call == FAULT_POLL;
    bool is_error = fault_of(failure).what == FAULT_ERROR;
    add_pair_with(call, failure, full, SCENARIO_PLAIN);
    if (full || (is_coded && !is_error && results[SCENARIO_NOISE].in_all[call] > 0))
        add_pair_with(call, failure, full, SCENARIO_NOISE);
}

/* What stays away for good, and what works without it (A34): no pipe, or small ones, or none of some
 * kinds of descriptors from when the service is up on. */
static void add_standing(void)
{
    static const struct {
        enum fault_call call;
        const char *failure;
    } standing[] = {
        {FAULT_PIPE2, "EMFILE"},        {FAULT_PIPE2, "ENFILE"},   {FAULT_PIPE2, "small"},
        {FAULT_EPOLL_CREATE, "ENFILE"}, {FAULT_EVENTFD, "ENFILE"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(standing); i++) {
        for (unsigned int transport = 0; transport < SCENARIO_TRANSPORT_COUNT; transport++)
            add(&(struct run){.call = standing[i].call,
                              .failure = failure_number(standing[i].failure),
                              .nth = 1,
                              .count = UINT64_MAX,
                              .when_up = true,
                              .transport = (enum scenario_transport)transport});
    }
}

static void add_allocations(bool full)
{
    uint64_t count = results[SCENARIO_NOISE].in_all[FAULT_ALLOC];
    struct run run = {.call = FAULT_ALLOC, .failure = failure_number("ENOMEM"), .count = 1};
    /* Each of them on the fake loop too: tests/tunnel/test_memory.c. */
    for (run.nth = 1; run.nth <= count + 5; run.nth += full ? 1 : 16) {
        run.transport = SCENARIO_PLAIN;
        add(&run);
        run.transport = SCENARIO_NOISE;
        if (full)
            add(&run);
    }
}

static void add_drawn(uint64_t seed, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct run run = {.call = i % 2 == 0 ? FAULT_CALL_COUNT : FAULT_ALLOC,
                          .seed = seed + i,
                          .when_up = true,
                          .transport = (enum scenario_transport)(i / 2 % SCENARIO_TRANSPORT_COUNT)};
        add(&run);
    }
}

static const char *rule_of(const struct run *run)
{
    static char text[120];
    int size = 0;
    if (run->rules != NULL)
        return run->rules;
    if (run->seed != 0)
        (void)snprintf(text, sizeof(text), "seed=%llu:permille=10%s%s",
                       (unsigned long long)run->seed, run->call < FAULT_CALL_COUNT ? ":call=" : "",
                       run->call < FAULT_CALL_COUNT ? fault_call_name(run->call) : "");
    else if (run->call == FAULT_CALL_COUNT)
        text[0] = '\0';
    else
        size = snprintf(text, sizeof(text), "%s:%s:%llu:%llu", fault_call_name(run->call),
                        fault_name(run->failure), (unsigned long long)run->nth,
                        (unsigned long long)run->count);
    const struct companion *companion = companion_of(run->call);
    if (companion != NULL && run->seed == 0)
        (void)snprintf(text + size, sizeof(text) - (size_t)size, ",%s:%s:1:%llu",
                       fault_call_name(companion->other), companion->failure,
                       (unsigned long long)companion->count);
    return text;
}

/* ---- judging ---- */

static const char *log_of(int fd)
{
    static char text[1000000];
    ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
    text[MAX(got, 0)] = '\0';
    return text;
}

/* The log's end. */
static void print_log(int fd, size_t most)
{
    const char *text = log_of(fd);
    size_t size = strlen(text);
    (void)fprintf(stderr, "%s\n", text + (size > most ? size - most : 0));
}

/* Whether an address could not be bound. The program's main thread, which is not here, tries again
 * (A98), so the service is not served. */
static bool is_address_missing(const char *log, const char *problem)
{
    return strstr(problem, "not served any more") != NULL &&
           strstr(log, "it is tried again every second") != NULL;
}

/* Whether a line tells of trouble. In a crowded run accepting pauses anyway. */
static bool has_warned(const char *log, const struct run *run)
{
    static const char *const words[] = {"WARN ", "ERROR ", "next attempt in"};
    for (const char *line = log; *line != '\0';
         line += strcspn(line, "\n"), line += *line != '\0') {
        size_t size = strcspn(line, "\n");
        if (memmem(line, size, SCENARIO_ENDS, strlen(SCENARIO_ENDS)) != NULL)
            return false;
        if (run->variant == CROWDED && memmem(line, size, "accepting pauses", 16) != NULL)
            continue;
        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
            if (memmem(line, size, words[i], strlen(words[i])) != NULL)
                return true;
        }
    }
    return false;
}

/* The failures that may end a worker, and with it the process. After all others the tunnel goes on,
 * at worst without a connection. */
static const struct {
    enum fault_call call;
    const char *failure; /* NULL: any */
    bool when_up;        /* or only before the service was up */
    const char *why;
} deadly[] = {
    {FAULT_ALLOC, "ENOMEM", false,
     "a worker that starts needs its tables; the program ends with a line"},
};

/* Whether one of them has happened. */
static bool may_give_up(const char *log, bool was_up)
{
    char line[80];
    for (size_t i = 0; i < ARRAY_SIZE(deadly); i++) {
        (void)snprintf(line, sizeof(line), "fault: %s %s", fault_call_name(deadly[i].call),
                       deadly[i].failure != NULL ? deadly[i].failure : "");
        if ((deadly[i].when_up || !was_up) && strstr(log, line) != NULL)
            return true;
    }
    return false;
}

/* Lines of refused visitors. Where there was no memory for a service's numbers either, there is the
 * line alone (service_stats_of). */
static unsigned long refusals_said(const char *log)
{
    static const char words[] = "visitor refused: ";
    unsigned long count = 0;
    for (const char *at = log; (at = strstr(at, words)) != NULL; at += sizeof(words) - 1)
        count++;
    return count;
}

static void find_problem(const struct run *run, const struct result *result, int status,
                         const char *log, char *problem, size_t size)
{
    const struct verdict *verdict = &result->verdict;
    bool is_harmed = verdict->cut > 0 || verdict->lost > 0 || verdict->gave_up;
    problem[0] = '\0';
    if (WIFSIGNALED(status))
        (void)snprintf(problem, size, "%s",
                       WTERMSIG(status) == SIGALRM ? "a hang" : strsignal(WTERMSIG(status)));
    else if (verdict->text[0] != '\0' && is_address_missing(log, verdict->text))
        return;
    else if (verdict->text[0] != '\0')
        (void)snprintf(problem, size, "%s", verdict->text);
    else if (WEXITSTATUS(status) != 0)
        (void)snprintf(problem, size, "exit code %d", WEXITSTATUS(status));
    else if (verdict->gave_up && !may_give_up(log, verdict->was_up))
        (void)snprintf(problem, size, "a worker has given up");
    else if (verdict->gave_up && strstr(log, "ERROR worker ") == NULL)
        (void)snprintf(problem, size, "a worker has given up without a word");
    else if (verdict->empty > MAX(verdict->refused, refusals_said(log)))
        (void)snprintf(problem, size, "%u empty answers (%s), and %lu refused", verdict->empty,
                       verdict->cut_text, verdict->refused);
    else if (is_harmed && verdict->told == 0 && !has_warned(log, run))
        (void)snprintf(problem, size,
                       "%u streams cut (%s) and %u datagrams lost, and nothing tells", verdict->cut,
                       verdict->cut_text, verdict->lost);
    else if (result->happened == 0 && (verdict->told > 0 || has_warned(log, run)))
        (void)snprintf(problem, size, "trouble is told of that nobody had");
}

static bool judge(unsigned int index, int status, char *problem, size_t size)
{
    const struct run *run = &runs[index];
    const struct result *result = &results[index];
    if (getenv("FAULTS_TIMES") != NULL)
        (void)printf("%llu ms: %s\n", (unsigned long long)result->took_ms, rule_of(run));
    find_problem(run, result, status, log_of(logs[index]), problem, size);
    if (problem[0] == '\0')
        return true;
    (void)fprintf(stderr, "FAILED: %s\n    again: test_faults --replay '%s' %s %s\n", problem,
                  rule_of(run), run->transport == SCENARIO_NOISE ? "noise" : "plain",
                  run->when_up ? "up" : "start");
    if (run->rules == NULL)
        print_log(logs[index], 6000);
    return false;
}

static unsigned int run_all(unsigned int from, unsigned int jobs)
{
    pid_t children[JOBS_MAX] = {0};
    unsigned int indexes[JOBS_MAX] = {0}, next = from, running = 0, failed = 0;
    char problem[250];
    while (next < run_count || running > 0) {
        for (unsigned int i = 0; i < jobs && next < run_count; i++) {
            if (children[i] == 0) {
                indexes[i] = next;
                children[i] = begin_run(next++);
                running++;
            }
        }
        int status;
        pid_t ended = wait(&status);
        for (unsigned int i = 0; i < jobs; i++) {
            if (children[i] != ended)
                continue;
            children[i] = 0;
            running--;
            failed += judge(indexes[i], status, problem, sizeof(problem)) ? 0 : 1;
            (void)close(logs[indexes[i]]);
        }
    }
    return failed;
}

static bool has_happened(enum fault_call call, unsigned int failure)
{
    for (unsigned int i = 0; i < run_count; i++) {
        if (runs[i].seed == 0 && runs[i].call == call && runs[i].failure == failure &&
            results[i].happened > 0)
            return true;
    }
    return false;
}

/* A run in which its call was not made says nothing about the failure: on a busy machine a crowd may
 * come too slowly to be one. Such pairs get another run. True: there are some. */
static bool add_void_runs(void)
{
    unsigned int count = run_count;
    for (unsigned int i = SCENARIO_TRANSPORT_COUNT; i < count; i++) {
        if (runs[i].seed == 0 && runs[i].call < FAULT_ALLOC &&
            !has_happened(runs[i].call, runs[i].failure))
            add(&runs[i]);
    }
    return run_count > count;
}

/* Each pair has a run, or a reason why it has none. */
static unsigned int check_pairs(void)
{
    unsigned int missing = 0, possible = 0, impossible = 0;
    for (unsigned int call = 0; call < FAULT_CALL_COUNT; call++) {
        for (unsigned int failure = 0; fault_name(failure) != NULL; failure++) {
            if (!fault_is_possible((enum fault_call)call, failure)) {
                impossible++;
                if (fault_excuse((enum fault_call)call, failure) != NULL)
                    continue;
            } else {
                possible++;
                if (has_happened((enum fault_call)call, failure))
                    continue;
            }
            missing++;
            (void)fprintf(stderr, "MISSING: %s:%s\n", fault_call_name((enum fault_call)call),
                          fault_name(failure));
        }
    }
    (void)printf("%u pairs of a call and a failure, %u without a run; %u can't happen\n", possible,
                 missing, impossible);
    return missing;
}

static bool is_ring_there(void)
{
    struct metrics metrics = {0};
    struct loop *loop;
    struct loop_options options = {.metrics = &metrics};
    faults_exempt(true);
    int result = loop_create(&options, &loop);
    if (result == 0)
        loop_destroy(loop);
    return result == 0;
}

static unsigned int replay_one(int argc, char *argv[], int at)
{
    struct run run = {.rules = argv[at + 1]};
    char problem[250];
    faults_clear();
    if (!faults_parse(run.rules)) {
        (void)fprintf(stderr, "not rules: %s\n", run.rules);
        return 1;
    }
    const struct fault_plan is = faults_plan();
    run.call = is.call;
    run.failure = is.failure;
    run.seed = is.seed;
    run.transport =
        at + 2 < argc && strcmp(argv[at + 2], "noise") == 0 ? SCENARIO_NOISE : SCENARIO_PLAIN;
    run.when_up = at + 3 < argc && strcmp(argv[at + 3], "up") == 0;
    add(&run);
    int status;
    pid_t child = begin_run(SCENARIO_TRANSPORT_COUNT);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 1;
    print_log(logs[SCENARIO_TRANSPORT_COUNT], SIZE_MAX);
    bool is_well = judge(SCENARIO_TRANSPORT_COUNT, status, problem, sizeof(problem));
    const struct verdict *verdict = &results[SCENARIO_TRANSPORT_COUNT].verdict;
    (void)printf("%s, %llu faults, %u streams cut, %u datagrams lost\n", is_well ? "well" : problem,
                 (unsigned long long)results[SCENARIO_TRANSPORT_COUNT].happened, verdict->cut,
                 verdict->lost);
    return is_well ? 0 : 1;
}

static bool is_wanted(const char *only, enum fault_call call, unsigned int failure)
{
    char name[80];
    (void)snprintf(name, sizeof(name), "%s:%s", fault_call_name(call), fault_name(failure));
    return only == NULL || strncmp(name, only, strlen(only)) == 0;
}

static void add_all(const char *only, bool full, uint64_t seed)
{
    for (unsigned int call = 0; call < FAULT_ALLOC; call++) {
        for (unsigned int failure = 0; fault_name(failure) != NULL; failure++) {
            if (fault_is_possible((enum fault_call)call, failure) &&
                is_wanted(only, (enum fault_call)call, failure))
                add_pair((enum fault_call)call, failure, full);
        }
    }
    if (only == NULL || strncmp(only, "malloc()", 8) == 0)
        add_allocations(full);
    if (only == NULL)
        add_standing();
    if (only == NULL)
        add_drawn(seed, seeds_of(full ? 2000 : 4));
}

int main(int argc, char *argv[])
{
    bool full = false;
    uint64_t seed = 1;
    unsigned int jobs = 10; /* most of the time they wait */
    const char *only = NULL;
    int replay_at = 0;
    uint64_t drawn = 0;
    results = mmap(NULL, RUNS_MAX * sizeof(*results), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    logs = calloc(RUNS_MAX, sizeof(*logs));
    if (results == MAP_FAILED || logs == NULL || keys_init() < 0)
        return 1;
    if (!is_ring_there()) {
        SKIP_LOUDLY("no io_uring");
        return EXIT_SKIP;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--replay") == 0 && i + 1 < argc)
            replay_at = i;
        full |= strcmp(argv[i], "--full") == 0;
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--drawn") == 0 && i + 1 < argc)
            drawn = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--jobs") == 0 && i + 1 < argc)
            jobs = (unsigned int)strtoul(argv[++i], NULL, 10) % (JOBS_MAX + 1);
    }
    for (unsigned int i = 0; i < SCENARIO_TRANSPORT_COUNT; i++)
        add(&(struct run){.call = FAULT_CALL_COUNT, .transport = (enum scenario_transport)i});
    unsigned int failed = run_all(0, 1);
    if (failed > 0)
        return 1;
    if (replay_at > 0)
        return (int)replay_one(argc, argv, replay_at);
    if (drawn > 0)
        add_drawn(seed, drawn);
    else
        add_all(only, full, seed);
    failed = run_all(SCENARIO_TRANSPORT_COUNT, jobs);
    for (unsigned int round = 0; round < VOID_ROUNDS_MAX; round++) {
        unsigned int from = run_count;
        if (!add_void_runs())
            break;
        failed += run_all(from, jobs);
    }
    (void)printf("%u runs, %u failed\n", run_count, failed);
    if (only == NULL && drawn == 0)
        failed += check_pairs();
    return failed == 0 ? 0 : 1;
}
