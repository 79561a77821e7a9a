#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "io/socket.h"
#include "io/udp_ports.h"
#include "testing.h"

static struct udp_ports ports;
static struct addr service;
static uint64_t now_ns;

static void set_up(void)
{
    cr_assert_eq(udp_ports_init(&ports), 0);
    service = tcp_loopback(free_port());
    now_ns = ms_to_ns(1000000);
}

static void tear_down(void)
{
    udp_ports_finish(&ports);
}

static struct udp_socket open_one(void)
{
    struct udp_socket udp;
    cr_assert_eq(udp_ports_connect(&ports, &service, now_ns, &udp), 0);
    return udp;
}

static uint16_t own_port(const struct udp_socket *udp)
{
    struct addr own, peer;
    cr_assert_eq(socket_local(udp->fd, &own), 0);
    cr_assert_eq(socket_peer(udp->fd, &peer), 0);
    cr_assert(addr_equal(&peer, &service), "it is connected");
    return addr_port(&own);
}

/* Says of all ports but every `step`th that they were given back now. */
static void rest_all_but(unsigned int step)
{
    struct udp_socket udp = open_one();
    udp_ports_give_back(&ports, &udp, now_ns);
    uint8_t stamp = atomic_load(&ports.given_back_at[own_port(&udp)]);
    for (unsigned int port = 0; port <= UINT16_MAX; port++)
        atomic_store(&ports.given_back_at[port], port % step == 0 ? 0 : stamp);
    udp_socket_close(&udp);
}

/* How many of so many new sockets have one of the ports that do not rest. */
static unsigned int fresh_ones(unsigned int count, unsigned int step)
{
    unsigned int found = 0;
    for (unsigned int i = 0; i < count; i++) {
        struct udp_socket udp = open_one();
        found += own_port(&udp) % step == 0;
        udp_socket_close(&udp);
    }
    return found;
}

Test(udp_ports, one_that_was_given_back_rests, .init = set_up, .fini = tear_down)
{
    rest_all_but(2);
    cr_expect_geq(fresh_ones(200, 2), 199, "one in 65,536 tries in vain");
    now_ns += ms_to_ns(UDP_PORTS_REST_MS);
    cr_expect_geq(fresh_ones(200, 2), 199);
}

Test(udp_ports, it_may_be_used_again_after_a_second, .init = set_up, .fini = tear_down)
{
    rest_all_but(2);
    now_ns += ms_to_ns(UDP_PORTS_REST_MS + 251);
    unsigned int fresh = fresh_ones(200, 2);
    cr_expect(fresh > 40 && fresh < 160, "%u of 200: by chance half", fresh);
}

Test(udp_ports, it_is_better_than_none, .init = set_up, .fini = tear_down)
{
    rest_all_but(UINT16_MAX + 1); /* all but 0 */
    cr_expect_eq(fresh_ones(20, UINT16_MAX + 1), 0);
}

Test(udp_ports, nothing_rests_at_first, .init = set_up, .fini = tear_down)
{
    now_ns = 5;
    struct udp_socket one = open_one(), other = open_one();
    cr_expect_neq(own_port(&one), own_port(&other));
    udp_socket_close(&one);
    udp_socket_close(&other);
}

Test(udp_ports, errors, .init = set_up, .fini = tear_down)
{
    struct udp_socket udp = {.fd = -1};
    rest_all_but(2);
    ((struct sockaddr_in *)&service.any)->sin_addr.s_addr = htonl(0x7fffffff);
    cr_expect_eq(udp_ports_connect(&ports, &service, now_ns, &udp), -EACCES);
    cr_expect_eq(udp.fd, -1);
    struct udp_ports zeroed = {0};
    udp_ports_finish(&zeroed);
}
