/* When a peer is judged dead: each row has the kernel's answers, look after look. */
#include "net/silence.h"

#include <criterion/criterion.h>

#include "base/limits.h"

enum { SECONDS_MAX = 4000, LIVES = -1 };

/* The kernel gives the same answer every second, apart from heard_ms: the peer was heard `heard_at`
 * seconds before the first look, and then every `hears_each` seconds. */
struct row {
    const char *what;
    struct socket_life life;
    bool asked;
    unsigned int heard_at, hears_each; /* hears_each 0: never again */
    int dies_at;                       /* seconds after the first look, or LIVES */
};

#define IN_FLIGHT .unacked = 3, .window = 65536, .rto_ms = 51200
#define SHUT      .unsent = 100000, .window = 0, .rto_ms = 200
#define WITHDRAWN .unacked = 2, .unsent = 5000, .window = 0

static const struct row rows[] = {
    {"in flight, idle for hours before", {IN_FLIGHT, .retransmits = 7}, false, 9000, 0, 30},
    {"in flight, heard just before", {IN_FLIGHT, .retransmits = 7}, false, 0, 0, 30},
    {"in flight, few transmissions yet: a path with a long round trip",
     {IN_FLIGHT, .retransmits = 2},
     false,
     0,
     0,
     LIVES},
    {"in flight, four transmissions", {IN_FLIGHT, .retransmits = 3}, false, 0, 0, 30},
    {"in flight, heard every 29 s", {IN_FLIGHT, .retransmits = 7}, false, 5, 29, LIVES},
    {"in flight, heard every 5 s", {IN_FLIGHT, .retransmits = 7}, false, 5, 5, LIVES},
    {"never sent so far", {.unsent = 100, .window = 9000}, false, 0, 0, LIVES},
    {"zero window, probes two minutes apart are answered", {SHUT}, false, 0, 120, LIVES},
    {"zero window, three probes lost", {SHUT, .probes = 3}, false, 0, 0, LIVES},
    {"zero window, four probes lost", {SHUT, .probes = 4}, false, 0, 0, 30},
    {"zero window, four probes lost, one answered", {SHUT, .probes = 4}, false, 0, 20, LIVES},
    {"withdrawn, probed every two minutes", {WITHDRAWN, .rto_ms = 120000}, false, 0, 121, LIVES},
    {"withdrawn, and gone", {WITHDRAWN, .rto_ms = 120000}, false, 0, 0, 480},
    {"withdrawn, and gone early", {WITHDRAWN, .rto_ms = 3000}, false, 0, 0, 30},
    {"asked, no answer", {.window = 65536}, true, 100, 0, 10},
    {"asked, a late answer", {.window = 65536}, true, 100, 9, LIVES},
    {"asked with bytes in flight", {IN_FLIGHT, .retransmits = 7}, true, 100, 0, 30},
    {"nothing outstanding, not asked", {.window = 65536}, false, 9000, 0, LIVES},
};

static uint32_t heard_ms(const struct row *row, unsigned int second)
{
    if (row->hears_each != 0 && second >= row->hears_each)
        return 1000 * (second % row->hears_each);
    return 1000 * (row->heard_at + second);
}

static int dies_at(const struct row *row)
{
    struct silence silence = {0};
    if (row->asked)
        silence_ask(&silence);
    for (unsigned int second = 0; second < SECONDS_MAX; second++) {
        struct socket_life life = row->life;
        life.heard_ms = heard_ms(row, second);
        /* The last look before the first one is long ago, as at an idle relay. */
        uint32_t step_ms = second == 0 && !row->asked ? 7200000 : second == 0 ? 0 : 1000;
        if (silence_judge(&silence, &life, step_ms) == SILENCE_DEAD)
            return (int)second;
    }
    return LIVES;
}

Test(silence, what_is_dead)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_expect_eq(dies_at(&rows[i]), rows[i].dies_at, "%s: dies at %d s", rows[i].what,
                     dies_at(&rows[i]));
}

Test(silence, watched_while_it_owes_something)
{
    struct silence silence = {0};
    struct socket_life life = {.window = 65536, .heard_ms = 5000};
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_NONE);
    life.unacked = 1;
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_WATCHED);
    cr_assert_eq(silence.silent_ms, 0, "nothing is known of the time before");
    life.heard_ms = 6000;
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_WATCHED);
    cr_assert_eq(silence.silent_ms, 1000);
    life.unacked = 0;
    life.heard_ms = 10;
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_NONE);
    cr_assert_not(silence.watched);
    silence_ask(&silence);
    life.heard_ms = 1010;
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_WATCHED,
                 "heard before the question");
    life.heard_ms = 1500;
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_NONE);
    cr_assert_not(silence.asked, "the answer came");
}

/* SIGSTOP for an hour, or a suspended machine: a look adds at most 2 s of silence. */
Test(silence, time_that_was_missed_is_not_silence)
{
    struct silence silence = {0};
    struct socket_life life = {IN_FLIGHT, .retransmits = 7};
    cr_assert_eq(silence_judge(&silence, &life, 1000), SILENCE_WATCHED);
    life.heard_ms = 3600000;
    for (int look = 1; look < 15; look++)
        cr_assert_eq(silence_judge(&silence, &life, 3600000), SILENCE_WATCHED, "look %d", look);
    cr_assert_eq(silence_judge(&silence, &life, 3600000), SILENCE_DEAD);
}
