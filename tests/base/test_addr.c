#include "base/addr.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>

static struct addr numeric(const char *text)
{
    struct host_port host_port;
    struct addr addr;
    cr_assert_eq(host_port_parse(text, &host_port), 0, "%s", text);
    cr_assert(addr_from_numeric(&host_port, &addr), "%s", text);
    return addr;
}

Test(addr, unix_sockets)
{
    static const struct {
        const char *text, *host, *formatted; /* host NULL: -EINVAL */
    } rows[] = {
        {"unix:/run/x", "/run/x", "unix:/run/x"},
        {"/run/x", "/run/x", "unix:/run/x"},
        {"unix:@x", "@x", "unix:@x"},
        {"@x", NULL, NULL},
        {"unix:x", NULL, NULL},
        {"unix:", NULL, NULL},
        {"", NULL, NULL},
        {"unix:/", NULL, NULL},
        {"unix:/a\nb", NULL, NULL},
        {"/a\x7f", NULL, NULL},
    };
    char text[ADDR_HOST_SIZE + 8];
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port parsed;
        int expected = rows[i].host != NULL ? 0 : -EINVAL;
        cr_expect_eq(host_port_parse_unix(rows[i].text, &parsed), expected, "%s", rows[i].text);
        if (expected < 0)
            continue;
        cr_expect(host_port_is_unix(&parsed));
        cr_expect_str_eq(parsed.host, rows[i].host);
        cr_expect_str_eq(host_port_format(&parsed, text, sizeof(text)), rows[i].formatted);
        cr_expect_eq(host_port_parse(rows[i].formatted, &parsed), -EINVAL, "no host:port");
    }
}

Test(addr, the_address_of_a_unix_socket)
{
    struct addr a = addr_of_unix("/run/a"), b = addr_of_unix("/run/b"), tcp, from_name;
    struct host_port name = {.host = "/run/a"}, home = {.host = "127.0.0.1", .port = 80};
    char text[ADDR_TEXT_SIZE];
    cr_expect(addr_is_unix(&a));
    cr_expect(addr_from_numeric(&name, &from_name));
    cr_expect(addr_from_numeric(&home, &tcp));
    cr_expect(addr_equal(&a, &from_name) && addr_covers(&a, &from_name));
    cr_expect(!addr_equal(&a, &b) && !addr_overlaps(&a, &b));
    cr_expect(!addr_equal(&a, &tcp) && !addr_overlaps(&a, &tcp) && !addr_overlaps(&tcp, &a));
    cr_expect_eq(addr_port(&a), 0);
    cr_expect_not(addr_is_loopback(&a));
    cr_expect_str_eq(addr_format(&a, text, sizeof(text)), "unix");
    static const struct addr_key nobody;
    struct addr_key key = addr_key(&a, (struct addr_prefixes){.v4 = 32, .v6 = 64});
    cr_expect(addr_key_equal(&key, &nobody), "not counted by any limit");
    cr_expect_eq(sizeof(struct addr), 32, "idle connections hold addresses");
}

Test(addr, good_host_ports)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1", 80},
        {"0.0.0.0:1", "0.0.0.0", 1},
        {"1.2.3.4:65535", "1.2.3.4", 65535},
        {"example.com:443", "example.com", 443},
        {"localhost:2333", "localhost", 2333},
        {"my_host-1.lan.:22", "my_host-1.lan.", 22},
        {"[::1]:80", "::1", 80},
        {"[::]:2333", "::", 2333},
        {"[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2:3:4:5:6", 443},
        {"[::ffff:1.2.3.4]:53", "::ffff:1.2.3.4", 53},
        {"[fe80::1%eth0]:53", "fe80::1%eth0", 53},
        {"[fe80::1%2]:53", "fe80::1%2", 53},
        {"a:00080", "a", 80},
        /* Without brackets, as rathole takes them. */
        {"::1:80", "::1", 80},
        {":::2333", "::", 2333},
        {"2001:db8::5:3080", "2001:db8::5", 3080},
        {"2001:db8:1:2:3:4:5:6:443", "2001:db8:1:2:3:4:5:6", 443},
        {"::ffff:1.2.3.4:53", "::ffff:1.2.3.4", 53},
        {"fe80::1%eth0:53", "fe80::1%eth0", 53},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port parsed;
        cr_assert_eq(host_port_parse(rows[i].text, &parsed), 0, "%s", rows[i].text);
        cr_expect_str_eq(parsed.host, rows[i].host);
        cr_expect_eq(parsed.port, rows[i].port, "%s", rows[i].text);
    }
}

