#include "proto/wire.h"

#include <criterion/criterion.h>

static const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x80, 0x90, 0xa0, 0xff};

Test(wire, reads_little_endian)
{
    struct wire_reader reader;
    wire_reader_init(&reader, bytes, sizeof(bytes));
    cr_expect_eq(wire_reader_u8(&reader), 0x01);
    cr_expect_eq(wire_reader_u16(&reader), 0x0302);
    cr_expect_eq(wire_reader_u32(&reader), 0xffa09080);
    cr_expect_eq(wire_reader_done(&reader), 0);
}

Test(wire, bytes_left_over_are_an_error)
{
    struct wire_reader reader;
    wire_reader_init(&reader, bytes, sizeof(bytes));
    (void)wire_reader_u32(&reader);
    (void)wire_reader_u16(&reader);
    cr_expect_eq(reader.left, 1);
    cr_expect_eq(wire_reader_done(&reader), ERR_PROTOCOL);
}

/* Each field with just enough bytes, and with fewer. */
Test(wire, reading_beyond_the_end_yields_zero)
{
    for (size_t len = 0; len <= 4; len++) {
        struct wire_reader reader;
        uint8_t out[3] = {9, 9, 9};
        wire_reader_init(&reader, bytes, len);
        cr_expect_eq(wire_reader_u8(&reader), len >= 1 ? 0x01 : 0);
        wire_reader_init(&reader, bytes, len);
        cr_expect_eq(wire_reader_u16(&reader), len >= 2 ? 0x0201 : 0);
        wire_reader_init(&reader, bytes, len);
        cr_expect_eq(wire_reader_u32(&reader) != 0, len >= 2, "its halves are read one by one");
        cr_expect_eq(reader.error, len >= 4 ? 0 : ERR_PROTOCOL);
        wire_reader_init(&reader, bytes, len);
        wire_reader_bytes(&reader, out, sizeof(out));
        cr_expect_eq(out[2], len >= 3 ? 0x03 : 0);
    }
}

Test(wire, reader_error_sticks)
{
    struct wire_reader reader;
    wire_reader_init(&reader, bytes, 3);
    cr_expect_eq(wire_reader_u8(&reader), 1);
    wire_reader_fail(&reader, ERR_VERSION);
    wire_reader_fail(&reader, ERR_AUTH);
    cr_expect_eq(wire_reader_u8(&reader), 0);
    cr_expect_eq(wire_reader_u16(&reader), 0);
    cr_expect_eq(wire_reader_u32(&reader), 0);
    cr_expect_eq(wire_reader_done(&reader), ERR_VERSION, "the first one");
    cr_expect_eq(reader.left, 2, "nothing more was taken");

    wire_reader_init(&reader, bytes, 1);
    (void)wire_reader_u16(&reader);
    cr_expect_eq(wire_reader_u8(&reader), 0, "not even what would fit");
}

Test(wire, reads_nothing)
{
    struct wire_reader reader;
    wire_reader_init(&reader, NULL, 0);
    cr_expect_eq(wire_reader_done(&reader), 0);
    wire_reader_bytes(&reader, (uint8_t[1]){0}, 0);
    cr_expect_eq(wire_reader_done(&reader), 0);
}

Test(wire, writes_little_endian)
{
    struct wire_writer writer;
    uint8_t out[7];
    size_t len = 0;
    wire_writer_init(&writer, out, sizeof(out));
    wire_writer_u8(&writer, 0x01);
    wire_writer_u16(&writer, 0x0302);
    wire_writer_u32(&writer, 0xffa09080);
    cr_expect_eq(wire_writer_done(&writer, &len), 0);
    cr_expect_eq(len, sizeof(out));
    cr_expect(memcmp(out, bytes, sizeof(out)) == 0);
}

Test(wire, writer_never_goes_beyond_the_end)
{
    for (size_t size = 0; size <= sizeof(bytes); size++) {
        struct wire_writer writer;
        uint8_t out[sizeof(bytes) + 1];
        size_t len = 77;
        memset(out, 0xa5, sizeof(out));
        wire_writer_init(&writer, out, size);
        wire_writer_bytes(&writer, bytes, sizeof(bytes));
        cr_expect_eq(wire_writer_done(&writer, &len), size < sizeof(bytes) ? -ENOBUFS : 0);
        cr_expect_eq(len, size < sizeof(bytes) ? 77 : sizeof(bytes));
        cr_expect_eq(out[size], 0xa5);
    }
}

Test(wire, writer_error_sticks)
{
    struct wire_writer writer;
    uint8_t out[3] = {0};
    size_t len = 77;
    wire_writer_init(&writer, out, sizeof(out));
    wire_writer_u32(&writer, 1);
    wire_writer_u8(&writer, 0xff);
    cr_expect_eq(wire_writer_done(&writer, &len), -ENOBUFS);
    cr_expect_eq(out[0], 0);
}
