#include "record_link.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct record_link *record_of(struct link *link)
{
    return container_of(link, struct record_link, link);
}

size_t record_link_put(struct link *link, enum record_type type, const void *payload, size_t size,
                       unsigned char *out)
{
    assert(size <= RECORD_PAYLOAD_MAX);
    out[0] = (unsigned char)type;
    out[1] = record_of(link)->sent++;
    out[2] = (unsigned char)size;
    out[3] = (unsigned char)(size >> 8);
    for (size_t i = 0; i < size; i++)
        out[RECORD_HEADER + i] = ((const unsigned char *)payload)[i] ^ 0xa5;
    return RECORD_HEADER + size;
}

static ssize_t record_seal(struct link *link, struct link_engine *engine, const void *plain,
                           size_t size, unsigned char *out)
{
    const unsigned char *from = plain;
    unsigned char *to = out;
    while (size > 0) {
        size_t payload = MIN(size, (size_t)RECORD_PAYLOAD_MAX);
        to += record_link_put(link, RECORD_DATA, from, payload, to);
        from += payload;
        size -= payload;
    }
    return to - out;
}

/* Takes a whole record. Returns the size of its plaintext. */
static ssize_t take_record(struct record_link *record, unsigned char *out)
{
    unsigned char answer[RECORD_HEADER];
    size_t size = record->have - RECORD_HEADER;
    if (record->record[1] != record->received++)
        return -EBADMSG;
    switch (record->record[0]) {
    case RECORD_DATA:
        record->data++;
        for (size_t i = 0; i < size; i++)
            out[i] = record->record[RECORD_HEADER + i] ^ 0xa5;
        return (ssize_t)size;
    case RECORD_ASK:
        (void)record_link_put(&record->link, RECORD_ANSWER, NULL, 0, answer);
        return link_add_reply(&record->link, answer, sizeof(answer));
    case RECORD_ANSWER:
        record->answers++;
        return 0;
    case RECORD_END:
        record->link.has_ended = true;
        return 0;
    default:
        return -EBADMSG;
    }
}

static ssize_t record_open(struct link *link, struct link_engine *engine,
                           const unsigned char *coded, size_t size)
{
    struct record_link *record = record_of(link);
    size_t have = 0;
    for (size_t at = 0; at < size; at++) {
        record->record[record->have++] = coded[at];
        if (record->have < RECORD_HEADER ||
            record->have < RECORD_HEADER + (record->record[2] | (size_t)record->record[3] << 8))
            continue;
        ssize_t opened = take_record(record, engine->plain + have);
        if (opened < 0)
            return opened;
        have += (size_t)opened;
        record->have = 0;
    }
    return (ssize_t)have;
}

static bool record_is_inside_frame(const struct link *link)
{
    return container_of(link, const struct record_link, link)->have > 0;
}

static void record_free(struct link *link)
{
    free(record_of(link));
}

static const struct link_ops record_ops = {
    .seal = record_seal,
    .open = record_open,
    .is_inside_frame = record_is_inside_frame,
    .free = record_free,
    .read_size = LINK_BATCH_PLAIN,
};

struct link *record_link_create(void)
{
    struct record_link *record = calloc(1, sizeof(*record));
    if (record == NULL)
        return NULL;
    record->link.ops = &record_ops;
    record->link.ends_in_band = true;
    return &record->link;
}