Test(addr, bad_host_ports)
{
    static const char *const rows[] = {
        "",
        ":",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:4294967376", /* 80 modulo 2^32 */
        "localhost:18446744073709551696",
        "localhost:+80",
        "localhost:-80",
        "localhost: 80",
        "localhost:80 ",
        "localhost:80x",
        "localhost:8 0",
        "localhost:0x50",
        "localhost:80\n",
        "localhost:http",
        ":80",
        " localhost:80",
        "local host:80",
        "local\thost:80",
        "host/path:80",
        "user@host:80",
        "http://host:80",
        "::1",
        "::",
        "2001:db8::",
        "2001:db8:1:2:3:4:5:6",
        "2001:db8::1:http",
        "::1:0",
        "::1:65536",
        "::1%:80",
        ":1:80",
        "1:2:3:80",
        "1.2.3.4:5:80",
        "host:1:80",
        "1:2:3:4:5:6:7:8:9:80",
        "[::1]",
        "[::1]80",
        "[::1]:",
        "[::1]:0",
        "[::1:80",
        "::1]:80",
        "[]:80",
        "[[::1]]:80",
        "[1.2.3.4]:80",
        "[localhost]:80",
        "[::1%]:80",
        "[::1%a%b]:80",
        "[::1%a b]:80",
        "[::1%interface_too_long]:80",
        "[1:2:3:4:5:6:7:8:9]:80",
        "[::1] :80",
        "h\xc3\xb6st:80",
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port parsed, before;
        memset(&parsed, 0xa5, sizeof(parsed));
        before = parsed;
        cr_expect_eq(host_port_parse(rows[i], &parsed), -EINVAL, "\"%s\"", rows[i]);
        cr_expect(memcmp(&parsed, &before, sizeof(parsed)) == 0, "\"%s\" touched it", rows[i]);
    }
}

Test(addr, longest_host)
{
    char text[ADDR_HOST_SIZE + 10];
    struct host_port parsed;
    memset(text, 'a', sizeof(text));
    memcpy(text + ADDR_HOST_SIZE - 1, ":80", 4);
    cr_assert_eq(host_port_parse(text, &parsed), 0);
    cr_expect_eq(strlen(parsed.host), ADDR_HOST_SIZE - 1);

    memset(text, 'a', sizeof(text));
    memcpy(text + ADDR_HOST_SIZE, ":80", 4);
    cr_expect_eq(host_port_parse(text, &parsed), -EINVAL);
}

Test(addr, host_port_round_trip)
{
    static const char *const rows[] = {"1.2.3.4:80", "[::1]:80", "name:1", "[fe80::1%eth0]:65535"};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port parsed;
        char out[ADDR_HOST_SIZE + 16];
        cr_assert_eq(host_port_parse(rows[i], &parsed), 0);
        cr_expect_str_eq(host_port_format(&parsed, out, sizeof(out)), rows[i]);
    }
}

Test(addr, format_is_terminated_when_cut)
{
    struct host_port host_port = {.host = "example.com", .port = 80};
    struct addr addr = numeric("[2001:db8::1]:80");
    char out[8];
    memset(out, 'x', sizeof(out));
    cr_expect_str_eq(host_port_format(&host_port, out, sizeof(out)), "example");
    memset(out, 'x', sizeof(out));
    cr_expect_str_eq(addr_format(&addr, out, sizeof(out)), "[2001:d");
}

Test(addr, numeric_round_trip)
{
    static const struct {
        const char *text, *shown;
        int family;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1:80", AF_INET},
        {"255.255.255.255:65535", "255.255.255.255:65535", AF_INET},
        {"[::1]:80", "[::1]:80", AF_INET6},
        {"[2001:DB8:0::1]:443", "[2001:db8::1]:443", AF_INET6},
        {"[::ffff:1.2.3.4]:53", "1.2.3.4:53", AF_INET6},
        {"[fe80::1%7]:53", "[fe80::1%7]:53", AF_INET6},
        {"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%4294967295]:65535",
         "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535", AF_INET6},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char out[ADDR_TEXT_SIZE];
        struct addr addr = numeric(rows[i].text);
        cr_expect_eq(addr.any.sa_family, rows[i].family);
        cr_expect_eq(addr.len, rows[i].family == AF_INET ? sizeof(addr.v4) : sizeof(addr.v6));
        cr_expect_str_eq(addr_format(&addr, out, sizeof(out)), rows[i].shown);
    }
}

