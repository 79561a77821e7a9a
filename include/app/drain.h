/* The end of the process, step by step.
 *
 *     NONE --SIGTERM--> DELAYED --drain_delay--> REFUSING --nobody waits--> FINISHING --> stop
 *       |                  not ready, but        no new visitors;           the open ones, up
 *       |                  serves on             those that wait go on      to drain_timeout
 *       |                                                                       ^
 *       '--SIGTERM without drain_delay, or a successor has taken over ----------'
 *
 * DELAYED is for a balancer in front: its health check has to fail before its connections are
 * refused. drain_timeout counts from the end of the delay. A second SIGTERM stops at once.
 *
 * Only decisions are made here. The caller tells the time and sends the signals to the workers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum drain_state { DRAIN_NONE, DRAIN_DELAYED, DRAIN_REFUSING, DRAIN_FINISHING };

struct drain {
    enum drain_state state;
    bool is_stopping;
    uint64_t begun_ms;       /* the delay, then what is open */
    uint64_t quiet_since_ms; /* REFUSING: nobody waits any more; 0: somebody does */
};

/* How things are at this moment. delay_ms, timeout_ms: of the configuration in force, so a reload
 * counts for what has begun. */
struct drain_view {
    uint64_t now_ms;
    uint32_t delay_ms, timeout_ms;
    unsigned int waiting_visitors;
};

/* SIGTERM has come for the first time. Returns the signals for the workers (enum tunnel_signal). */
uint32_t drain_begin(struct drain *drain, const struct drain_view *view);
/* A successor has taken over, and the workers know. */
void drain_follow(struct drain *drain, uint64_t now_ms);
/* Stops at once. Returns the signals for the workers. */
uint32_t drain_stop(struct drain *drain);
/* Does what is due. Returns the signals for the workers. */
uint32_t drain_turn(struct drain *drain, const struct drain_view *view);
int drain_timeout_ms(const struct drain *drain, const struct drain_view *view); /* -1: never */

/* New visitors are not taken any more. */
static inline bool drain_has_ended_service(const struct drain *drain)
{
    return drain->state >= DRAIN_REFUSING;
}
