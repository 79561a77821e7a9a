#include "client/client_worker.h"

void client_set_channel_options(struct client_worker *worker)
{
    const struct config_peer *config = client_config(worker->client);
    worker->channel_options = (struct socket_options){
        .nodelay = config->transport.tcp_nodelay,
        .keepalive_secs = config->transport.tcp_keepalive_secs,
        .keepalive_interval = config->transport.tcp_keepalive_interval,
    };
}
