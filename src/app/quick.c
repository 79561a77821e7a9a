#include "app/quick.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/kept.h"
#include "base/error.h"
#include "base/limits.h"

int quick_begin(enum config_role role, int words, struct quick *ret)
{
    ret->role = role;
    ret->services = calloc((size_t)words + 1, sizeof *ret->services);
    return ret->services != NULL ? 0 : -ENOMEM;
}

void quick_finish(struct quick *quick)
{
    free(take_ptr(quick->services));
}

/* ---- ports and addresses ---- */

static bool quick_read_port(const char **at, uint16_t *ret)
{
    const char *from = *at;
    uint32_t number = 0;
    for (; **at >= '0' && **at <= '9' && number <= UINT16_MAX; (*at)++)
        number = number * 10 + (uint32_t)(**at - '0');
    *ret = (uint16_t)number;
    return *at > from && *from != '0' && number <= UINT16_MAX;
}

/* What is behind a port or a name, up to end: "" or "/udp". */
static bool quick_read_type(const char *at, const char *end, bool *ret_is_udp)
{
    size_t size = (size_t)(end - at);
    *ret_is_udp = size == 4 && memcmp(at, "/udp", 4) == 0;
    return size == 0 || *ret_is_udp;
}

/* HOST:PORT; ":PORT" and "PORT" have this host. */
static bool quick_read_addr(const char *word, const char *host, struct host_port *ret)
{
    char text[ADDR_HOST_SIZE + 16];
    const char *port = word + (*word == ':');
    if (port[strspn(port, "0123456789")] != '\0')
        return host_port_parse(word, ret) == 0;
    (void)snprintf(text, sizeof text, "%s:%s", host, port);
    return host_port_parse(text, ret) == 0;
}

/* All addresses of this machine: [::] has those of IPv4 too, but a kernel may have no IPv6. */
static const char *quick_any_host(void)
{
    CLEANUP_FD int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 || errno != EAFNOSUPPORT ? "[::]" : "0.0.0.0";
}

int quick_set_bind(struct quick *quick, const char *word, char problem[static CLI_PROBLEM_SIZE])
{
    return quick_read_addr(word, quick_any_host(), &quick->addr)
               ? 0
               : usage_refuse(problem, "--bind: expected :PORT or HOST:PORT, got \"", word, "\"");
}

/* ---- services ---- */

int quick_add_ports(struct quick *quick, const char *word, char problem[static CLI_PROBLEM_SIZE])
{
    struct quick_service *range = &quick->services[quick->service_count++];
    const char *at = word;
    bool is_good = quick_read_port(&at, &range->first);
    range->last = range->first;
    if (is_good && *at == '-') {
        at++;
        is_good = quick_read_port(&at, &range->last) && range->first <= range->last;
    }
    if (!is_good || !quick_read_type(at, at + strlen(at), &range->is_udp))
        return usage_refuse(problem,
                            "--ports: expected PORT or FIRST-LAST, and /udp for UDP, got \"", word,
                            "\"");
    return 0;
}

/* A name of digits alone is a port, or none, as in "6000-6009". */
static bool quick_read_service(const char *word, struct quick_service *ret)
{
    const char *equals = strchr(word, '='), *at = word;
    size_t size = strcspn(word, "/=");
    if (equals == NULL || !quick_read_type(word + size, equals, &ret->is_udp))
        return false;
    if (strspn(word, "0123456789-") == size) {
        if (!quick_read_port(&at, &ret->first) || at != word + size)
            return false;
        ret->last = ret->first;
    } else {
        ret->name = word;
        ret->name_size = size;
    }
    return quick_read_addr(equals + 1, "127.0.0.1", &ret->addr) ||
           (!ret->is_udp && host_port_parse_unix(equals + 1, &ret->addr) == 0);
}

int quick_add_word(struct quick *quick, const char *word, char problem[static CLI_PROBLEM_SIZE])
{
    bool is_server = quick->addr.port == 0;
    if (is_server ? quick_read_addr(word, "", &quick->addr)
                  : quick_read_service(word, &quick->services[quick->service_count++]))
        return 0;
    return usage_refuse(problem, "\"", word,
                        is_server ? "\": expected HOST:PORT of the server"
                                  : "\": expected PORT=ADDR or NAME=ADDR, as in 6022=22, "
                                    "53/udp=dns:53, web=unix:/path");
}

int quick_end(struct quick *quick, char problem[static CLI_PROBLEM_SIZE])
{
    bool is_server = quick->role == CONFIG_SERVER;
    if (quick->service_count == 0)
        return usage_refuse(problem,
                            is_server
                                ? "server needs --ports, as in --ports 6000-6999"
                                : "client needs a server and services, as in vps:2333 6022=22",
                            "", "");
    return is_server && quick->addr.port == 0 ? quick_set_bind(quick, "2333", problem) : 0;
}

/* ---- secrets ---- */

/* The path is made absolute, since a file that --print-config has written may run elsewhere. */
static int quick_note_file(char ret[static QUICK_SECRET_SIZE], const char *path)
{
    char here[PATH_MAX] = "";
    bool is_relative = path[0] != '/';
    if (is_relative && getcwd(here, sizeof here) == NULL)
        return -errno;
    int size = snprintf(ret, QUICK_SECRET_SIZE, "file:%s%s%s", here, is_relative ? "/" : "", path);
    return size < QUICK_SECRET_SIZE ? 0 : -ENAMETOOLONG;
}

static int quick_keep(const char *name, char ret[static QUICK_SECRET_SIZE], bool *ret_is_new,
                      char problem[static CLI_PROBLEM_SIZE])
{
    char path[PATH_MAX];
    int result = kept_make(name, path, ret_is_new);
    if (result < 0)
        (void)snprintf(problem, CLI_PROBLEM_SIZE, "cannot make %.160s: %s", path,
                       error_text(result));
    return result < 0 ? result : quick_note_file(ret, path);
}

int quick_prepare(struct quick *quick, char problem[static CLI_PROBLEM_SIZE])
{
    bool is_new;
    int result = 0;
    if (quick->token_file != NULL) {
        result = quick_note_file(quick->token, quick->token_file);
        if (result < 0)
            (void)usage_refuse(problem, "--token-file: ", error_text(result), "");
    } else if (getenv(QUICK_TOKEN_VARIABLE) != NULL) {
        memcpy(quick->token, "env:" QUICK_TOKEN_VARIABLE, sizeof "env:" QUICK_TOKEN_VARIABLE);
    } else if (quick->role == CONFIG_CLIENT) {
        result = usage_refuse(problem, "client needs the token: --token-file FILE, or ",
                              QUICK_TOKEN_VARIABLE, " in the environment");
    } else {
        quick->is_token_kept = true;
        result = quick_keep("token", quick->token, &quick->is_token_new, problem);
    }
    return result < 0 || !quick->has_noise
               ? result
               : quick_keep("noise.key", quick->private_key, &is_new, problem);
}
