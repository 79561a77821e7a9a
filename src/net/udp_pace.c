#include "net/udp_pace.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/macros.h"

enum {
    LOOK_NS = NS_PER_MS, /* the rate is looked at that often */
    PAUSE_MAX_NS = LIMIT_UDP_PAUSE_US * 1000,
    QUIET_NS = LIMIT_UDP_PAUSE_QUIET_MS * NS_PER_MS,
    DENSE = 5,     /* datagrams of the longest pause that are worth it */
    ONE_WAY = 4,   /* datagrams for each that goes the other way */
    GATHERED = 32, /* datagrams that a pause aims at: more of them save little */
    BACKLOG = 64,  /* datagrams that show that we are behind: then there is no time to pause */
};

void udp_pace_init(struct udp_pace *pace, uint64_t now_ns)
{
    /* Nothing is known yet: as if there were answers. */
    *pace = (struct udp_pace){.look_began_ns = now_ns, .answered_at_ns = now_ns};
}

/* Brings pause_ns up to date; once in a while. */
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
        pace->pause_ns = 0; /* what was dense is over */
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
