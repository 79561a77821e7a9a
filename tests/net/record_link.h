/* A link for tests of what runs over another link, as TLS would be: records with a number each, so
 * that a record that is lost, or sent out of order, is found. It needs no engine to seal. */
#pragma once

#include "net/link.h"

enum record_type {
    RECORD_DATA = 'D',
    RECORD_ASK = 'A', /* its receiver answers with RECORD_ANSWER, as to a key update */
    RECORD_ANSWER = 'R',
    RECORD_END = 'E',
};

enum { RECORD_HEADER = 4, RECORD_PAYLOAD_MAX = 16384 };

struct record_link {
    struct link link;
    uint8_t sent, received;     /* numbers of the next records */
    unsigned int data, answers; /* records that have come */
    size_t have;
    unsigned char record[RECORD_HEADER + RECORD_PAYLOAD_MAX];
};

struct link *record_link_create(void); /* NULL: no memory */
/* Puts one record into out. Returns its size. */
size_t record_link_put(struct link *link, enum record_type type, const void *payload, size_t size,
                       unsigned char *out);
