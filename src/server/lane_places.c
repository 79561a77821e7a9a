#include "base/clock.h"
#include "base/limits.h"
#include "lane_priv.h"
#include "server/exchange.h"
#include "server/lane.h"

static_assert(LIMIT_UDP_CHANNELS <= UINT8_MAX, "a place fits into a byte");

static const struct pool_handle any_source;

static bool is_same_source(struct pool_handle a, struct pool_handle b)
{
    return a.index == b.index && a.generation == b.generation;
}

static struct channel_pool *pool_of(const struct lane *lane)
{
    return &lane->service->pool;
}

void lane_places_count(struct lane *lane)
{
    struct lane_channel *last = NULL;
    lane->in_use = 0;
    for (unsigned int i = 0; i < lane->place_count; i++) {
        if (lane->channels[i] == NULL)
            continue;
        lane->in_use++;
        last = lane->channels[i];
    }
    lane->only = lane->in_use == 1 ? last : NULL;
}

/* ---- a visitor's channel ---- */

struct lane_channel *lane_places_choose(struct lane_visitor *visitor)
{
    struct lane *lane = visitor->lane;
    struct lane_channel *found[LIMIT_UDP_CHANNELS];
    struct pool_handle sources[LIMIT_UDP_CHANNELS];
    size_t count = 0, best = 0;
    for (unsigned int i = 0; i < lane->place_count; i++) {
        if (lane->channels[i] == NULL)
            continue;
        found[count] = lane->channels[i];
        sources[count++] = lane->channels[i]->source;
    }
    if (count == 0)
        return NULL;
    channel_pool_left(pool_of(lane), visitor->source);
    visitor->source = any_source;
    if (lane->is_balanced) {
        best = channel_pool_enter(pool_of(lane), sources, count);
        visitor->source = sources[best];
    }
    visitor->place = found[best]->place;
    visitor->channel_number = found[best]->number;
    return found[best];
}

/* ---- channels for places ---- */

static void place_look_later(struct lane *lane, uint64_t not_before_ns)
{
    uint64_t now_ns = loop_now_ns(lane_loop(lane));
    uint64_t left_ns = not_before_ns > now_ns ? not_before_ns - now_ns : 0;
    if (!lane->retry_timer.armed)
        loop_timer_start(lane_loop(lane), &lane->retry_timer, left_ns / NS_PER_MS + 1);
}

void lane_places_pause(struct lane *lane, unsigned int place)
{
    lane->places[place].not_before_ns = loop_now_ns(lane_loop(lane)) + ms_to_ns(LIMIT_UDP_RETRY_MS);
    place_look_later(lane, lane->places[place].not_before_ns);
}

/* Takes a parked channel, or queues for one. */
static void place_take(struct lane *lane, unsigned int place)
{
    for (;;) {
        struct pool_channel channel = {.transport.fd = -1};
        pool_notice notice;
        enum pool_take taken = channel_pool_take(pool_of(lane), lane_waiter(lane, place), false,
                                                 loop_now_ns(lane_loop(lane)), &channel, &notice);
        exchange_notify(lane->worker, lane->service, notice);
        if (taken != POOL_TAKEN)
            return; /* the channel comes by lane_matched */
        if (exchange_channel_is_live(lane->worker, &channel)) {
            lane_channel_use(lane, place, channel.transport, channel.source);
            return;
        }
        lane_count(lane, METRIC_DATA_CHANNELS_STALE, 1);
        transport_abort(&channel.transport, lane_loop(lane));
    }
}

static void place_fill(struct lane *lane, unsigned int place)
{
    /* Without sessions side by side this includes a place that has a channel and waits for one of a
     * new session, which may be parked by now. */
    bool was_waiting = channel_pool_leave(pool_of(lane), lane_waiter(lane, place));
    uint64_t not_before_ns = lane->places[place].not_before_ns;
    if (lane->channels[place] != NULL && (lane->is_balanced || !was_waiting))
        return;
    if (!was_waiting && not_before_ns > loop_now_ns(lane_loop(lane)))
        place_look_later(lane, not_before_ns);
    else
        place_take(lane, place);
}

/* ---- which places there are ---- */

static void place_begin(struct lane *lane, unsigned int place, struct pool_handle source)
{
    lane->place_count = MAX(lane->place_count, place + 1);
    lane->places[place].is_used = true;
    /* A login may have come before the lane's start: then the waiter is queued already, or its
     * channel is on its way. Assigning would forget that, and ask for a second one. */
    if (!is_same_source(lane_waiter(lane, place)->only, source))
        channel_pool_assign(pool_of(lane), lane_waiter(lane, place), source);
}

static void place_end(struct lane *lane, unsigned int place)
{
    channel_pool_assign(pool_of(lane), lane_waiter(lane, place), any_source);
    lane->places[place] = (struct lane_place){0};
    while (lane->place_count > 0 && !lane->places[lane->place_count - 1].is_used)
        lane->place_count--;
}

/* The place of this session, or the first free one. LIMIT_UDP_CHANNELS: there is none. */
static unsigned int place_of(const struct lane *lane, struct pool_handle source)
{
    unsigned int free_place = LIMIT_UDP_CHANNELS;
    for (unsigned int i = 0; i < LIMIT_UDP_CHANNELS; i++) {
        const struct lane_channel *channel = lane->channels[i];
        if (!lane->places[i].is_used)
            free_place = MIN(free_place, i);
        else if (is_same_source(channel != NULL ? channel->source : lane_waiter(lane, i)->only,
                                source))
            return i;
    }
    return free_place;
}

