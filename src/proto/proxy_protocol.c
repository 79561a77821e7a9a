#include "proto/proxy_protocol.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum {
    V2_HEAD = 16, /* up to the addresses */
    V2_SIZE_V4 = 12,
    V2_SIZE_V6 = 36,
    V2_SIZE_UNIX = 216,
    COMMAND_LOCAL = 0,
    COMMAND_PROXY = 1,
    FAMILY_V4 = 1,
    FAMILY_V6 = 2,
    FAMILY_UNIX = 3,
    KIND_STREAM = 1,
    KIND_DATAGRAM = 2,
};

static const uint8_t v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";
static const char v1_signature[6] = "PROXY ";

/* The addresses as a header has them: both of one family. */
struct ends {
    bool is_v6;
    uint8_t from[16], to[16]; /* IPv4: the first four */
    uint16_t from_port, to_port;
};

/* ---- encoding ---- */

static bool is_ip(const struct addr *addr)
{
    return addr->len != 0 && (addr->any.sa_family == AF_INET || addr->any.sa_family == AF_INET6);
}

/* As IPv6; an IPv4 address becomes a mapped one (RFC 4291, section 2.5.5.2). */
static void octets_of(const struct addr *addr, uint8_t out[static 16])
{
    if (addr->any.sa_family == AF_INET6) {
        memcpy(out, &addr->v6.sin6_addr, 16);
        return;
    }
    memset(out, 0, 10);
    memset(out + 10, 0xff, 2);
    memcpy(out + 12, &addr->v4.sin_addr, 4);
}

static bool octets_are_mapped(const uint8_t octets[static 16])
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(octets, prefix, sizeof(prefix)) == 0;
}

static bool ends_of(const struct addr *from, const struct addr *to, struct ends *ret)
{
    if (!is_ip(from) || !is_ip(to))
        return false;
    octets_of(from, ret->from);
    octets_of(to, ret->to);
    ret->is_v6 = !octets_are_mapped(ret->from) || !octets_are_mapped(ret->to);
    if (!ret->is_v6) {
        memcpy(ret->from, ret->from + 12, 4);
        memcpy(ret->to, ret->to + 12, 4);
    }
    ret->from_port = addr_port(from);
    ret->to_port = addr_port(to);
    return true;
}

static size_t encode_v1(const struct ends *ends, uint8_t out[static PROXY_PROTOCOL_MAX])
{
    char from[INET6_ADDRSTRLEN] = "", to[INET6_ADDRSTRLEN] = "", line[PROXY_PROTOCOL_MAX + 1];
    int family = ends != NULL && ends->is_v6 ? AF_INET6 : AF_INET, size;
    if (ends == NULL) {
        size = snprintf(line, sizeof(line), "PROXY UNKNOWN\r\n");
    } else {
        (void)inet_ntop(family, ends->from, from, sizeof(from));
        (void)inet_ntop(family, ends->to, to, sizeof(to));
        size = snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n", ends->is_v6 ? '6' : '4',
                        from, to, (unsigned int)ends->from_port, (unsigned int)ends->to_port);
    }
    assert(size > 0 && size <= PROXY_PROTOCOL_MAX);
    memcpy(out, line, (size_t)size);
    return (size_t)size;
}

static uint8_t *put_port(uint8_t *at, uint16_t port)
{
    *at++ = (uint8_t)(port >> 8);
    *at++ = (uint8_t)port;
    return at;
}

static size_t encode_v2(const struct ends *ends, bool is_datagram, uint8_t *out)
{
    uint8_t *at = out + sizeof(v2_signature);
    memcpy(out, v2_signature, sizeof(v2_signature));
    if (ends == NULL) {
        *at++ = 2 << 4 | COMMAND_LOCAL;
        memset(at, 0, 3);
        return V2_HEAD;
    }
    size_t octets = ends->is_v6 ? 16 : 4;
    *at++ = 2 << 4 | COMMAND_PROXY;
    *at++ = (uint8_t)((ends->is_v6 ? FAMILY_V6 : FAMILY_V4) << 4 |
                      (is_datagram ? KIND_DATAGRAM : KIND_STREAM));
    at = put_port(at, ends->is_v6 ? V2_SIZE_V6 : V2_SIZE_V4);
    memcpy(at, ends->from, octets);
    memcpy(at + octets, ends->to, octets);
    at = put_port(at + 2 * octets, ends->from_port);
    at = put_port(at, ends->to_port);
    return (size_t)(at - out);
}

