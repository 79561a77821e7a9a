#include "app/transport_check.h"

#include <stdio.h>

#include "base/error.h"

/* The one place that refuses what config_load accepts and the layers between do not run yet. */
static const char *find_missing(const struct config_transport *transport)
{
    if (transport->type == CONFIG_TRANSPORT_TLS)
        return "type: tls is not wired up yet";
    if (transport->type == CONFIG_TRANSPORT_WEBSOCKET)
        return "type: websocket is not wired up yet";
    return transport->proxy.type != CONFIG_PROXY_NONE ? "tcp.proxy: not wired up yet" : NULL;
}

int transport_check(const char *file, enum config_role role, const struct config_peer *peer,
                    char problem[static TRANSPORT_PROBLEM_SIZE])
{
    const char *missing = find_missing(&peer->transport);
    if (missing == NULL)
        return 0;
    (void)snprintf(problem, TRANSPORT_PROBLEM_SIZE, "%s: %s.transport.%s", file,
                   role == CONFIG_SERVER ? "server" : "client", missing);
    return ERR_CONFIG;
}
