#include "tunnel/binding.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
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

static struct binding *allocate(const struct binding_options *options)
{
    struct binding *binding = calloc(1, sizeof(*binding));
    if (binding == NULL)
        return NULL;
    binding->claim_fd = -1;
    binding->is_udp = options->is_udp;
    binding->fds = calloc(options->count, sizeof(*binding->fds));
    if (options->is_udp)
        binding->lanes = calloc(options->count, sizeof(*binding->lanes));
    if (binding->fds == NULL || (options->is_udp && binding->lanes == NULL)) {
        binding_destroy(binding);
        return NULL;
    }
    for (unsigned int i = 0; i < options->count && options->is_udp; i++) {
        struct service_lane *lane = &binding->lanes[i];
        list_init(&lane->waiter.node);
        lane->binding = binding;
        lane->index = i;
    }
    return binding;
}

static int bind_group(struct binding *binding, const struct binding_options *options)
{
    if (options->is_udp)
        return udp_socket_bind_group(&binding->addr, binding->fds, options->count,
                                     options->wait_ms);
    if (options->is_claimed) {
        binding->claim_fd = socket_claim(&binding->addr, options->wait_ms);
        if (binding->claim_fd < 0)
            return binding->claim_fd;
    }
    return socket_bind_group(&binding->addr, &options->tcp, binding->fds, options->count,
                             options->wait_ms);
}

int binding_create(const struct binding_options *options, struct binding **ret)
{
    struct binding *binding = allocate(options);
    if (binding == NULL)
        return -ENOMEM;
    int result = resolve(options->addr, &binding->addr);
    if (result == 0)
        result = bind_group(binding, options);
    if (result < 0) {
        binding_destroy(binding);
        return result;
    }
    binding->count = options->count;
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
