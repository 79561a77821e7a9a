#include "net/transport.h"

#include "io/socket.h"

void transport_close(struct transport *transport, struct loop *loop)
{
    if (transport->fd >= 0)
        loop_close_fd(loop, transport->fd);
    noise_link_free(transport->noise);
    *transport = (struct transport){.fd = -1};
}

void transport_abort(struct transport *transport, struct loop *loop)
{
    if (transport->fd >= 0)
        socket_set_abort(transport->fd);
    transport_close(transport, loop);
}
