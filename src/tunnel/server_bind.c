#include "tunnel/server_bind.h"

#include "base/limits.h"
#include "base/log.h"
#include "io/udp_socket.h"

/* Accepted sockets inherit these. */
static struct socket_options listener_options(const struct config_peer *own)
{
    return (struct socket_options){
        .nodelay = own->transport.tcp_nodelay,
        .keepalive_secs = own->transport.tcp_keepalive_secs,
        .keepalive_interval = own->transport.tcp_keepalive_interval,
    };
}

int server_bind_control(const struct config_peer *own, unsigned int workers,
                        struct inherited *inherited, unsigned int wait_ms, struct binding **ret)
{
    struct binding_options options = {
        .addr = &own->addr,
        .tcp = listener_options(own),
        .inherited = inherited,
        .count = workers,
        .wait_ms = wait_ms,
    };
    struct binding *binding;
    int result = binding_create(&options, &binding);
    if (result < 0)
        return result;
    for (unsigned int i = 0; i < binding->count && result == 0; i++)
        result = socket_listen(binding->fds[i]);
    if (result < 0) {
        binding_destroy(binding);
        return result;
    }
    *ret = binding;
    return 0;
}

static void hint_receive_room(const struct service *service, const struct binding *binding)
{
    size_t room = udp_socket_receive_room(binding->fds[0]);
    if (room < LIMIT_UDP_SOCKET_BUFFER)
        log_service(LOG_INFO, service_name(service),
                    "the system allows %zu KiB of receive buffer: bursts beyond that are lost; "
                    "sysctl net.core.rmem_max=%d would allow what is asked for",
                    room >> 10, LIMIT_UDP_SOCKET_BUFFER);
}

int server_bind_service(const struct service *service, const struct config_service *config,
                        const struct config_peer *own, struct inherited *inherited,
                        unsigned int wait_ms, struct binding **ret)
{
    struct socket_options options = listener_options(own);
    int result = service_bind(service, config, &options, inherited, wait_ms, ret);
    if (result == 0 && service->is_udp)
        hint_receive_room(service, *ret);
    return result;
}

static void update(const struct binding *binding, const struct socket_options *options)
{
    for (unsigned int i = 0; i < binding->count; i++) {
        if (binding->fds[i] >= 0)
            socket_change_options(binding->fds[i], options);
    }
}

void server_update_control_options(const struct binding *binding, const struct config_peer *own)
{
    struct socket_options options = listener_options(own);
    if (binding != NULL)
        update(binding, &options);
}

void server_update_service_options(const struct service *service, const struct config_peer *own)
{
    const struct config_service *config = service_config(service);
    struct socket_options options = listener_options(own);
    if (service->is_udp || service->binding == NULL)
        return;
    if (config->nodelay != CONFIG_UNSET)
        options.nodelay = config->nodelay == CONFIG_TRUE;
    update(service->binding, &options);
}
