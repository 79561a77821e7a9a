/* PROXY headers: the specification's own examples, every cut, and each malformed form with its
 * reason. */
#include "proto/proxy_protocol.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static struct addr address(const char *host, uint16_t port)
{
    struct host_port host_port = {.port = port};
    struct addr addr;
    (void)snprintf(host_port.host, sizeof(host_port.host), "%s", host);
    cr_assert(addr_from_numeric(&host_port, &addr));
    return addr;
}

static const char *text_of(const struct addr *addr)
{
    static char text[2][ADDR_TEXT_SIZE];
    static unsigned int at;
    return addr_format(addr, text[at++ % 2], ADDR_TEXT_SIZE);
}

static size_t encode(unsigned int version, bool is_datagram, const char *from, const char *to,
                     uint8_t *out)
{
    const struct addr a = address(from, 51342), b = address(to, 443);
    memset(out, 0xee, PROXY_PROTOCOL_MAX + 1);
    size_t size = proxy_protocol_encode(version, is_datagram, &a, &b, out);
    cr_assert_eq(out[size], 0xee);
    return size;
}

#define EXPECT_BYTES(out, size, expected) \
    cr_expect((size) == sizeof(expected) - 1 && memcmp((out), (expected), (size)) == 0)

Test(proxy_protocol, v1_is_written)
{
    uint8_t out[PROXY_PROTOCOL_MAX + 1];
    static const struct {
        const char *from, *to, *line;
    } rows[] = {
        {"203.0.113.7", "198.51.100.1", "PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n"},
        {"2001:db8::1", "::", "PROXY TCP6 2001:db8::1 :: 51342 443\r\n"},
        {"::ffff:203.0.113.7", "::ffff:198.51.100.1",
         "PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n"},
        {"::ffff:203.0.113.7", "198.51.100.1", "PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n"},
        {"203.0.113.7", "2001:db8::2", "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::2 51342 443\r\n"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        size_t size = encode(1, false, rows[i].from, rows[i].to, out);
        cr_expect_eq(size, strlen(rows[i].line));
        cr_expect(memcmp(out, rows[i].line, size) == 0, "%.*s", (int)size, (const char *)out);
    }
}

Test(proxy_protocol, v2_is_written)
{
    uint8_t out[PROXY_PROTOCOL_MAX + 1];
    size_t size = encode(2, false, "203.0.113.7", "198.51.100.1", out);
    EXPECT_BYTES(out, size,
                 SIGNATURE "\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\xc8\x8e\x01\xbb");
    size = encode(2, true, "::ffff:203.0.113.7", "::ffff:198.51.100.1", out);
    EXPECT_BYTES(out, size,
                 SIGNATURE "\x21\x12\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\xc8\x8e\x01\xbb");
    size = encode(2, false, "2001:db8::1", "::1", out);
    EXPECT_BYTES(out, size,
                 SIGNATURE "\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
                           "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xc8\x8e\x01\xbb");
    cr_expect_eq(size, PROXY_PROTOCOL_V2_MAX);
    size = encode(2, true, "2001:db8::1", "::1", out);
    cr_expect_eq(out[13], 0x22);
}

Test(proxy_protocol, other_addresses_are_not_known)
{
    uint8_t out[PROXY_PROTOCOL_MAX];
    const struct addr none = {.len = 0}, path = addr_of_unix("/run/x"),
                      ip = address("192.0.2.1", 1);
    const struct addr *const pairs[][2] = {{&none, &ip}, {&ip, &none}, {&path, &path}};
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        size_t size = proxy_protocol_encode(1, false, pairs[i][0], pairs[i][1], out);
        EXPECT_BYTES(out, size, "PROXY UNKNOWN\r\n");
        size = proxy_protocol_encode(2, false, pairs[i][0], pairs[i][1], out);
        EXPECT_BYTES(out, size, SIGNATURE "\x20\0\0\0");
    }
}

static struct proxy_header decode(const void *bytes, size_t size)
{
    struct proxy_header header;
    const char *why = NULL;
    cr_assert_eq(proxy_protocol_decode(bytes, size, &header, &why), 1, "%s", why);
    return header;
}

#define DECODE(text) decode(text, sizeof(text) - 1)

/* What was written is read again, whatever is behind it; no cut of it is a header, and none is
 * refused. */
Test(proxy_protocol, every_cut)
{
    static const char *const ends[][2] = {{"203.0.113.7", "198.51.100.1"},
                                          {"2001:db8::1", "::"},
                                          {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                                           "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"}};
    uint8_t bytes[PROXY_PROTOCOL_MAX + 40];
    for (size_t i = 0; i < 2 * ARRAY_SIZE(ends); i++) {
        const struct addr from = address(ends[i / 2][0], 65535), to = address(ends[i / 2][1], 0);
        memset(bytes, 'x', sizeof(bytes));
        size_t size = proxy_protocol_encode(1 + i % 2, false, &from, &to, bytes);
        struct proxy_header header;
        const char *why;
        for (size_t cut = 0; cut < size; cut++)
            cr_assert_eq(proxy_protocol_decode(bytes, cut, &header, &why), 0, "%zu", cut);
        for (size_t more = size; more <= sizeof(bytes); more++) {
            header = decode(bytes, more);
            cr_assert_eq(header.size, size);
            cr_assert_eq(header.version, 1 + i % 2);
            cr_assert(header.has_addresses);
            cr_assert(addr_equal(&header.from, &from), "%s", text_of(&header.from));
            cr_assert(addr_equal(&header.to, &to), "%s", text_of(&header.to));
        }
    }
}

