/* A whole tunnel in this process, on the kernel's ring: a server and a client with two workers
 * each, a TCP and a UDP service, and visitors that check every byte. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum scenario_transport { SCENARIO_PLAIN, SCENARIO_NOISE, SCENARIO_TRANSPORT_COUNT };

/* What is wrong; empty: nothing. */
struct verdict {
    char text[200];
    char cut_text[60];     /* the last stream of these */
    unsigned int cut;      /* streams that ended with a reset or a refusal */
    unsigned int empty;    /* of all visitors those who got an end of stream and no byte */
    unsigned int lost;     /* datagrams */
    bool started;          /* false: the start was refused, and the caller told */
    bool was_up;           /* the service, before the visitors came */
    bool gave_up;          /* a worker, which has to be in the log */
    unsigned long told;    /* counters of trouble, together, since the service was up */
    unsigned long refused; /* visitors, by the counters, since the start */
};

struct scenario {
    enum scenario_transport transport;
    bool crowded; /* descriptors run out for a moment, so accepting pauses */
    bool blocked; /* more bytes than the sockets hold, towards a visitor that has half-closed */
    bool late;    /* a stranger is silent until its deadline */
    bool settles; /* what is late has come before the end */
    void (*before)(void *arg); /* called just before the start */
    void (*up)(void *arg);     /* called when the service is up */
    void *arg;
};

/* The line of standard error at which the visitors are done: the end of a tunnel has warnings of its
 * own. */
#define SCENARIO_ENDS "the scenario ends"

/* Starts both ends, waits until the service is up, runs the visitors, waits until all is well again,
 * ends everything, and looks at what is left. */
void scenario_run(const struct scenario *scenario, struct verdict *ret);
