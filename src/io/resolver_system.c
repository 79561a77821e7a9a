#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "resolver_priv.h"

static const char hosts_file[] = "/etc/hosts";

static void take_result(const struct addrinfo *info, struct name_addresses *ret)
{
    const void *addr = info->ai_addr;
    if (info->ai_family == AF_INET && ret->v4_count < LIMIT_SERVERS) {
        ret->v4[ret->v4_count++] = ((const struct sockaddr_in *)addr)->sin_addr;
    } else if (info->ai_family == AF_INET6 && ret->v6_count < LIMIT_SERVERS) {
        const struct sockaddr_in6 *v6 = addr;
        ret->v6[ret->v6_count].addr = v6->sin6_addr;
        ret->v6[ret->v6_count++].scope = v6->sin6_scope_id;
    }
}

/* "No such name" and "no address" are definite answers. Other failures may pass. */
static bool is_final(int status)
{
    if (status == 0 || status == EAI_NONAME)
        return true;
#ifdef EAI_NODATA
    if (status == EAI_NODATA)
        return true;
#endif
    return false;
}

int resolver_ask_system(const char *host, struct name_addresses *ret, bool *ret_is_final)
{
    memset(ret, 0, sizeof(*ret));
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *results = NULL;
    int status = getaddrinfo(host, NULL, &hints, &results);
    *ret_is_final = is_final(status);
    if (status == 0) {
        for (const struct addrinfo *info = results; info != NULL; info = info->ai_next)
            take_result(info, ret);
        freeaddrinfo(results);
    }
    if (ret->v4_count + ret->v6_count > 0)
        return 0;
    return status == EAI_MEMORY ? -ENOMEM : ERR_RESOLVE;
}

size_t resolver_choose_family(const struct name_addresses *found, uint16_t port, bool is_ipv6,
                              struct addr *ret, size_t room)
{
    size_t count = MIN(is_ipv6 ? found->v6_count : found->v4_count, room);
    for (size_t i = 0; i < count; i++) {
        struct addr *addr = &ret[i];
        *addr = (struct addr){.len = is_ipv6 ? sizeof(addr->v6) : sizeof(addr->v4)};
        if (is_ipv6) {
            addr->v6.sin6_family = AF_INET6;
            addr->v6.sin6_addr = found->v6[i].addr;
            addr->v6.sin6_scope_id = found->v6[i].scope;
            addr->v6.sin6_port = htons(port);
        } else {
            addr->v4.sin_family = AF_INET;
            addr->v4.sin_addr = found->v4[i];
            addr->v4.sin_port = htons(port);
        }
    }
    return count;
}

size_t resolver_choose(const struct name_addresses *found, uint16_t port, bool prefer_ipv6,
                       struct addr ret[static LIMIT_ADDRESSES])
{
    size_t count = resolver_choose_family(found, port, prefer_ipv6, ret, LIMIT_ADDRESSES);
    return count +
           resolver_choose_family(found, port, !prefer_ipv6, ret + count, LIMIT_ADDRESSES - count);
}

/* "ADDRESS NAME NAME ... # comment" */
static bool line_has(char *line, const char *host)
{
    char *at = NULL;
    line[strcspn(line, "#\n")] = '\0';
    if (strtok_r(line, " \t\r", &at) == NULL)
        return false;
    for (const char *word; (word = strtok_r(NULL, " \t\r", &at)) != NULL;) {
        if (strcasecmp(word, host) == 0)
            return true;
    }
    return false;
}

bool resolver_is_in_hosts_file(const char *host)
{
    char line[1024];
    size_t total = 0;
    bool found = false;
    FILE *file = fopen(hosts_file, "re");
    while (file != NULL && !found && total < LIMIT_HOSTS_FILE &&
           fgets(line, sizeof(line), file) != NULL) {
        total += strlen(line);
        found = line_has(line, host);
    }
    if (file != NULL)
        (void)fclose(file);
    return found;
}