Test(addr, names_are_not_numeric)
{
    static const char *const rows[] = {"localhost:80", "1.2.3:80", "256.1.1.1:80",
                                       "01.02.03.04x:80", "[fe80::1%nosuch]:80"};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port host_port;
        struct addr addr = {.len = 77};
        cr_assert_eq(host_port_parse(rows[i], &host_port), 0, "%s", rows[i]);
        cr_expect_not(addr_from_numeric(&host_port, &addr), "%s", rows[i]);
        cr_expect_eq(addr.len, 77);
    }
}

Test(addr, scope_by_name)
{
    unsigned int index = if_nametoindex("lo");
    if (index == 0)
        cr_skip("no loopback interface");
    cr_expect_eq(numeric("[fe80::1%lo]:80").v6.sin6_scope_id, index);
}

Test(addr, none)
{
    struct addr none = {0}, some = numeric("1.2.3.4:80");
    char out[ADDR_TEXT_SIZE];
    cr_expect_str_eq(addr_format(&none, out, sizeof(out)), "(none)");
    cr_expect_eq(addr_port(&none), 0);
    cr_expect_not(addr_is_loopback(&none));
    cr_expect(addr_equal(&none, &none));
    cr_expect_not(addr_equal(&none, &some));
    cr_expect_not(addr_equal(&some, &none));
}

Test(addr, equal)
{
    static const char *const different[] = {
        "1.2.3.4:80",       "1.2.3.4:81",       "1.2.3.5:80",     "[::ffff:1.2.3.4]:80",
        "[fe80::1]:80",     "[fe80::1%3]:80",   "[fe80::1%4]:80", "[fe80::1%3]:81",
        "[2001:db8::1]:80", "[2001:db8::2]:80",
    };
    for (size_t i = 0; i < ARRAY_SIZE(different); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(different); j++) {
            struct addr a = numeric(different[i]), b = numeric(different[j]);
            cr_expect_eq(addr_equal(&a, &b), i == j, "%s %s", different[i], different[j]);
        }
    }
}

Test(addr, overlaps)
{
    static const struct {
        const char *a, *b;
        bool overlaps;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1:80", true},
        {"127.0.0.1:80", "127.0.0.1:81", false},
        {"127.0.0.1:80", "127.0.0.2:80", false},
        {"0.0.0.0:80", "127.0.0.1:80", true},
        {"0.0.0.0:80", "0.0.0.0:80", true},
        {"0.0.0.0:80", "[::1]:80", false},
        {"0.0.0.0:80", "[::ffff:1.2.3.4]:80", true},
        {"1.2.3.4:80", "[::ffff:1.2.3.4]:80", true},
        {"[::]:80", "1.2.3.4:80", true},
        {"[::]:80", "0.0.0.0:80", true},
        {"[::]:80", "[2001:db8::1]:80", true},
        {"[::]:80", "1.2.3.4:81", false},
        {"[2001:db8::1]:80", "[2001:db8::1]:80", true},
        {"[2001:db8::1]:80", "[2001:db8::2]:80", false},
        {"[fe80::1%1]:80", "[fe80::1%2]:80", false},
        {"[::1]:80", "127.0.0.1:80", false},
    };
    static const struct addr none;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct host_port name;
        struct addr a, b;
        cr_assert_eq(host_port_parse(rows[i].a, &name), 0);
        cr_assert(addr_from_numeric(&name, &a));
        cr_assert_eq(host_port_parse(rows[i].b, &name), 0);
        cr_assert(addr_from_numeric(&name, &b));
        cr_expect_eq(addr_overlaps(&a, &b), rows[i].overlaps, "%s %s", rows[i].a, rows[i].b);
        cr_expect_eq(addr_overlaps(&b, &a), rows[i].overlaps, "%s %s", rows[i].b, rows[i].a);
        cr_expect_not(addr_overlaps(&a, &none));
    }
    cr_expect_not(addr_overlaps(&none, &none));
}

static bool covers(const char *a, const char *b)
{
    struct addr addr_a = numeric(a), addr_b = numeric(b);
    return addr_covers(&addr_a, &addr_b);
}

Test(addr, covers)
{
    cr_expect(covers("1.2.3.4:80", "1.2.3.4:80") && covers("0.0.0.0:80", "1.2.3.4:80"));
    cr_expect(covers("[::]:80", "0.0.0.0:80") && covers("[::]:80", "[::1]:80"));
    cr_expect_not(covers("1.2.3.4:80", "0.0.0.0:80") || covers("0.0.0.0:80", "[::]:80"));
    cr_expect_not(covers("[::1]:80", "[::]:80") || covers("[::]:80", "[::1]:81"));
}