size_t proxy_protocol_encode(unsigned int version, bool is_datagram, const struct addr *from,
                             const struct addr *to, uint8_t out[static PROXY_PROTOCOL_MAX])
{
    struct ends ends;
    const struct ends *known = ends_of(from, to, &ends) ? &ends : NULL;
    return version == 1 ? encode_v1(known, out) : encode_v2(known, is_datagram, out);
}

/* ---- decoding ---- */

static int refuse(const char **ret_why, const char *why)
{
    *ret_why = why;
    return ERR_PROTOCOL;
}

static void make_addr(bool is_v6, const void *octets, uint16_t port, struct addr *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (is_v6) {
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons(port);
        memcpy(&ret->v6.sin6_addr, octets, 16);
        ret->len = sizeof(ret->v6);
    } else {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons(port);
        memcpy(&ret->v4.sin_addr, octets, 4);
        ret->len = sizeof(ret->v4);
    }
}

/* Cuts the next word off, at one space or at the end. NULL: there is none. */
static const char *next_word(char **line)
{
    char *word = *line, *space;
    if (word == NULL || *word == '\0')
        return NULL;
    space = strchr(word, ' ');
    if (space != NULL)
        *space++ = '\0';
    *line = space;
    return word;
}

static bool parse_port(const char *word, uint16_t *ret)
{
    uint32_t port = 0;
    if (word == NULL || *word == '\0' || (word[0] == '0' && word[1] != '\0'))
        return false;
    for (; *word != '\0'; word++) {
        if (*word < '0' || *word > '9' || (port = port * 10 + (uint32_t)(*word - '0')) > UINT16_MAX)
            return false;
    }
    *ret = (uint16_t)port;
    return true;
}

/* line: what stands between "PROXY " and the end of the line. */
static int decode_v1_line(char *line, struct proxy_header *ret, const char **ret_why)
{
    const char *protocol = next_word(&line);
    uint8_t from[16], to[16];
    uint16_t from_port, to_port;
    if (protocol != NULL && strcmp(protocol, "UNKNOWN") == 0)
        return 1; /* whatever follows has to be ignored */
    bool is_v6 = protocol != NULL && strcmp(protocol, "TCP6") == 0;
    if (protocol == NULL || (!is_v6 && strcmp(protocol, "TCP4") != 0))
        return refuse(ret_why, "v1: neither TCP4, TCP6 nor UNKNOWN");
    const char *from_text = next_word(&line), *to_text = next_word(&line);
    int family = is_v6 ? AF_INET6 : AF_INET;
    if (from_text == NULL || to_text == NULL || inet_pton(family, from_text, from) != 1 ||
        inet_pton(family, to_text, to) != 1)
        return refuse(ret_why, "v1: an address is missing, or is none of this family");
    if (!parse_port(next_word(&line), &from_port) || !parse_port(next_word(&line), &to_port) ||
        line != NULL)
        return refuse(ret_why, "v1: two ports from 0 to 65535 have to end the line");
    ret->has_addresses = true;
    make_addr(is_v6, from, from_port, &ret->from);
    make_addr(is_v6, to, to_port, &ret->to);
    return 1;
}

