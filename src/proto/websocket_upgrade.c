#include "proto/websocket_upgrade.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "crypto/sha1.h"

/* rathole's server ignores it. */
#define HALF_CLOSE_NAME  "Rathole-Uring"
#define HALF_CLOSE_VALUE "half-close"

#define LETTERS_AND_DIGITS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

enum field {
    CONNECTION,
    UPGRADE,
    VERSION,
    KEY,
    ACCEPT,
    EXTENSIONS,
    PROTOCOL,
    HALF_CLOSE,
    FIELD_COUNT,
};

static const struct {
    const char *name, *fault;
} fields[] = {
    [CONNECTION] = {"Connection", "Connection is not Upgrade"},
    [UPGRADE] = {"Upgrade", "Upgrade is not websocket"},
    [VERSION] = {"Sec-WebSocket-Version", "the WebSocket version is not 13"},
    [KEY] = {"Sec-WebSocket-Key", "Sec-WebSocket-Key is not 16 bytes in base64"},
    [ACCEPT] = {"Sec-WebSocket-Accept", "Sec-WebSocket-Accept does not match the key"},
    [EXTENSIONS] = {"Sec-WebSocket-Extensions", "an extension that was not offered"},
    [PROTOCOL] = {"Sec-WebSocket-Protocol", "a subprotocol that was not offered"},
    [HALF_CLOSE] = {HALF_CLOSE_NAME, ""},
};
static_assert(ARRAY_SIZE(fields) == FIELD_COUNT, "one each");

#define BIT(field) (1u << (field))

/* What must come, and what is looked at. The rest is ignored. */
static const struct {
    uint8_t needed, known;
} expected[] = {
    /* of a server's answer; nothing was offered that it could choose from */
    [false] = {BIT(CONNECTION) | BIT(UPGRADE) | BIT(ACCEPT),
               BIT(CONNECTION) | BIT(UPGRADE) | BIT(ACCEPT) | BIT(EXTENSIONS) | BIT(PROTOCOL)},
    /* of a client's request, whose offers are ignored */
    [true] = {BIT(CONNECTION) | BIT(UPGRADE) | BIT(VERSION) | BIT(KEY),
              BIT(CONNECTION) | BIT(UPGRADE) | BIT(VERSION) | BIT(KEY) | BIT(HALF_CLOSE)},
};

void websocket_upgrade_init(struct websocket_upgrade *upgrade, bool is_server)
{
    *upgrade = (struct websocket_upgrade){.is_server = is_server};
}

/* ---- making ---- */

ssize_t websocket_upgrade_request(struct websocket_upgrade *upgrade, const char *host,
                                  const uint8_t nonce[static WEBSOCKET_NONCE_SIZE],
                                  char out[static WEBSOCKET_REQUEST_MAX])
{
    size_t host_size = 0;
    /* A control character could add a field, or end the header. */
    while ((unsigned char)host[host_size] > ' ' && host[host_size] != 0x7f)
        host_size++;
    if (host_size == 0 || host[host_size] != '\0' || host_size > WEBSOCKET_HOST_MAX)
        return -EINVAL;
    keys_base64(nonce, WEBSOCKET_NONCE_SIZE, upgrade->key, sizeof(upgrade->key));
    /* In the order of rathole's client. */
    return snprintf(out, WEBSOCKET_REQUEST_MAX,
                    "GET / HTTP/1.1\r\n"
                    "Host: %s\r\n"
                    "Connection: Upgrade\r\n"
                    "Upgrade: websocket\r\n"
                    "Sec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: %s\r\n" HALF_CLOSE_NAME ": " HALF_CLOSE_VALUE "\r\n"
                    "\r\n",
                    host, upgrade->key);
}

