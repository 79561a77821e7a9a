#include "tunnel/descriptors.h"

#include "base/limits.h"
#include "base/macros.h"

enum {
    /* stdin, stdout, stderr; signals, the workers' end, a reload's end, the watch of the file, the
     * service manager, the channel to a successor; and a file, a look-up or a clock for a moment */
    OF_PROCESS = 14,
    OF_WORKER = 4, /* its ring, mailbox, accounting of its time, and set of exact polls */
    OF_RELAY = 2,  /* of a TCP visitor, on either end */
    LANES_MIN = 2,
};

unsigned int descriptors_lanes(const struct config_service *service, unsigned int workers)
{
    return service->udp_data_channels != 0 ? service->udp_data_channels
                                           : MAX(workers, (unsigned int)LANES_MIN);
}

unsigned int descriptors_services(const struct config_peer *peer, enum config_service_type type)
{
    unsigned int count = 0;
    for (size_t i = 0; i < peer->service_count; i++)
        count += peer->services[i].type == type;
    return count;
}

/* Its control channel and, on the server, its sockets and the guard of its address. A client can't
 * know how many channels the server will want for UDP. */
static unsigned int fixed_of(enum config_role role, const struct config_service *service,
                             unsigned int workers)
{
    unsigned int lanes = descriptors_lanes(service, workers);
    if (role == CONFIG_CLIENT)
        return service->type == CONFIG_SERVICE_UDP ? 1 + lanes : 1;
    return service->type == CONFIG_SERVICE_UDP ? 1 + 2 * lanes : 1 + workers + 1;
}

unsigned int descriptors_fixed(enum config_role role, const struct config_peer *peer,
                               unsigned int workers)
{
    unsigned int listeners = role == CONFIG_SERVER ? workers : 0;
    unsigned int sum = OF_PROCESS + workers * OF_WORKER + listeners;
    for (size_t i = 0; i < peer->service_count; i++)
        sum += fixed_of(role, &peer->services[i], workers);
    return sum;
}

unsigned int descriptors_strangers(const struct config_peer *peer, unsigned int fds)
{
    return MIN(peer->max_pending_handshakes, MAX(fds / LIMIT_PENDING_FDS_PART, 1u));
}

unsigned int descriptors_needed(enum config_role role, const struct config_peer *peer,
                                unsigned int workers)
{
    unsigned int tcp = OF_RELAY * descriptors_services(peer, CONFIG_SERVICE_TCP);
    unsigned int udp = role == CONFIG_CLIENT ? descriptors_services(peer, CONFIG_SERVICE_UDP) : 0;
    /* Of all that is there for visitors UDP keeps a part. */
    if (udp > 0)
        udp = MAX(udp, tcp / (LIMIT_UDP_KEPT_PART - 1) + 1);
    unsigned int sum = descriptors_fixed(role, peer, workers) + tcp + udp;
    if (role == CONFIG_SERVER) /* so that an eighth of it all is beside that */
        sum += descriptors_strangers(peer, (sum / (LIMIT_PENDING_FDS_PART - 1) + 1) *
                                               LIMIT_PENDING_FDS_PART);
    return sum + LIMIT_FDS_RESERVED;
}

unsigned int descriptors_wanted(enum config_role role, const struct config_peer *peer,
                                unsigned int workers)
{
    return descriptors_needed(role, peer, workers) +
           OF_RELAY * LIMIT_POOL_MIN * descriptors_services(peer, CONFIG_SERVICE_TCP);
}
