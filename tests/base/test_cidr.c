#include "base/cidr.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct addr addr_of(const char *host)
{
    struct host_port name = {.port = 1};
    struct addr addr;
    memcpy(name.host, host, strlen(host) + 1);
    cr_assert(addr_from_numeric(&name, &addr), "%s", host);
    return addr;
}

static struct cidr prefix_of(const char *text)
{
    struct cidr cidr;
    bool is_denied = *text == '!';
    text += is_denied;
    cr_assert_eq(cidr_parse(text, strlen(text), &cidr), 0, "%s", text);
    cidr.is_denied = is_denied;
    return cidr;
}

/* "!" in front of a prefix denies it. */
static const struct cidr_set *set_of(const char *const *texts, size_t count, bool allows_others)
{
    struct cidr prefixes[16];
    const struct cidr_set *set;
    cr_assert_leq(count, ARRAY_SIZE(prefixes));
    for (size_t i = 0; i < count; i++)
        prefixes[i] = prefix_of(texts[i]);
    cr_assert_eq(cidr_set_create(prefixes, count, allows_others, &set), 0);
    return set;
}

#define SET(allows_others, ...)                                                        \
    set_of((const char *[]){__VA_ARGS__}, ARRAY_SIZE(((const char *[]){__VA_ARGS__})), \
           allows_others)

static bool allows(const struct cidr_set *set, const char *host)
{
    struct addr addr = addr_of(host);
    return cidr_set_allows(set, &addr);
}