/* RFC 6455 section 4.2.2, 5.4. */
static void accept_text(const char *key, char ret[static WEBSOCKET_ACCEPT_SIZE])
{
    static const char constant[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[WEBSOCKET_KEY_SIZE - 1 + sizeof(constant)];
    uint8_t digest[SHA1_DIGEST_SIZE];
    int size = snprintf(text, sizeof(text), "%s%s", key, constant);
    sha1_digest(text, (size_t)size, digest);
    keys_base64(digest, sizeof(digest), ret, WEBSOCKET_ACCEPT_SIZE);
}

size_t websocket_upgrade_answer(const struct websocket_upgrade *upgrade,
                                char out[static WEBSOCKET_ANSWER_MAX])
{
    char accept[WEBSOCKET_ACCEPT_SIZE];
    accept_text(upgrade->key, accept);
    /* Names, case and order of rathole's server. */
    return (size_t)snprintf(out, WEBSOCKET_ANSWER_MAX,
                            "HTTP/1.1 101 Switching Protocols\r\n"
                            "connection: Upgrade\r\n"
                            "upgrade: websocket\r\n"
                            "sec-websocket-accept: %s\r\n"
                            "\r\n",
                            accept);
}

/* ---- parsing, a line at a time; a line is a string here ---- */

static int refuse_upgrade(struct websocket_upgrade *upgrade, const char *why)
{
    upgrade->why = why;
    return ERR_PROTOCOL;
}

static int take_request_line(struct websocket_upgrade *upgrade)
{
    static const char method[] = "GET ", version[] = " HTTP/1.1";
    const char *target = upgrade->line + sizeof(method) - 1;
    if (strncmp(upgrade->line, method, sizeof(method) - 1) != 0)
        return refuse_upgrade(upgrade, "not an HTTP GET request");
    size_t target_size = strcspn(target, " \t");
    if (target_size == 0 || strcmp(target + target_size, version) != 0)
        return refuse_upgrade(upgrade, "not an HTTP/1.1 request");
    return 0;
}

static int take_status_line(struct websocket_upgrade *upgrade)
{
    static const char version[] = "HTTP/1.1 ";
    const char *status = upgrade->line + sizeof(version) - 1;
    if (strncmp(upgrade->line, version, sizeof(version) - 1) != 0)
        return refuse_upgrade(upgrade, "the answer is not HTTP/1.1");
    if (strspn(status, "0123456789") != 3 || (status[3] != ' ' && status[3] != '\0'))
        return refuse_upgrade(upgrade, "the answer has no HTTP status");
    if (strncmp(status, "101", 3) == 0)
        return 0;
    char number[4] = {status[0], status[1], status[2], '\0'};
    (void)snprintf(upgrade->line, sizeof(upgrade->line),
                   "the server does not switch to WebSocket: HTTP status %s", number);
    return refuse_upgrade(upgrade, upgrade->line);
}

static bool list_has_upgrade(const char *list)
{
    static const char token[] = "upgrade";
    for (;;) {
        list += strspn(list, " \t,");
        if (*list == '\0')
            return false;
        size_t size = strcspn(list, " \t,");
        const char *next = list + size + strspn(list + size, " \t");
        /* A token ends at a comma: "not upgrade" is no token. */
        if (size == sizeof(token) - 1 && strncasecmp(list, token, size) == 0 &&
            (*next == ',' || *next == '\0'))
            return true;
        list = next + strcspn(next, ",");
    }
}

/* 22 characters of base64 and padding, as 16 bytes have. */
static bool is_key(const char *value)
{
    return strspn(value, LETTERS_AND_DIGITS "+/") == WEBSOCKET_KEY_SIZE - 3 &&
           strcmp(value + WEBSOCKET_KEY_SIZE - 3, "==") == 0;
}

static bool is_right(struct websocket_upgrade *upgrade, enum field field, const char *value)
{
    char accept[WEBSOCKET_ACCEPT_SIZE];
    switch (field) {
    case CONNECTION:
        return list_has_upgrade(value); /* a proxy may add to it (RFC 9110, section 7.8) */
    case UPGRADE:
        return strcasecmp(value, "websocket") == 0;
    case VERSION:
        return strcmp(value, "13") == 0;
    case KEY:
        if (!is_key(value))
            return false;
        memcpy(upgrade->key, value, sizeof(upgrade->key));
        return true;
    case ACCEPT:
        accept_text(upgrade->key, accept);
        return strcmp(value, accept) == 0;
    case HALF_CLOSE:
        upgrade->keeps_half = strcasecmp(value, HALF_CLOSE_VALUE) == 0;
        return true;
    case EXTENSIONS:
    case PROTOCOL:
    case FIELD_COUNT:
        break;
    }
    return false;
}

static int take_field(struct websocket_upgrade *upgrade)
{
    /* A line that continues the one before has no name. */
    size_t name_size = strspn(upgrade->line, LETTERS_AND_DIGITS "!#$%&'*+-.^_`|~");
    if (name_size == 0 || upgrade->line[name_size] != ':')
        return refuse_upgrade(upgrade, "a line of the header is no field");
    size_t field = 0;
    while (field < FIELD_COUNT && (strlen(fields[field].name) != name_size ||
                                   strncasecmp(upgrade->line, fields[field].name, name_size) != 0))
        field++;
    if (field == FIELD_COUNT || (expected[upgrade->is_server].known & BIT(field)) == 0)
        return 0;

    char *value = upgrade->line + name_size + 1;
    value += strspn(value, " \t");
    size_t size = strlen(value);
    while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
        size--;
    value[size] = '\0';

    bool may_repeat = field == CONNECTION; /* each is a part of one list */
    if (!may_repeat && upgrade->found & BIT(field))
        return refuse_upgrade(upgrade, "the header has a field twice");
    if (is_right(upgrade, (enum field)field, value))
        upgrade->found |= (uint8_t)BIT(field);
    else if (!may_repeat)
        return refuse_upgrade(upgrade, fields[field].fault);
    return 0;
}

static int take_line(struct websocket_upgrade *upgrade)
{
    if (!upgrade->has_first_line) {
        upgrade->has_first_line = true;
        return upgrade->is_server ? take_request_line(upgrade) : take_status_line(upgrade);
    }
    if (upgrade->line[0] != '\0')
        return take_field(upgrade);
    uint8_t needed = expected[upgrade->is_server].needed;
    return (upgrade->found & needed) == needed
               ? 1
               : refuse_upgrade(upgrade, "the header lacks a field of a WebSocket upgrade");
}

/* Returns 1 if the header ends with this byte. */
static int take_byte(struct websocket_upgrade *upgrade, char byte)
{
    unsigned char c = (unsigned char)byte;
    bool after_cr = upgrade->line_size > 0 && upgrade->line[upgrade->line_size - 1] == '\r';
    /* Also what another protocol begins with, so that its sender is refused at its first byte. */
    if ((byte == '\n') != after_cr || c == 0x7f ||
        (c < ' ' && byte != '\t' && byte != '\r' && byte != '\n'))
        return refuse_upgrade(upgrade, "not an HTTP header");
    int result = 0;
    if (byte == '\n') {
        upgrade->line[upgrade->line_size - 1] = '\0';
        upgrade->line_size = 0;
        result = take_line(upgrade);
    } else {
        upgrade->line[upgrade->line_size++] = byte;
    }
    if (++upgrade->seen == WEBSOCKET_HEADER_MAX && result == 0)
        return refuse_upgrade(upgrade, "the header has more than 4,096 bytes");
    return result;
}

int websocket_upgrade_parse(struct websocket_upgrade *upgrade, const void *bytes, size_t size,
                            size_t *used)
{
    const char *at = bytes;
    int result = 0;
    size_t taken = 0;
    while (taken < size && result == 0)
        result = take_byte(upgrade, at[taken++]);
    *used = taken;
    return result;
}