Test(addr, loopback)
{
    static const struct {
        const char *text;
        bool loopback;
    } rows[] = {
        {"127.0.0.1:1", true},      {"127.255.1.2:1", true},
        {"[::1]:1", true},          {"[::ffff:127.0.0.1]:1", true},
        {"128.0.0.1:1", false},     {"126.255.255.255:1", false},
        {"0.0.0.0:1", false},       {"[::]:1", false},
        {"[::2]:1", false},         {"[::ffff:1.0.0.127]:1", false},
        {"[::127.0.0.1]:1", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct addr addr = numeric(rows[i].text);
        cr_expect_eq(addr_is_loopback(&addr), rows[i].loopback, "%s", rows[i].text);
    }
}

static struct addr_key key_of(const char *text, uint8_t v4, uint8_t v6)
{
    struct addr addr = numeric(text);
    return addr_key(&addr, (struct addr_prefixes){.v4 = v4, .v6 = v6});
}

Test(addr, key)
{
    static const struct {
        const char *a, *b;
        uint8_t v4, v6;
        bool same;
    } rows[] = {
        {"1.2.3.4:80", "1.2.3.4:9999", 32, 64, true}, /* ports do not matter */
        {"1.2.3.4:80", "1.2.3.5:80", 32, 64, false},
        {"1.2.3.4:80", "[::ffff:1.2.3.4]:80", 32, 64, true},
        {"1.2.3.4:80", "[::ffff:1.2.3.4]:80", 7, 1, true},
        {"1.2.3.4:80", "1.2.3.5:80", 31, 64, true},
        {"1.2.3.4:80", "1.2.3.5:80", 24, 64, true},
        {"1.2.3.4:80", "1.2.4.4:80", 24, 64, false},
        {"1.2.3.4:80", "1.2.3.250:80", 25, 64, false},
        {"1.2.3.4:80", "127.2.3.250:80", 1, 64, true},
        {"1.2.3.4:80", "128.2.3.4:80", 1, 64, false},
        {"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff:ffff:ffff:ffff]:2", 32, 64, true},
        {"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", 32, 64, false},
        {"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", 32, 63, true},
        {"[2001:db8:1:2::1]:1", "[2001:db8:1:ff::1]:1", 32, 56, true},
        {"[2001:db8:1:2::1]:1", "[2001:db8:1:102::1]:1", 32, 56, false},
        {"[2001:db8::1]:1", "[2001:db8::2]:1", 32, 128, false},
        {"[2001:db8::1%3]:1", "[2001:db8::1%4]:2", 32, 128, true},
        {"[2001:db8::2]:1", "[2001:db8::3]:1", 32, 127, true},
        {"[2001:db8::1]:1", "[7fff::]:1", 32, 1, true},
        {"[2001:db8::1]:1", "[8000::]:1", 32, 1, false},
        {"[::1]:1", "[::2]:1", 32, 64, true},
        {"[::1]:1", "[::2]:1", 32, 128, false},
        {"0.0.0.0:1", "[::]:1", 32, 64, false},
        {"0.0.0.0:1", "[::]:1", 1, 1, false},
        {"1.2.3.4:1", "[::1.2.3.4]:1", 32, 128, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct addr_key key_a = key_of(rows[i].a, rows[i].v4, rows[i].v6);
        struct addr_key key_b = key_of(rows[i].b, rows[i].v4, rows[i].v6);
        cr_expect_eq(addr_key_equal(&key_a, &key_b), rows[i].same, "%s %s /%u /%u", rows[i].a,
                     rows[i].b, rows[i].v4, rows[i].v6);
    }
}

/* The key of zeros means no address, so no address may have it. */
Test(addr, key_of_nobody)
{
    static const char *const somebody[] = {"[::1]:1", "[::]:1", "[::2]:1", "0.0.0.0:1"};
    static const struct addr_key nobody;
    struct addr none = {0};
    struct addr_key key = addr_key(&none, (struct addr_prefixes){.v4 = 32, .v6 = 64});
    cr_expect(addr_key_equal(&key, &nobody));
    for (size_t i = 0; i < ARRAY_SIZE(somebody); i++) {
        for (uint8_t bits = 1; bits <= 128; bits++) {
            key = key_of(somebody[i], MIN(bits, 32), bits);
            cr_expect_not(addr_key_equal(&key, &nobody), "%s /%u", somebody[i], bits);
        }
    }
}