/* Whether the session that the place is for has not ended. */
static bool is_alive(const struct lane *lane, unsigned int place)
{
    const struct lane_channel *channel = lane->channels[place];
    return channel_pool_is_open(pool_of(lane),
                                channel != NULL ? channel->source : lane_waiter(lane, place)->only);
}

/* Ends the places of sessions that have ended. A channel stays until there is one of a session that
 * goes on. */
static void end_places(struct lane *lane)
{
    bool has_other = false, alive[LIMIT_UDP_CHANNELS];
    for (unsigned int i = 0; i < lane->place_count; i++) {
        alive[i] = lane->places[i].is_used && is_alive(lane, i);
        has_other |= alive[i] && lane->channels[i] != NULL;
    }
    for (unsigned int i = lane->place_count; i-- > 0;) {
        if (!lane->places[i].is_used || alive[i])
            continue;
        if (lane->channels[i] != NULL && has_other)
            lane_channel_retire(lane, i);
        if (lane->channels[i] == NULL)
            place_end(lane, i);
    }
}

/* A place is its session's until that ends: there may be more sessions than places, and which ones
 * the pool lists changes with their number. */
static void review_balanced(struct lane *lane)
{
    struct pool_handle sources[LIMIT_UDP_CHANNELS];
    size_t count = channel_pool_list(pool_of(lane), lane->index * LIMIT_UDP_CHANNELS, sources,
                                     ARRAY_SIZE(sources));
    end_places(lane);
    for (size_t i = 0; i < count; i++) {
        unsigned int place = place_of(lane, sources[i]);
        if (place != LIMIT_UDP_CHANNELS &&
            !is_same_source(lane_waiter(lane, place)->only, sources[i]))
            place_begin(lane, place, sources[i]);
    }
    for (unsigned int i = 0; i < lane->place_count; i++) {
        if (lane->places[i].is_used)
            place_fill(lane, i);
    }
    end_places(lane); /* a channel that was parked may have taken its place */
}

/* One place, for a channel of any session. Channels in others stay until the next one comes. */
static void review_single(struct lane *lane)
{
    for (unsigned int i = lane->place_count; i-- > 1;) {
        if (lane->channels[i] == NULL && lane->places[i].is_used)
            place_end(lane, i);
    }
    if (!lane->places[0].is_used || !is_same_source(lane_waiter(lane, 0)->only, any_source))
        place_begin(lane, 0, any_source);
    place_fill(lane, 0);
}

void lane_places_review(struct lane *lane)
{
    lane->is_balanced = service_config(lane->service)->clients == CONFIG_CLIENTS_BALANCE;
    if (lane->is_balanced)
        review_balanced(lane);
    else
        review_single(lane);
}

void lane_places_retry(struct timer *timer)
{
    lane_places_review(container_of(timer, struct lane, retry_timer));
}

void lane_places_finish(struct lane *lane)
{
    for (unsigned int i = 0; i < LIMIT_UDP_CHANNELS; i++)
        (void)channel_pool_leave(pool_of(lane), lane_waiter(lane, i));
}

/* The match has the lane's id and no pointer to it, because a reload may have freed the lane and
 * its binding since the match was made. */
static struct lane *lane_of_match(const struct server_worker *worker,
                                  const struct pool_match *match)
{
    list_for_each (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        if (lane_waiter(lane, 0)->visitor_id == match->visitor_id && !lane->closing)
            return lane;
    }
    return NULL;
}

/* The lane has gone, or this worker is still to start it: then it finds the channel in the pool. */
static void lane_not_there(const struct server_worker *worker, struct service *service,
                           const struct pool_match *match, struct transport channel)
{
    struct loop *loop = worker->tunnel->loop;
    if (!channel_pool_undo(&service->pool, match, channel, loop_now_ns(loop)))
        transport_close(&channel, loop);
    exchange_wake_waiters(worker);
}

bool lane_matched(struct server_worker *worker, struct service *service,
                  const struct pool_match *match, struct transport channel)
{
    struct lane *lane = lane_of_match(worker, match);
    unsigned int place = 0;
    if (lane == NULL) {
        lane_not_there(worker, service, match, channel);
        return true;
    }
    /* The lane lives, so its waiters do. The match is over even if its channel is refused: else the
     * place would wait for it for ever. */
    channel_pool_arrived(pool_of(lane), match->waiter);
    if (lane->is_balanced)
        place = place_of(lane, match->source);
    /* A session may have ended meanwhile, or got its place in another way. */
    bool is_wanted =
        place < lane->place_count &&
        (!lane->is_balanced || (lane->channels[place] == NULL &&
                                is_same_source(lane_waiter(lane, place)->only, match->source)));
    if (!is_wanted) {
        transport_close(&channel, worker->tunnel->loop);
        lane_places_review(lane);
        return true;
    }
    lane_channel_use(lane, place, channel, match->source);
    if (lane->is_balanced)
        lane_places_review(lane); /* channels of sessions that have ended may retire now */
    return true;
}
