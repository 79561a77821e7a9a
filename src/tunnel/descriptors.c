#include "tunnel/descriptors.h"

#include "base/limits.h"
#include "base/macros.h"

enum {
    /* Stdin, stdout, stderr; the signals; eventfds for the end of a worker, of a plan and for
     * services that come and go; the answers of name look-ups; the service manager; the channel to
     * a successor; and a few that are open for a moment. */
    OF_PROCESS = 14,
    OF_WORKER = 4, /* ring, mailbox, accounting of its CPU time, epoll set for exact polls */
    OF_RELAY = 2,  /* for a TCP visitor, in either role */
    LANES_MIN = 2,
};

unsigned int descriptors_lanes(const struct config_service *service, unsigned int workers)
{
    return service->udp_data_channels != 0 ? service->udp_data_channels
                                           : MAX(workers, (unsigned int)LANES_MIN);
}

unsigned int descriptors_udp_services(const struct config_peer *peer)
{
    unsigned int count = 0;
    for (size_t i = 0; i < peer->service_count; i++)
        count += peer->services[i].type == CONFIG_SERVICE_UDP;
    return count;
}

unsigned int descriptors_tcp_services(const struct config_peer *peer)
{
    return (unsigned int)peer->service_count - descriptors_udp_services(peer);
}

/* The control channel and, on the server, its sockets and the guard of its address. A client does
 * not know how many channels the server will want for UDP, so it assumes its own number of
 * lanes. */
unsigned int descriptors_fixed_of(enum config_role role, const struct config_service *service,
                                  unsigned int workers)
{
    unsigned int lanes = descriptors_lanes(service, workers);
    if (role == CONFIG_CLIENT)
        return service->type == CONFIG_SERVICE_UDP ? 1 + lanes : 1;
    if (service->is_routed) /* a control channel; its front has the listeners */
        return 1;
    return service->type == CONFIG_SERVICE_UDP ? 1 + 2 * lanes : 1 + workers + 1;
}

unsigned int descriptors_own(enum config_role role, unsigned int workers)
{
    unsigned int listeners = role == CONFIG_SERVER ? workers : 0;
    return OF_PROCESS + workers * OF_WORKER + listeners;
}

unsigned int descriptors_fixed(enum config_role role, const struct config_peer *peer,
                               unsigned int workers)
{
    unsigned int sum = descriptors_own(role, workers);
    for (size_t i = 0; i < peer->service_count; i++)
        sum += descriptors_fixed_of(role, &peer->services[i], workers);
    return sum;
}

unsigned int descriptors_strangers(const struct config_peer *peer, unsigned int fds)
{
    return MIN(peer->max_pending_handshakes, MAX(fds / LIMIT_PENDING_FDS_PART, 1u));
}

unsigned int descriptors_needed(enum config_role role, const struct config_peer *peer,
                                unsigned int workers)
{
    unsigned int tcp = OF_RELAY * descriptors_tcp_services(peer);
    unsigned int udp = role == CONFIG_CLIENT ? descriptors_udp_services(peer) : 0;
    /* UDP keeps a part (LIMIT_UDP_KEPT_PART) of the descriptors for visitors. */
    if (udp > 0)
        udp = MAX(udp, tcp / (LIMIT_UDP_KEPT_PART - 1) + 1);
    unsigned int sum = descriptors_fixed(role, peer, workers) + tcp + udp;
    if (role == CONFIG_CLIENT && peer->servers == CONFIG_SERVERS_ALL) /* each name has an address */
        sum += peer->more_addr_count * (unsigned int)peer->service_count;
    if (role == CONFIG_SERVER) /* strangers get an eighth of the sum, beyond what is needed */
        sum += descriptors_strangers(peer, (sum / (LIMIT_PENDING_FDS_PART - 1) + 1) *
                                               LIMIT_PENDING_FDS_PART);
    return sum + LIMIT_FDS_RESERVED;
}

unsigned int descriptors_wanted(enum config_role role, const struct config_peer *peer,
                                unsigned int workers)
{
    return descriptors_needed(role, peer, workers) +
           OF_RELAY * LIMIT_POOL_MIN * descriptors_tcp_services(peer);
}