Test(cidr, parses_and_formats)
{
    static const struct {
        const char *text, *formatted; /* formatted NULL: -EINVAL */
        int result;
    } rows[] = {
        {"10.0.0.0/8", "10.0.0.0/8", 0},
        {"10.1.2.3", "10.1.2.3/32", 0},
        {"0.0.0.0/0", "0.0.0.0/0", 0},
        {"255.255.255.255/32", "255.255.255.255/32", 0},
        {"2001:db8::/32", "2001:db8::/32", 0},
        {"::/0", "::/0", 0},
        {"::1", "::1/128", 0},
        {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", 0},
        {"::ffff:10.0.0.0/104", "10.0.0.0/8", 0},
        {"::ffff:10.1.2.3", "10.1.2.3/32", 0},
        {"::ffff:0:0/96", "0.0.0.0/0", 0},
        {"::/95", "::/95", 0},
        {"10.0.0.1/8", "10.0.0.0/8", -EDOM},
        {"10.0.0.1/0", "0.0.0.0/0", -EDOM},
        {"2001:db8::1/64", "2001:db8::/64", -EDOM},
        {"::ffff:10.0.0.1/104", "10.0.0.0/8", -EDOM},
        {"", NULL, 0},
        {"/", NULL, 0},
        {"/8", NULL, 0},
        {"10.0.0.0/", NULL, 0},
        {"10.0.0.0/33", NULL, 0},
        {"10.0.0.0/08", NULL, 0},
        {"10.0.0.0/+8", NULL, 0},
        {"10.0.0.0/ 8", NULL, 0},
        {"10.0.0.0/8/8", NULL, 0},
        {"10.0.0.0/4294967304", NULL, 0},
        {"::/129", NULL, 0},
        {"10.0.0", NULL, 0},
        {"10.0.0.0.0/8", NULL, 0},
        {"010.0.0.0/8", NULL, 0},
        {"10.0.0.0 /8", NULL, 0},
        {"[::1]", NULL, 0},
        {"fe80::1%eth0", NULL, 0},
        {"localhost", NULL, 0},
        {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb/128", NULL, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct cidr cidr;
        char text[CIDR_TEXT_SIZE];
        int expected = rows[i].formatted != NULL ? rows[i].result : -EINVAL;
        cr_expect_eq(cidr_parse(rows[i].text, strlen(rows[i].text), &cidr), expected, "%s",
                     rows[i].text);
        if (rows[i].formatted != NULL)
            cr_expect_str_eq(cidr_format(&cidr, text), rows[i].formatted);
    }
}

Test(cidr, reads_no_more_than_its_size)
{
    struct cidr cidr;
    char text[CIDR_TEXT_SIZE];
    cr_expect_eq(cidr_parse("10.0.0.0/8,11", 10, &cidr), 0);
    cr_expect_str_eq(cidr_format(&cidr, text), "10.0.0.0/8");
    cr_expect_eq(cidr_parse("10.0.0.0\0/8", 11, &cidr), -EINVAL);
}

Test(cidr, the_longest_prefix_decides)
{
    const struct cidr_set *set =
        SET(true, "!10.0.0.0/8", "10.1.0.0/16", "!10.1.2.0/24", "10.1.2.3", "!2001:db8::/32",
            "2001:db8:1::/48", "!255.255.255.0/24", "!ffff::/16");
    cr_expect(allows(set, "9.255.255.255"));
    cr_expect_not(allows(set, "10.0.0.0"));
    cr_expect_not(allows(set, "10.0.255.255"));
    cr_expect(allows(set, "10.1.0.0"));
    cr_expect(allows(set, "10.1.1.255"));
    cr_expect_not(allows(set, "10.1.2.2"));
    cr_expect(allows(set, "10.1.2.3"));
    cr_expect_not(allows(set, "10.1.2.4"));
    cr_expect(allows(set, "10.1.3.0"));
    cr_expect_not(allows(set, "10.2.0.0"));
    cr_expect_not(allows(set, "10.255.255.255"));
    cr_expect(allows(set, "11.0.0.0"));
    cr_expect_not(allows(set, "255.255.255.255"));
    cr_expect(allows(set, "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"));
    cr_expect_not(allows(set, "2001:db8::"));
    cr_expect(allows(set, "2001:db8:1::5"));
    cr_expect_not(allows(set, "2001:db8:2::"));
    cr_expect(allows(set, "2001:db9::"));
    cr_expect_not(allows(set, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    cidr_set_drop(set);
}

Test(cidr, mapped_is_ipv4_and_no_family_decides_for_the_other)
{
    const struct cidr_set *v4 = SET(true, "!0.0.0.0/0"), *v6 = SET(true, "!::/0");
    cr_expect_not(allows(v4, "1.2.3.4"));
    cr_expect_not(allows(v4, "::ffff:1.2.3.4"));
    cr_expect(allows(v4, "::1"));
    cr_expect(allows(v6, "1.2.3.4"));
    cr_expect(allows(v6, "::ffff:1.2.3.4"));
    cr_expect_not(allows(v6, "::1"));
    cr_expect_not(allows(v6, "::fffe:1.2.3.4"));
    cidr_set_drop(v4);
    cidr_set_drop(v6);
}

Test(cidr, of_the_same_prefix_denied_wins)
{
    const struct cidr_set *set = SET(false, "!10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/9",
                                     "!11.0.0.0/8", "11.0.0.0/8");
    cr_expect(allows(set, "10.0.0.1"));
    cr_expect_not(allows(set, "10.128.0.1"));
    cr_expect_not(allows(set, "11.0.0.1"));
    cr_expect_not(allows(set, "12.0.0.1"));
    cidr_set_drop(set);
}

Test(cidr, what_has_no_address_is_not_allowed)
{
    const struct cidr_set *set = SET(true, "!10.0.0.0/8");
    struct addr none = {.len = 0}, unix_socket = addr_of_unix("/run/x");
    cr_expect_not(cidr_set_allows(set, &none));
    cr_expect_not(cidr_set_allows(set, &unix_socket));
    cidr_set_drop(set);
}

Test(cidr, an_empty_set)
{
    const struct cidr_set *open, *closed;
    cr_assert_eq(cidr_set_create(NULL, 0, true, &open), 0);
    cr_assert_eq(cidr_set_create(NULL, 0, false, &closed), 0);
    cr_expect(allows(open, "1.2.3.4") && allows(open, "::1"));
    cr_expect_not(allows(closed, "1.2.3.4") || allows(closed, "::1"));
    cr_expect_not(cidr_set_equal(open, closed));
    cidr_set_drop(open);
    cidr_set_drop(closed);
}

Test(cidr, equal_is_what_has_the_same_verdicts)
{
    const struct cidr_set *a = SET(false, "10.0.0.0/8"),
                          *b = SET(false, "10.128.0.0/9", "10.0.0.0/9", "10.3.0.0/16"),
                          *c = SET(false, "10.0.0.0/9"), *d = SET(true, "!10.0.0.0/8"),
                          *e = SET(false, "10.0.0.0/8", "::1");
    cr_expect(cidr_set_equal(a, a) && cidr_set_equal(NULL, NULL));
    cr_expect(cidr_set_equal(a, b) && cidr_set_equal(b, a));
    cr_expect_not(cidr_set_equal(a, c) || cidr_set_equal(a, d) || cidr_set_equal(a, e));
    cr_expect_not(cidr_set_equal(a, NULL) || cidr_set_equal(NULL, a));
    const struct cidr_set *const all[] = {a, b, c, d, e};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        cidr_set_drop(all[i]);
}

Test(cidr, users_share_a_set)
{
    const struct cidr_set *set = SET(true, "!10.0.0.0/8");
    cr_expect_eq(cidr_set_use(set), set);
    cidr_set_drop(set);
    cr_expect_not(allows(set, "10.0.0.1"), "one user is left");
    cidr_set_drop(set);
    cr_expect_null(cidr_set_use(NULL));
    cidr_set_drop(NULL);
}

/* ---- against a model that looks at every prefix ---- */

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

/* The bytes cluster, so that prefixes nest, touch, and repeat. */
static void random_bytes(uint8_t *bytes, size_t size)
{
    static const uint8_t likely[] = {0, 0, 1, 127, 128, 255, 255};
    for (size_t i = 0; i < size; i++)
        bytes[i] = next_random() % 8 == 0 ? (uint8_t)next_random()
                                          : likely[next_random() % ARRAY_SIZE(likely)];
}

struct model_prefix {
    uint8_t bytes[16];
    size_t size; /* 4 or 16 */
    unsigned int length;
    bool is_denied;
};

static void clear_behind(uint8_t *bytes, size_t size, unsigned int length)
{
    for (size_t i = 0; i < size * 8; i++)
        if (i >= length)
            bytes[i / 8] &= (uint8_t) ~(0x80u >> i % 8);
}

static bool model_holds(const struct model_prefix *prefix, const uint8_t *bytes, size_t size)
{
    uint8_t copy[16];
    memcpy(copy, bytes, size);
    clear_behind(copy, size, prefix->length);
    return prefix->size == size && memcmp(copy, prefix->bytes, size) == 0;
}

static bool model_allows(const struct model_prefix *prefixes, size_t count, bool allows_others,
                         const uint8_t *bytes, size_t size)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const struct model_prefix *best = NULL;
    if (size == 16 && memcmp(bytes, mapped, sizeof(mapped)) == 0) {
        bytes += sizeof(mapped);
        size = 4;
    }
    for (size_t i = 0; i < count; i++) {
        const struct model_prefix *prefix = &prefixes[i];
        if (model_holds(prefix, bytes, size) &&
            (best == NULL || prefix->length > best->length ||
             (prefix->length == best->length && prefix->is_denied)))
            best = prefix;
    }
    return best != NULL ? !best->is_denied : allows_others;
}

static void random_prefix(struct model_prefix *ret_model, struct cidr *ret)
{
    char text[CIDR_TEXT_SIZE + 4], digits[INET6_ADDRSTRLEN];
    struct model_prefix model = {.size = next_random() % 2 == 0 ? 4 : 16,
                                 .is_denied = next_random() % 2 == 0};
    random_bytes(model.bytes, model.size);
    model.length = (unsigned int)(next_random() % (model.size * 8 + 1));
    clear_behind(model.bytes, model.size, model.length);
    (void)inet_ntop(model.size == 4 ? AF_INET : AF_INET6, model.bytes, digits, sizeof(digits));
    (void)snprintf(text, sizeof(text), "%s/%u", digits, model.length);
    cr_assert_eq(cidr_parse(text, strlen(text), ret), 0, "%s", text);
    ret->is_denied = model.is_denied;
    *ret_model = model;
}

static struct addr model_addr(const uint8_t *bytes, size_t size)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    if (size == 4) {
        addr.v4.sin_family = AF_INET;
        memcpy(&addr.v4.sin_addr, bytes, size);
        addr.len = sizeof(addr.v4);
    } else {
        addr.v6.sin6_family = AF_INET6;
        memcpy(&addr.v6.sin6_addr, bytes, size);
    }
    return addr;
}

/* Where verdicts change: the first and the last address of a prefix, and their neighbours. */
static void near_prefix(const struct model_prefix *prefix, uint8_t *bytes)
{
    memcpy(bytes, prefix->bytes, prefix->size);
    uint64_t kind = next_random() % 4;
    if (kind % 2 == 1)
        for (size_t i = prefix->length; i < prefix->size * 8; i++)
            bytes[i / 8] |= (uint8_t)(0x80u >> i % 8);
    int step = kind < 2 ? 0 : kind == 2 ? -1 : 1;
    for (size_t i = prefix->size; i > 0 && step != 0; i--) {
        bytes[i - 1] = (uint8_t)(bytes[i - 1] + step);
        if (bytes[i - 1] != (step > 0 ? 0 : 255))
            break;
    }
}

Test(cidr, agrees_with_a_model)
{
    enum { SETS = 3000, PREFIXES = 40, ADDRESSES = 100 };
    for (unsigned int seed = 0; seed < SETS; seed++) {
        struct model_prefix models[PREFIXES];
        struct cidr prefixes[PREFIXES];
        const struct cidr_set *set;
        random_state = seed;
        size_t count = next_random() % PREFIXES + 1;
        bool allows_others = seed % 2 == 0;
        for (size_t i = 0; i < count; i++)
            random_prefix(&models[i], &prefixes[i]);
        cr_assert_eq(cidr_set_create(prefixes, count, allows_others, &set), 0);
        for (size_t i = 0; i < ADDRESSES; i++) {
            const struct model_prefix *prefix = &models[next_random() % count];
            uint8_t bytes[16];
            near_prefix(prefix, bytes);
            if (next_random() % 2 == 0)
                random_bytes(bytes, prefix->size);
            struct addr addr = model_addr(bytes, prefix->size);
            char text[ADDR_TEXT_SIZE];
            cr_assert_eq(cidr_set_allows(set, &addr),
                         model_allows(models, count, allows_others, bytes, prefix->size),
                         "seed %u, %s", seed, addr_format(&addr, text, sizeof(text)));
        }
        cidr_set_drop(set);
    }
}
