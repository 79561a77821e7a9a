#include "tunnel/binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "io/inherit.h"
#include "io/resolver.h"
#include "io/udp_socket.h"

static int resolve(const struct host_port *name, struct addr *ret)
{
    struct resolver_answer answer;
    resolver_look_up(name, false, &answer);
    if (answer.error < 0)
        return answer.error;
    *ret = answer.addrs[0];
    return 0;
}

static int allocate(struct binding *binding, unsigned int count)
{
    binding->fds = calloc(count, sizeof(*binding->fds));
    if (binding->is_udp)
        binding->lanes = calloc(count, sizeof(*binding->lanes));
    if (binding->fds == NULL || (binding->is_udp && binding->lanes == NULL))
        return -ENOMEM;
    for (unsigned int i = 0; i < count && binding->is_udp; i++) {
        struct service_lane *lane = &binding->lanes[i];
        list_init(&lane->waiter.node);
        lane->binding = binding;
        lane->index = i;
    }
    return 0;
}

/* ---- sockets that are there already ---- */

static void take_inherited(struct binding *binding, const struct binding_options *options)
{
    const struct addr wanted = binding->addr;
    struct inherited_socket taken;
    while (inherited_take(options->inherited, &wanted, binding->is_udp ? SOCK_DGRAM : SOCK_STREAM,
                          &taken)) {
        binding->addr = taken.addr; /* a dual-stack one may stand for IPv4's any */
        binding->is_listening |= taken.is_listening;
        binding->is_shared |= taken.is_shared;
        if (binding->is_udp)
            udp_socket_adopt(taken.fd, &taken.addr);
        else
            binding->is_foreign |= !socket_adopt(taken.fd, &taken.addr, &options->tcp);
        binding->fds[binding->count++] = taken.fd;
    }
    binding->is_inherited = true;
}

static int join_group(struct binding *binding, const struct socket_options *options)
{
    int *fd = &binding->fds[binding->count];
    int result = binding->is_udp ? udp_socket_join_group(&binding->addr, fd)
                                 : socket_join_group(&binding->addr, options, fd);
    if (result == 0 && binding->is_listening) {
        result = socket_listen(*fd);
        if (result < 0)
            (void)close(*fd);
    }
    if (result == 0)
        binding->count++;
    return result;
}

/* Workers share what there is. */
static int duplicate_up_to(struct binding *binding, unsigned int count)
{
    while (binding->count < count) {
        int original = binding->fds[binding->count % binding->distinct_count];
        int fd = fcntl(original, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return -errno;
        binding->fds[binding->count++] = fd;
    }
    return 0;
}

static int adopt(struct binding *binding, const struct binding_options *options)
{
    take_inherited(binding, options);
    int result = 0;
    /* A manager does not know of members that we add to its group, and they would end with us. */
    while (binding->count < options->count && !binding->is_shared && result == 0)
        result = join_group(binding, &options->tcp);
    binding->distinct_count = binding->count;
    return binding->is_udp ? 0 : duplicate_up_to(binding, options->count);
}

/* ---- sockets of our own ---- */

static int bind_group(struct binding *binding, const struct binding_options *options)
{
    int result = binding->is_udp ? udp_socket_bind_group(&binding->addr, binding->fds,
                                                         options->count, options->wait_ms)
                                 : socket_bind_group(&binding->addr, &options->tcp, binding->fds,
                                                     options->count, options->wait_ms);
    if (result == 0)
        binding->count = binding->distinct_count = options->count;
    return result;
}

static int claim(struct binding *binding, const struct binding_options *options)
{
    struct sockaddr_un name;
    socklen_t name_len = socket_claim_name(&binding->addr, &name);
    binding->claim_fd = inherited_take_claim(options->inherited, &name, name_len);
    if (binding->claim_fd < 0)
        binding->claim_fd = socket_claim(&binding->addr, options->wait_ms);
    return binding->claim_fd < 0 ? binding->claim_fd : 0;
}

/* ---- the binding ---- */

static int fill(struct binding *binding, const struct binding_options *options)
{
    int result = resolve(options->addr, &binding->addr);
    if (result < 0)
        return result;
    size_t inherited = inherited_count(options->inherited, &binding->addr,
                                       binding->is_udp ? SOCK_DGRAM : SOCK_STREAM);
    result = allocate(binding, MAX((unsigned int)inherited, options->count));
    if (result == 0 && options->is_claimed && !options->is_udp)
        result = claim(binding, options);
    if (result < 0)
        return result;
    return inherited > 0 ? adopt(binding, options) : bind_group(binding, options);
}

int binding_create(const struct binding_options *options, struct binding **ret)
{
    struct binding *binding = calloc(1, sizeof(*binding));
    if (binding == NULL)
        return -ENOMEM;
    binding->claim_fd = -1;
    binding->is_udp = options->is_udp;
    int result = fill(binding, options);
    if (result < 0) {
        binding_destroy(binding);
        return result;
    }
    *ret = binding;
    return 0;
}

void binding_destroy(struct binding *binding)
{
    if (binding == NULL)
        return;
    for (unsigned int i = 0; i < binding->count; i++) {
        if (binding->fds[i] >= 0)
            (void)close(binding->fds[i]);
    }
    if (binding->claim_fd >= 0)
        (void)close(binding->claim_fd);
    free(binding->fds);
    free(binding->lanes);
    free(binding);
}

int binding_log_failed(const char *service, const struct host_port *addr, int error)
{
    char text[ADDR_HOST_SIZE + 8];
    (void)host_port_format(addr, text, sizeof(text));
    const char *remedy = error == -EADDRINUSE
                             ? " (another process has it; is a server running already?)"
                         : error == -EACCES ? " (ports below 1024 need CAP_NET_BIND_SERVICE)"
                                            : "";
    log_service(LOG_ERROR, service, "bind_addr %s: %s%s", text, error_text(error), remedy);
    return error;
}
