#include "client/client_worker.h"

#include "base/error.h"
#include "net/stream.h"

const char *client_failure_text(const struct stream *stream, int error)
{
    const char *why = error == ERR_PROXY ? stream_handshake_why(stream) : NULL;
    if (error == ERR_PROXY)
        return why != NULL ? why : "the proxy closed the connection";
    if (error == ERR_DEADLINE && stream_is_at_proxy(stream))
        return "the proxy did not answer in time";
    return error_text(error);
}

void client_set_channel_options(struct client_worker *worker)
{
    const struct config_peer *config = client_config(worker->client);
    worker->channel_options = (struct socket_options){
        .nodelay = config->transport.tcp_nodelay,
        .keepalive_secs = config->transport.tcp_keepalive_secs,
        .keepalive_interval = config->transport.tcp_keepalive_interval,
    };
}
