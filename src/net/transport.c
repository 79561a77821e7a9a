#include "net/transport.h"

#include "io/socket.h"

void transport_abort(struct transport *transport, struct loop *loop)
{
    if (transport->fd >= 0)
        loop_close_fd(loop, transport->fd);
    link_free(transport->link);
    *transport = (struct transport){.fd = -1};
}

void transport_close(struct transport *transport, struct loop *loop)
{
    if (transport->fd >= 0) {
        link_send_end(transport->link, transport->fd);
        socket_close_cleanly(transport->fd);
    }
    transport_abort(transport, loop);
}

void transport_close_fd(int fd, struct loop *loop)
{
    socket_close_cleanly(fd);
    loop_close_fd(loop, fd);
}