static int decode_v1(const uint8_t *bytes, size_t size, struct proxy_header *ret,
                     const char **ret_why)
{
    char line[PROXY_PROTOCOL_MAX + 1];
    size_t room = MIN(size, (size_t)PROXY_PROTOCOL_MAX);
    const uint8_t *end = memchr(bytes, '\n', room);
    if (end == NULL)
        return room < PROXY_PROTOCOL_MAX ? 0 : refuse(ret_why, "v1: longer than 107 bytes");
    size_t used = (size_t)(end - bytes);
    if (bytes[used - 1] != '\r') /* the signature is in front of it */
        return refuse(ret_why, "v1: the line does not end with CR LF");
    size_t length = used - 1 - sizeof(v1_signature);
    memcpy(line, bytes + sizeof(v1_signature), length);
    line[length] = '\0';
    if (strlen(line) != length)
        return refuse(ret_why, "v1: a NUL in the line");
    *ret = (struct proxy_header){.size = used + 1, .version = 1};
    return decode_v1_line(line, ret, ret_why);
}

/* The addresses of a PROXY command; they have `size` bytes with the TLVs behind them. */
static int decode_v2_addresses(const uint8_t *at, size_t size, unsigned int family,
                               unsigned int kind, struct proxy_header *ret, const char **ret_why)
{
    static const size_t sizes[] = {0, V2_SIZE_V4, V2_SIZE_V6, V2_SIZE_UNIX};
    if (family > FAMILY_UNIX || kind > KIND_DATAGRAM)
        return refuse(ret_why, "v2: unknown family or protocol");
    if (size < sizes[family])
        return refuse(ret_why, "v2: too short for its addresses");
    ret->has_addresses = kind != 0 && (family == FAMILY_V4 || family == FAMILY_V6);
    if (!ret->has_addresses)
        return 1;
    size_t octets = family == FAMILY_V6 ? 16 : 4;
    const uint8_t *ports = at + 2 * octets;
    make_addr(octets == 16, at, (uint16_t)(ports[0] << 8 | ports[1]), &ret->from);
    make_addr(octets == 16, at + octets, (uint16_t)(ports[2] << 8 | ports[3]), &ret->to);
    return 1;
}

static int decode_v2(const uint8_t *bytes, size_t size, struct proxy_header *ret,
                     const char **ret_why)
{
    static_assert((int)V2_HEAD + V2_SIZE_V6 <= (int)PROXY_PROTOCOL_HEAD, "the addresses fit");
    if (size <= sizeof(v2_signature))
        return 0;
    unsigned int version = bytes[12] >> 4, command = bytes[12] & 0xf;
    if (version != 2 || command > COMMAND_PROXY)
        return refuse(ret_why, "v2: unknown version or command");
    if (size < V2_HEAD)
        return 0;
    size_t length = (size_t)(bytes[14] << 8 | bytes[15]);
    unsigned int family = bytes[13] >> 4, kind = bytes[13] & 0xf;
    if (V2_HEAD + length > LIMIT_PROXY_PROTOCOL)
        return refuse(ret_why, "v2: larger than 16 KiB");
    *ret = (struct proxy_header){.size = V2_HEAD + length, .version = 2};
    if (command == COMMAND_LOCAL)
        return 1;
    size_t needed = family == FAMILY_V4 ? V2_SIZE_V4 : family == FAMILY_V6 ? V2_SIZE_V6 : 0;
    if (length >= needed && size < V2_HEAD + needed)
        return 0;
    return decode_v2_addresses(bytes + V2_HEAD, length, family, kind, ret, ret_why);
}

int proxy_protocol_decode(const uint8_t *bytes, size_t size, struct proxy_header *ret,
                          const char **ret_why)
{
    static_assert(LIMIT_PROXY_PROTOCOL == 16 << 10, "as a message says");
    if (size == 0)
        return 0;
    bool is_v2 = bytes[0] == v2_signature[0];
    const void *signature = is_v2 ? (const void *)v2_signature : v1_signature;
    size_t signature_size = is_v2 ? sizeof(v2_signature) : sizeof(v1_signature);
    if (memcmp(bytes, signature, MIN(size, signature_size)) != 0)
        return refuse(ret_why, "it does not begin like one of v1 or v2");
    if (size < signature_size)
        return 0;
    return is_v2 ? decode_v2(bytes, size, ret, ret_why) : decode_v1(bytes, size, ret, ret_why);
}
