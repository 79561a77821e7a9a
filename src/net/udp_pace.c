#include "net/udp_pace.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/macros.h"

enum {
    LOOK_NS = NS_PER_MS, /* the rates are measured at this interval */
    PAUSE_MAX_NS = LIMIT_UDP_PAUSE_US * 1000,
    QUIET_NS = LIMIT_UDP_PAUSE_QUIET_MS * NS_PER_MS,
    DENSE = 5,     /* a stream is dense if the longest pause gathers this many datagrams */
    ONE_WAY = 4,   /* a stream is one-way with this many datagrams for each in return */
    GATHERED = 32, /* a pause aims to gather this many datagrams; more save little */
    BACKLOG = 64,  /* a receive of this many datagrams shows that we are behind */
};

void udp_pace_init(struct udp_pace *pace, uint64_t now_ns)
{
    /* Nothing is known yet, so begin as if answers had just come: no pause. */
    *pace = (struct udp_pace){.look_began_ns = now_ns, .answered_at_ns = now_ns};
}

/* Measures the rates and updates pause_ns, once in LOOK_NS. */
static void udp_pace_look(struct udp_pace *pace, uint64_t now_ns)
{
    uint64_t took_ns = now_ns - pace->look_began_ns;
    if (took_ns < LOOK_NS)
        return;
    if (pace->put < (uint64_t)ONE_WAY * pace->answered)
        pace->answered_at_ns = now_ns;
    bool dense = pace->put * (uint64_t)PAUSE_MAX_NS >= DENSE * took_ns;
    pace->pause_ns = 0;
    if (dense && now_ns - pace->answered_at_ns > QUIET_NS)
        pace->pause_ns = (uint32_t)MIN(GATHERED * took_ns / pace->put, (uint64_t)PAUSE_MAX_NS);
    pace->look_began_ns = now_ns;
    pace->put = pace->answered = 0;
}

uint64_t udp_pace_ready(struct udp_pace *pace, uint64_t now_ns)
{
    if (now_ns - pace->idle_since_ns > QUIET_NS)
        pace->pause_ns = 0; /* the dense stream is over */
    pace->steady = now_ns - pace->idle_since_ns < pace->pause_ns / 2;
    return pace->behind ? 0 : pace->pause_ns;
}

uint64_t udp_pace_received(struct udp_pace *pace, uint32_t datagrams, uint64_t now_ns)
{
    udp_pace_look(pace, now_ns);
    pace->behind = datagrams >= BACKLOG;
    if (datagrams > 0 && !pace->behind && pace->steady && pace->pause_ns > 0)
        return pace->pause_ns;
    pace->idle_since_ns = now_ns;
    return 0;
}
