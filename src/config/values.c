/* The parsers of single values. Each accepts exactly one form. For any other value, the message
 * says what was expected and, unless the value may be a secret, quotes it. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "crypto/keys.h"
#include "crypto/noise.h"
#include "options_priv.h"
#include "report_priv.h"
#include "secret_priv.h"
#include "text_priv.h"

int value_refuse(struct option_value *value, const char *expected)
{
    char echo[REPORT_ECHO_SIZE];
    (void)snprintf(value->problem, value->problem_size, "expected %s, got \"%s\"", expected,
                   text_escape(value->text, echo, sizeof echo));
    return ERR_CONFIG;
}

int value_addr(struct option_value *value, void *target)
{
    struct host_port addr;
    if (host_port_parse(value->text, &addr) < 0)
        return value_refuse(value, "host:port");
    *(struct host_port *)target = addr;
    if (value->text[0] != '[' && strchr(addr.host, ':') != NULL) {
        char echo[REPORT_ECHO_SIZE], text[ADDR_HOST_SIZE + 16];
        (void)snprintf(value->problem, value->problem_size, "\"%s\" is read as %s",
                       text_escape(value->text, echo, sizeof echo),
                       host_port_format(&addr, text, sizeof text));
    }
    return 0;
}

int value_addr_or_path(struct option_value *value, void *target)
{
    struct host_port addr;
    int result = host_port_parse_unix(value->text, &addr);
    if (result == 0) {
        *(struct host_port *)target = addr;
        return 0;
    }
    if (result == -ENAMETOOLONG) {
        (void)snprintf(value->problem, value->problem_size,
                       "the path of a unix socket has at most %d bytes, this one has %zu",
                       ADDR_UNIX_MAX, strlen(value->text) - strcspn(value->text, "/@"));
        return ERR_CONFIG;
    }
    if (strncmp(value->text, "unix:", 5) == 0)
        return value_refuse(value, "unix:/path (absolute) or unix:@name");
    if (host_port_parse(value->text, &addr) < 0)
        return value_refuse(value, "host:port or unix:/path");
    return value_addr(value, target);
}

/* Permission bits, always octal: 0660, 660, 0o660. */
int value_mode(struct option_value *value, void *target)
{
    enum { DIGITS_MAX = 4 };
    const char *text = strncmp(value->text, "0o", 2) == 0 ? value->text + 2 : value->text;
    uint32_t mode = 0;
    size_t size = strspn(text, "01234567");
    for (size_t i = 0; i < size && size <= DIGITS_MAX; i++)
        mode = mode << 3 | (uint32_t)(text[i] - '0');
    if (size == 0 || size > DIGITS_MAX || text[size] != '\0' || mode > value->option->max)
        return value_refuse(value, "octal permission bits from 0000 to 0777");
    *(uint32_t *)target = mode;
    return 0;
}

/* Whether the accounts exist is found out when the socket is bound. */
int value_owner(struct option_value *value, void *target)
{
    const char *text = value->text, *colon = strchr(text, ':');
    size_t user = colon != NULL ? (size_t)(colon - text) : strlen(text);
    size_t group = colon != NULL ? strlen(colon + 1) : 0;
    bool is_valid = user <= LIMIT_ACCOUNT_NAME && group <= LIMIT_ACCOUNT_NAME && user + group > 0 &&
                    (colon == NULL || group > 0);
    for (const char *at = text; *at != '\0'; at++)
        is_valid = is_valid && isgraph((unsigned char)*at) && (*at != ':' || at == colon);
    if (!is_valid)
        return value_refuse(value, "user, user:group or :group");
    memcpy(target, text, strlen(text) + 1);
    return 0;
}

int value_secret(struct option_value *value, void *target)
{
    struct secret secret;
    int result = secret_resolve(value->text, &secret, value->problem, value->problem_size);
    if (result < 0)
        return result;
    value->is_inline_secret = secret.origin == SECRET_INLINE;
    value->is_world_readable_secret = secret.is_world_readable;
    if (secret.is_stripped)
        (void)snprintf(value->problem, value->problem_size,
                       "white space at the end of %s is left out",
                       secret.origin == SECRET_FILE ? "the file" : "the variable");
    *(char **)target = secret.text;
    return 0;
}

