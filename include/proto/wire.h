/* Cursors over the bytes of a message. Errors are sticky: after the first one, reads yield zero and
 * writes do nothing, so a codec handles all fields in a row and checks once, at the end. Integers
 * are little endian on every machine and need no alignment. The cursors own nothing. */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"

struct wire_reader {
    const uint8_t *next;
    size_t left;
    int error; /* 0 or the first error */
};

static inline void wire_reader_init(struct wire_reader *reader, const uint8_t *bytes, size_t len)
{
    *reader = (struct wire_reader){.next = bytes, .left = len};
}

/* For a field whose value is invalid. Keeps an earlier error. */
static inline void wire_reader_fail(struct wire_reader *reader, int error)
{
    if (reader->error == 0)
        reader->error = error;
}

static inline void wire_reader_bytes(struct wire_reader *reader, void *out, size_t size)
{
    if (reader->left < size)
        wire_reader_fail(reader, ERR_PROTOCOL);
    if (reader->error != 0) {
        memset(out, 0, size);
        return;
    }
    if (size > 0)
        memcpy(out, reader->next, size);
    reader->next += size;
    reader->left -= size;
}

static inline uint8_t wire_reader_u8(struct wire_reader *reader)
{
    uint8_t value;
    wire_reader_bytes(reader, &value, sizeof(value));
    return value;
}

static inline uint16_t wire_reader_u16(struct wire_reader *reader)
{
    uint8_t bytes[2];
    wire_reader_bytes(reader, bytes, sizeof(bytes));
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline uint32_t wire_reader_u32(struct wire_reader *reader)
{
    uint32_t low = wire_reader_u16(reader);
    uint32_t high = wire_reader_u16(reader);
    return low | high << 16;
}

/* 0 if all fields were there and no bytes are left; else the first error. */
MUST_CHECK static inline int wire_reader_done(const struct wire_reader *reader)
{
    if (reader->error != 0)
        return reader->error;
    return reader->left == 0 ? 0 : ERR_PROTOCOL;
}

struct wire_writer {
    uint8_t *out;
    size_t size, len;
    int error; /* 0 or -ENOBUFS */
};

static inline void wire_writer_init(struct wire_writer *writer, uint8_t *out, size_t size)
{
    *writer = (struct wire_writer){.out = out, .size = size};
}

static inline void wire_writer_bytes(struct wire_writer *writer, const void *bytes, size_t size)
{
    if (writer->size - writer->len < size)
        writer->error = -ENOBUFS;
    if (writer->error != 0 || size == 0)
        return;
    memcpy(writer->out + writer->len, bytes, size);
    writer->len += size;
}

static inline void wire_writer_u8(struct wire_writer *writer, uint8_t value)
{
    wire_writer_bytes(writer, &value, sizeof(value));
}

static inline void wire_writer_u16(struct wire_writer *writer, uint16_t value)
{
    uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    wire_writer_bytes(writer, bytes, sizeof(bytes));
}

static inline void wire_writer_u32(struct wire_writer *writer, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                        (uint8_t)(value >> 24)};
    wire_writer_bytes(writer, bytes, sizeof(bytes));
}

/* 0 with the bytes written in *ret_len, or -ENOBUFS. */
MUST_CHECK static inline int wire_writer_done(const struct wire_writer *writer, size_t *ret_len)
{
    if (writer->error != 0)
        return writer->error;
    *ret_len = writer->len;
    return 0;
}
