#include "client/descriptors.h"

#include <errno.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/client_worker.h"
#include "client/forward.h"
#include "io/socket.h"
#include "io/udp_socket.h"
#include "tunnel/descriptors.h"

enum { OF_RELAY = 2 }; /* descriptors */

int client_fds_init(struct client_fds *fds, const struct config_peer *config, unsigned int workers)
{
    fds->max = tunnel_fds_for_visitors();
    client_fds_configure(fds, config, workers);
    return udp_share_init(&fds->udp, workers);
}

void client_fds_finish(struct client_fds *fds)
{
    udp_share_finish(&fds->udp);
}

void client_fds_configure(struct client_fds *fds, const struct config_peer *config,
                          unsigned int workers)
{
    int fixed = (int)descriptors_fixed(CONFIG_CLIENT, config, workers);
    atomic_store(&fds->fixed, fixed);
    atomic_store(&fds->tcp_services, (int)descriptors_tcp_services(config));
    udp_share_set(&fds->udp, fds->max - fixed, config->udp_descriptors, udp_socket_port_count());
}

void client_fds_release(struct client_fds *fds, struct client_service *service)
{
    if (service->is_udp)
        return;
    (void)atomic_fetch_sub(&fds->tcp_channels, 1);
    if (atomic_fetch_sub(&service->tcp_channels, 1) == 1)
        (void)atomic_fetch_sub(&fds->tcp_served, 1);
}

/* Counts first and checks then. If two workers want the last descriptors at the same moment, both
 * may fail and try again a moment later, but no more are given away than there are. */
bool client_fds_hold(struct client_fds *fds, struct client_service *service)
{
    if (service->is_udp)
        return true;
    (void)atomic_fetch_add(&fds->tcp_channels, 1);
    bool is_first = atomic_fetch_add(&service->tcp_channels, 1) == 0;
    if (is_first)
        (void)atomic_fetch_add(&fds->tcp_served, 1);
    int used = atomic_load(&fds->fixed) + atomic_load(&fds->more_controls) +
               OF_RELAY * atomic_load(&fds->tcp_channels) + (int)atomic_load(&fds->udp.open);
    int left_to_others = (int)udp_share_kept(&fds->udp);
    if (!is_first)
        left_to_others +=
            OF_RELAY * MAX(atomic_load(&fds->tcp_services) - atomic_load(&fds->tcp_served), 0);
    if (fds->max - used >= left_to_others)
        return true;
    client_fds_release(fds, service);
    return false;
}

int client_fds_channel_max(const struct client_fds *fds, const struct client_service *service)
{
    /* A UDP service can serve all its visitors with this channel, so it may use some of the
     * reserve. */
    return service->is_udp ? fds->max + LIMIT_FDS_RESERVED_UDP
                           : fds->max - atomic_load(&fds->half_open);
}

int client_fds_dial(struct client_worker *worker, const struct addr *addr,
                    const struct socket_options *options, int fd_max)
{
    for (bool again = false;; again = true) {
        int fd = socket_for_dialing(addr, options);
        if (fd >= fd_max) {
            (void)close(take_fd(&fd));
            fd = -EMFILE;
        }
        if ((fd != -EMFILE && fd != -ENFILE) || again || !forward_yield(worker))
            return fd;
    }
}
