/* The URL of the client's proxy. rathole sends the user and the password as they stand in the URL;
 * here %XX in them is decoded, so that every byte can be written. No message quotes the URL: it may
 * hold a password. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/limits.h"
#include "crypto/keys.h"
#include "options_priv.h"
#include "secret_priv.h"

/* The parts of a URL, as places in its text, which is cut up. */
struct proxy_url {
    enum config_proxy_type type;
    struct host_port addr;
    char *user, *password; /* both NULL: none */
    const char *rest;      /* behind host:port; not used */
};

/* Returns what stands behind "://"; NULL: another scheme. */
static char *find_scheme(char *text, enum config_proxy_type *ret)
{
    static const struct {
        const char *prefix;
        enum config_proxy_type type;
    } schemes[] = {{"socks5://", CONFIG_PROXY_SOCKS5}, {"http://", CONFIG_PROXY_HTTP}};
    for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
        size_t size = strlen(schemes[i].prefix);
        if (strncasecmp(text, schemes[i].prefix, size) != 0)
            continue;
        *ret = schemes[i].type;
        return text + size;
    }
    return NULL;
}

static int digit_value(char c)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;
    if (found == NULL)
        return -1;
    return (int)(found - digits) - (found - digits >= 16 ? 6 : 0);
}

/* Decodes %XX in place. Another '%' stands for itself, as in the URLs of browsers. False: %00. */
static bool percent_decode(char *text)
{
    char *out = text;
    for (const char *at = text; *at != '\0'; at++) {
        int high = *at == '%' ? digit_value(at[1]) : -1;
        int low = high >= 0 ? digit_value(at[2]) : -1;
        if (low < 0) {
            *out++ = *at;
            continue;
        }
        if (high == 0 && low == 0)
            return false;
        *out++ = (char)(high << 4 | low);
        at += 2;
    }
    *out = '\0';
    return true;
}

/* Returns what is wrong, or NULL. */
static const char *split_credentials(char *text, struct proxy_url *url)
{
    char *colon = strchr(text, ':');
    if (colon != NULL)
        *colon = '\0';
    url->user = text;
    url->password = colon != NULL ? colon + 1 : text + strlen(text);
    if (!percent_decode(url->user) || !percent_decode(url->password))
        return "the user and the password can't hold %00";
    if (url->type == CONFIG_PROXY_SOCKS5 && (strlen(url->user) > LIMIT_SOCKS5_CREDENTIAL ||
                                             strlen(url->password) > LIMIT_SOCKS5_CREDENTIAL))
        return "the user and the password of a socks5 proxy have at most 255 bytes each";
    if (url->type == CONFIG_PROXY_HTTP && strchr(url->user, ':') != NULL)
        return "a user of an http proxy can't hold a colon";
    if (*url->user == '\0' && *url->password == '\0')
        url->user = url->password = NULL;
    return NULL;
}

static const char *parse_host(const char *text, struct host_port *ret)
{
    if (host_port_parse(text, ret) < 0)
        return strchr(text, ':') == NULL ? "the port is missing"
                                         : "the host or the port is not valid";
    if (*text != '[' && strchr(ret->host, ':') != NULL)
        return "an IPv6 address needs brackets";
    return NULL;
}

static const char *parse_url(char *text, struct proxy_url *url)
{
    char *authority = find_scheme(text, &url->type);
    if (authority == NULL)
        return "it begins with something else";
    char *end = authority + strcspn(authority, "/?#");
    url->rest = *end == '\0' ? end : end + 1;
    /* Otherwise a password with a '/' might pass for a port. */
    if (strchr(url->rest, '@') != NULL)
        return "a /, ? or # in the user or the password is written %2F, %3F or %23";
    *end = '\0';
    char *at = strrchr(authority, '@');
    if (at != NULL)
        *at = '\0';
    const char *problem = at != NULL ? split_credentials(authority, url) : NULL;
    return problem != NULL ? problem : parse_host(at != NULL ? at + 1 : authority, &url->addr);
}

static char *copy_credential(const char *text, bool *is_out_of_memory)
{
    char *copy = text != NULL ? strdup(text) : NULL;
    *is_out_of_memory |= text != NULL && copy == NULL;
    return copy;
}

static int take_url(const struct proxy_url *url, struct config_proxy *ret)
{
    bool is_out_of_memory = false;
    struct config_proxy proxy = {
        .type = url->type,
        .addr = url->addr,
        .user = copy_credential(url->user, &is_out_of_memory),
        .password = copy_credential(url->password, &is_out_of_memory),
    };
    if (is_out_of_memory) {
        secret_free(proxy.user);
        secret_free(proxy.password);
        return -ENOMEM;
    }
    *ret = proxy;
    return 0;
}

int value_proxy(struct option_value *value, void *target)
{
    static const char expected[] = "expected socks5://[user:password@]host:port or "
                                   "http://[user:password@]host:port";
    struct secret secret;
    struct proxy_url url = {0};
    if (*value->text == '\0') {
        (void)snprintf(value->problem, value->problem_size, "%s: it is empty", expected);
        return ERR_CONFIG;
    }
    int result = secret_resolve(value->text, &secret, value->problem, value->problem_size);
    if (result < 0)
        return result;
    size_t size = strlen(secret.text); /* before it is cut up */
    const char *problem = parse_url(secret.text, &url);
    if (problem != NULL) {
        (void)snprintf(value->problem, value->problem_size, "%s: %s", expected, problem);
        result = ERR_CONFIG;
    } else {
        result = take_url(&url, target);
        if (*url.rest != '\0')
            (void)snprintf(value->problem, value->problem_size,
                           "what stands behind host:port is left out");
        value->is_inline_secret = secret.origin == SECRET_INLINE && url.user != NULL;
        value->is_world_readable_secret = secret.is_world_readable && url.user != NULL;
    }
    keys_wipe(secret.text, size);
    free(secret.text);
    return result;
}
