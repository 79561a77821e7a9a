#include "io/udp_ports.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "io/socket.h"

enum {
    PORTS = UINT16_MAX + 1,
    /* The unit of given_back_at. The values repeat after a minute: then a port may seem to rest,
     * which costs a socket one more attempt. */
    UNIT_MS = 250,
    REST_UNITS = UDP_PORTS_REST_MS / UNIT_MS,
    /* With two thirds of all ports at rest, one socket in 650 keeps such a port. */
    ATTEMPTS = 16,
};

int udp_ports_init(struct udp_ports *ports)
{
    atomic_store(&ports->latest_ns, 0);
    ports->given_back_at = calloc(PORTS, sizeof(*ports->given_back_at));
    return ports->given_back_at != NULL ? 0 : -ENOMEM;
}

void udp_ports_finish(struct udp_ports *ports)
{
    free(ports->given_back_at);
    ports->given_back_at = NULL;
}

/* Never 0, which is for a port that was never given back. */
static uint8_t stamp_of(uint64_t now_ns)
{
    return (uint8_t)(1 + now_ns / ms_to_ns(UNIT_MS) % UINT8_MAX);
}

static unsigned int age_of(uint8_t stamp, uint64_t now_ns)
{
    return (unsigned int)(stamp_of(now_ns) + UINT8_MAX - stamp) % UINT8_MAX;
}

/* The socket's own port; 0: unknown. */
static uint16_t own_port_of(const struct udp_socket *udp)
{
    struct addr own;
    return socket_local(udp->fd, &own) < 0 ? 0 : addr_port(&own);
}

void udp_ports_give_back(struct udp_ports *ports, const struct udp_socket *udp, uint64_t now_ns)
{
    atomic_store_explicit(&ports->given_back_at[own_port_of(udp)], stamp_of(now_ns),
                          memory_order_relaxed);
    atomic_store_explicit(&ports->latest_ns, now_ns, memory_order_release);
}

static bool rests(const struct udp_ports *ports, uint16_t port, uint64_t now_ns)
{
    uint8_t stamp = atomic_load_explicit(&ports->given_back_at[port], memory_order_relaxed);
    return stamp != 0 && age_of(stamp, now_ns) <= REST_UNITS;
}

/* Whether any port can rest at all. Workers' clocks differ by a turn. */
static bool is_any_at_rest(const struct udp_ports *ports, uint64_t now_ns)
{
    uint64_t latest_ns = atomic_load_explicit(&ports->latest_ns, memory_order_acquire);
    return latest_ns != 0 && now_ns < latest_ns + ms_to_ns(UDP_PORTS_REST_MS + UNIT_MS);
}

int udp_ports_connect(struct udp_ports *ports, const struct addr *to, uint64_t now_ns,
                      struct udp_socket *ret)
{
    int result = udp_socket_connect(to, ret);
    if (result < 0 || !is_any_at_rest(ports, now_ns))
        return result;
    for (int i = 1; i < ATTEMPTS && result == 0 && rests(ports, own_port_of(ret), now_ns); i++)
        result = udp_socket_change_port(ret, to);
    if (result < 0)
        udp_socket_close(ret);
    return result;
}