/* Accepts an empty value as not given, with a warning: rathole accepts it too, and an empty
 * default_token does no harm if every service has its own token. */
static bool is_void(struct option_value *value)
{
    if (*value->text != '\0')
        return false;
    value->is_void = true;
    (void)snprintf(value->problem, value->problem_size, "is empty and counts as not given");
    return true;
}

int value_default_token(struct option_value *value, void *target)
{
    return is_void(value) ? 0 : value_secret(value, target);
}

/* Strips white space on both sides of a key. */
static const char *trim(const char *text, size_t *ret_size)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t size = strlen(text);
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        size--;
    *ret_size = size;
    return text;
}

/* No message quotes a key, not even a public one: it may be a private key in the wrong place. */
static int parse_key(struct option_value *value, struct secret *secret,
                     uint8_t ret[static KEYS_X25519_SIZE])
{
    static const char expected[] = "expected 32 bytes in base64 as rathole-uring --genkey prints "
                                   "them (44 characters), file:PATH or env:NAME";
    static const uint8_t zeros[KEYS_X25519_SIZE];
    int result = secret_resolve(value->text, secret, value->problem, value->problem_size);
    if (result < 0)
        return result;
    size_t size;
    const char *text = trim(secret->text, &size);
    uint8_t key[KEYS_X25519_SIZE];
    if (keys_from_text(text, size, key) < 0) {
        result = ERR_CONFIG;
        if (size == KEYS_TEXT_SIZE - 1)
            (void)snprintf(value->problem, value->problem_size,
                           "%s; got 44 characters that are something else", expected);
        else
            (void)snprintf(value->problem, value->problem_size, "%s; got %zu characters", expected,
                           size);
    } else if (keys_equal(key, zeros, sizeof zeros)) {
        result = ERR_CONFIG;
        (void)snprintf(value->problem, value->problem_size, "a key of zeros is not valid");
    } else {
        memcpy(ret, key, sizeof key);
    }
    keys_wipe(key, sizeof key);
    secret_free(secret->text);
    secret->text = NULL;
    return result;
}

int value_local_private_key(struct option_value *value, void *target)
{
    struct config_noise *noise = target;
    struct secret secret;
    if (is_void(value))
        return 0;
    int result = parse_key(value, &secret, noise->local_private_key);
    if (result < 0)
        return result;
    noise->has_local_private_key = true;
    value->is_inline_secret = secret.origin == SECRET_INLINE;
    value->is_world_readable_secret = secret.is_world_readable;
    return 0;
}

int value_remote_public_key(struct option_value *value, void *target)
{
    struct config_noise *noise = target;
    struct secret secret;
    if (is_void(value))
        return 0;
    int result = parse_key(value, &secret, noise->remote_public_key);
    if (result == 0)
        noise->has_remote_public_key = true;
    return result;
}

static int parse_bool(struct option_value *value, bool *ret)
{
    bool is_true = strcmp(value->text, "true") == 0;
    if (!is_true && strcmp(value->text, "false") != 0)
        return value_refuse(value, "true or false");
    *ret = is_true;
    return 0;
}

int value_bool(struct option_value *value, void *target)
{
    return parse_bool(value, target);
}

int value_tristate(struct option_value *value, void *target)
{
    bool is_true;
    int result = parse_bool(value, &is_true);
    if (result == 0)
        *(enum config_tristate *)target = is_true ? CONFIG_TRUE : CONFIG_FALSE;
    return result;
}

int value_parse_word(struct option_value *value, const struct option_word *words, size_t count,
                     int *ret)
{
    char expected[80] = "";
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const struct option_word *word = &words[i];
        used += (size_t)snprintf(expected + used, sizeof expected - used, "%s%s",
                                 i == 0           ? ""
                                 : i == count - 1 ? " or "
                                                  : ", ",
                                 word->text);
        if (strcmp(value->text, word->text) != 0)
            continue;
        *ret = word->number;
        return 0;
    }
    return value_refuse(value, expected);
}

int value_service_type(struct option_value *value, void *target)
{
    static const struct option_word words[] = {
        {"tcp", CONFIG_SERVICE_TCP},
        {"udp", CONFIG_SERVICE_UDP},
        {"socket_stream", CONFIG_SERVICE_SOCKET_STREAM},
    };
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_service_type *)target = (enum config_service_type)number;
    return result;
}

