#include "server/pool_source.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"

enum { ROOM_MIN = LIMIT_POOL_MIN };

void pool_source_init(struct pool_source *source)
{
    *source = (struct pool_source){.worker_index = 0};
    list_init(&source->waiting);
}

void pool_source_finish(struct pool_source *source)
{
    assert(source->parked_count == 0);
    free(source->parked);
    source->parked = NULL;
    source->parked_room = 0;
}

/* ---- the ring ---- */

static int pool_source_grow(struct pool_source *source)
{
    uint32_t room = MAX(2 * source->parked_room, (uint32_t)ROOM_MIN);
    struct pool_channel *parked = malloc(room * sizeof(*parked));
    if (parked == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < source->parked_count; i++)
        parked[i] = source->parked[(source->parked_first + i) & (source->parked_room - 1)];
    free(source->parked);
    source->parked = parked;
    source->parked_room = room;
    source->parked_first = 0;
    return 0;
}

int pool_source_park(struct pool_source *source, struct transport transport, uint64_t now_ns)
{
    int result = 0;
    if (source->parked_count == source->parked_room)
        result = pool_source_grow(source);
    if (result < 0)
        return result;
    uint32_t last = (source->parked_first + source->parked_count) & (source->parked_room - 1);
    source->parked[last] = (struct pool_channel){transport, now_ns, source->handle};
    source->parked_count++;
    return 0;
}

bool pool_source_unpark(struct pool_source *source, struct pool_channel *ret)
{
    if (source->parked_count == 0)
        return false;
    *ret = source->parked[source->parked_first];
    source->parked_first = (source->parked_first + 1) & (source->parked_room - 1);
    source->parked_count--;
    return true;
}

/* ---- requests ---- */

uint32_t pool_source_age_requests(struct pool_source *source, uint64_t now_ns)
{
    uint64_t period = now_ns / (ms_to_ns(LIMIT_CHANNEL_REQUEST_MS));
    if (period <= source->outstanding_period)
        return 0;
    uint32_t lost = source->outstanding_older;
    source->outstanding_older = source->outstanding;
    source->outstanding = 0;
    if (period != source->outstanding_period + 1) {
        lost += source->outstanding_older;
        source->outstanding_older = 0;
    }
    source->outstanding_period = period;
    return lost;
}

void pool_source_note_arrival(struct pool_source *source)
{
    if (source->outstanding_older > 0)
        source->outstanding_older--;
    else if (source->outstanding > 0)
        source->outstanding--;
}