Test(proxy_protocol, the_connections_own_addresses)
{
    cr_expect_not(DECODE("PROXY UNKNOWN\r\n").has_addresses);
    struct proxy_header header = DECODE("PROXY UNKNOWN ffff::1 whatever  65536\r\nGET");
    cr_expect_not(header.has_addresses);
    cr_expect_eq(header.size, 39);
    header = DECODE(SIGNATURE "\x20\0\0\0");
    cr_expect_not(header.has_addresses);
    cr_expect_eq(header.size, 16);
    header = DECODE(SIGNATURE "\x20\x11\0\x0c"); /* LOCAL: its addresses don't matter */
    cr_expect_not(header.has_addresses);
    cr_expect_eq(header.size, 28);
    cr_expect_not(DECODE(SIGNATURE "\x20\xff\0\x01").has_addresses);
    header = DECODE(SIGNATURE "\x21\0\0\x05"); /* UNSPEC */
    cr_expect_not(header.has_addresses);
    cr_expect_eq(header.size, 21);
    cr_expect_not(DECODE(SIGNATURE "\x21\x31\0\xd8").has_addresses, "two unix sockets");
    cr_expect_not(DECODE(SIGNATURE "\x21\x10\0\x0c\1\2\3\4\5\6\7\x8\0\1\0\2").has_addresses);
}

/* TLVs are passed over: they need not be there yet. */
Test(proxy_protocol, what_follows_the_addresses)
{
    struct proxy_header header =
        DECODE(SIGNATURE "\x21\x11\x3f\xf0\xc0\0\2\1\xc0\0\2\2\0\1\0\2\x4\0\x20");
    cr_expect(header.has_addresses);
    cr_expect_eq(header.size, LIMIT_PROXY_PROTOCOL);
    cr_expect_str_eq(text_of(&header.from), "192.0.2.1:1");
    cr_expect_str_eq(text_of(&header.to), "192.0.2.2:2");
}

Test(proxy_protocol, each_fault_has_its_reason)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *why;
    } rows[] = {
#define ROW(text, why) {text, sizeof(text) - 1, why}
        ROW("G", "begin"),
        ROW("PROXX", "begin"),
        ROW("proxy ", "begin"),
        ROW("\r\n\r\n\r", "begin"),
        ROW("PROXY \n", "CR LF"),
        ROW("PROXY \r\n", "TCP4"),
        ROW("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4"),
        ROW("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4"),
        ROW("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4"),
        ROW("PROXY TCP4\r\n", "address"),
        ROW("PROXY TCP4 1.2.3.4\r\n", "address"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3 1 2\r\n", "address"),
        ROW("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", "address"),
        ROW("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", "address"),
        ROW("PROXY TCP4 ::1 ::1 1 2\r\n", "address"),
        ROW("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", "address"),
        ROW("PROXY TCP6 ::1%lo ::1 1 2\r\n", "address"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 99999999999 1\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 x\r\n", "ports"),
        ROW("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "CR LF"),
        ROW("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n", "NUL"),
        ROW(SIGNATURE "\x11", "version"),
        ROW(SIGNATURE "\x31", "version"),
        ROW(SIGNATURE "\x22", "version"),
        ROW(SIGNATURE "\x21\x11\0\x0b", "too short"),
        ROW(SIGNATURE "\x21\x21\0\x23", "too short"),
        ROW(SIGNATURE "\x21\x31\0\xd7", "too short"),
        ROW(SIGNATURE "\x21\x41\0\xff", "unknown family"),
        ROW(SIGNATURE "\x21\x03\0\xff", "unknown family"),
        ROW(SIGNATURE "\x21\x11\x3f\xf1", "16 KiB"),
        ROW(SIGNATURE "\x20\0\xff\xff", "16 KiB"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct proxy_header header;
        const char *why = "";
        int result =
            proxy_protocol_decode((const uint8_t *)rows[i].bytes, rows[i].size, &header, &why);
        cr_expect_eq(result, ERR_PROTOCOL, "row %zu: %d", i, result);
        cr_expect_not_null(strstr(why, rows[i].why), "row %zu: %s", i, why);
    }
}

Test(proxy_protocol, a_line_that_does_not_end)
{
    uint8_t line[200];
    struct proxy_header header;
    const char *why;
    memset(line, 'x', sizeof(line));
    memcpy(line, "PROXY UNKNOWN ", 14);
    for (size_t size = 0; size < PROXY_PROTOCOL_MAX; size++)
        cr_assert_eq(proxy_protocol_decode(line, size, &header, &why), 0);
    cr_assert_eq(proxy_protocol_decode(line, PROXY_PROTOCOL_MAX, &header, &why), ERR_PROTOCOL);
    memcpy(line + PROXY_PROTOCOL_MAX - 2, "\r\n", 2);
    cr_assert_eq(proxy_protocol_decode(line, PROXY_PROTOCOL_MAX, &header, &why), 1);
}