int value_bind(struct option_value *value, void *target)
{
    static const struct option_word words[] = {
        {"always", CONFIG_BIND_ALWAYS},
        {"on_login", CONFIG_BIND_ON_LOGIN},
    };
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_bind *)target = (enum config_bind)number;
    return result;
}

int value_clients(struct option_value *value, void *target)
{
    static const struct option_word words[] = {{"replace", CONFIG_CLIENTS_REPLACE},
                                               {"balance", CONFIG_CLIENTS_BALANCE}};
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_clients *)target = (enum config_clients)number;
    return result;
}

int value_transport_type(struct option_value *value, void *target)
{
    static const struct option_word words[] = {
        {"tcp", CONFIG_TRANSPORT_TCP},
        {"noise", CONFIG_TRANSPORT_NOISE},
        {"tls", CONFIG_TRANSPORT_TLS},
        {"websocket", CONFIG_TRANSPORT_WEBSOCKET},
    };
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_transport_type *)target = (enum config_transport_type)number;
    return result;
}

/* rathole takes every pattern that snow knows (x448, AESGCM, SHA256, IK ...), so the message lists
 * the three that work here. */
int value_noise_pattern(struct option_value *value, void *target)
{
    static const enum noise_pattern patterns[] = {NOISE_NK, NOISE_XX, NOISE_KK};
    const char *names[ARRAY_SIZE(patterns)];
    enum noise_pattern pattern;
    if (noise_pattern_from_name(value->text, &pattern) == 0) {
        *(enum noise_pattern *)target = pattern;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
        names[i] = noise_pattern_name(patterns[i]);
    const char *nearest = option_nearest_word(value->text, names, ARRAY_SIZE(names));
    char expected[192];
    (void)snprintf(expected, sizeof expected, "one of %s, %s, %s%s%s%s", names[0], names[1],
                   names[2], nearest != NULL ? " (did you mean " : "",
                   nearest != NULL ? nearest : "", nearest != NULL ? "?)" : "");
    return value_refuse(value, expected);
}

int value_log_level(struct option_value *value, void *target)
{
    return log_level_from_name(value->text, target)
               ? 0
               : value_refuse(value, "error, warn, info, debug or trace");
}

int value_log_format(struct option_value *value, void *target)
{
    static const struct option_word words[] = {{"text", LOG_TEXT}, {"json", LOG_JSON}};
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum log_format *)target = (enum log_format)number;
    return result;
}

/* Whether the account exists is checked at the start: --check may run on another machine. */
int value_account(struct option_value *value, void *target)
{
    size_t size = strlen(value->text);
    for (const char *at = value->text; *at != '\0'; at++)
        if (!isgraph((unsigned char)*at) || *at == ':')
            return value_refuse(value, "a name or a number");
    if (size < (size_t)value->option->min || size > (size_t)value->option->max)
        return value_refuse(value, "a name of 1 to 64 bytes");
    memcpy(target, value->text, size + 1);
    return 0;
}

static int take_copy(const char *text, void *target)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return -ENOMEM;
    *(char **)target = copy;
    return 0;
}

/* The file is opened at the start and on a reload, not by this layer. A key that rathole does not
 * have can't be empty: an empty client_ca would let every client in. */
int value_path(struct option_value *value, void *target)
{
    if (*value->text == '\0' && value->option->min > 0)
        return value_refuse(value, "the path of a file");
    if (is_void(value))
        return 0;
    return secret_path_copy(value->text, target, value->problem, value->problem_size);
}

/* A name as certificates have it, or an IP address. With a port behind it, it would match none. */
int value_hostname(struct option_value *value, void *target)
{
    struct host_port named;
    CLEANUP_FREE char *text = NULL;
    if (is_void(value))
        return 0;
    if (asprintf(&text, "%s:1", value->text) < 0) {
        text = NULL;
        return -ENOMEM;
    }
    if (host_port_parse(text, &named) < 0)
        return value_refuse(value, "a host name or an IP address, without a port");
    return take_copy(named.host, target);
}

/* Unlike a token, the password of a file may be empty. */
int value_password(struct option_value *value, void *target)
{
    return *value->text == '\0' ? take_copy("", target) : value_secret(value, target);
}

int value_unused(UNUSED struct option_value *value, UNUSED void *target)
{
    return 0;
}
