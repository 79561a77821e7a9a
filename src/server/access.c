#include "server/access.h"

#include "io/socket.h"
#include "server/server_worker.h"

static bool is_let_in(const struct config_access *access, const struct addr *from)
{
    if (access->set == NULL)
        return true;
    return from != NULL && (addr_is_unix(from) || cidr_set_allows(access->set, from));
}

bool access_allows_visitor(const struct service *service, const struct addr *from)
{
    return is_let_in(&service_config(service)->access, from);
}

bool access_allows_stranger(const struct server *server, const struct addr *from)
{
    return is_let_in(&server_config(server)->access, from);
}

bool access_denies_now(const struct server *server, int fd)
{
    struct addr peer;
    return server_config(server)->access.set != NULL && socket_peer(fd, &peer) == 0 &&
           !access_allows_stranger(server, &peer);
}
