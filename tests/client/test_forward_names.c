/* UDP data channels on the client whose local service has a name with several addresses. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "client/forward.h"
#include "udp_rig.h"

static struct udp_rig rig;

static const struct udp_frame_addr alice = {.octets = {192, 0, 2, 1}, .port = 1000};
static const struct udp_frame_addr bob = {.octets = {192, 0, 2, 1}, .port = 1001};
static const struct udp_frame_addr carol = {.octets = {192, 0, 2, 1}, .port = 1002};

/* ---- the test answers names and makes sockets ---- */

static resolver_answered_fn *asked_answered;
static void *asked_by;
static unsigned int asked_count;
static bool refuses_ipv6;
static unsigned int refused_count;

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker);
void __wrap_resolver_abandon(struct resolver_query *query);
int __wrap_socket(int family, int type, int protocol);
int __real_socket(int family, int type, int protocol);

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker)
{
    asked_answered = answered;
    asked_by = asker;
    asked_count++;
    return (struct resolver_query *)(void *)&asked_count;
}

void __wrap_resolver_abandon(struct resolver_query *query)
{
    if (query != NULL)
        asked_answered = NULL;
}

int __wrap_socket(int family, int type, int protocol)
{
    if (!refuses_ipv6 || family != AF_INET6)
        return __real_socket(family, type, protocol);
    refused_count++;
    errno = EAFNOSUPPORT;
    return -1;
}

static void answer(const struct resolver_answer *resolver_answer)
{
    resolver_answered_fn *answered = asked_answered;
    cr_assert_not_null(answered);
    asked_answered = NULL;
    answered(asked_by, resolver_answer);
    udp_rig_settle(&rig, 5);
}

static void answer_two(struct addr first, struct addr second)
{
    answer(&(struct resolver_answer){.count = 2, .addrs = {first, second}});
}

/* ---- the local service ---- */

static struct addr at(uint8_t last)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    addr.v4.sin_family = AF_INET;
    addr.v4.sin_addr.s_addr = htonl(0x7f000000u + last);
    addr.v4.sin_port = htons(addr_port(&rig.udp_addr));
    return addr;
}

static struct addr at_v6(void)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    addr.v6.sin6_family = AF_INET6;
    addr.v6.sin6_addr = in6addr_loopback;
    addr.v6.sin6_port = htons(addr_port(&rig.udp_addr));
    return addr;
}

static int service_at(uint8_t last)
{
    struct addr addr = at(last);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, &addr.any, addr.len), 0);
    return fd;
}

static int begin(void)
{
    refuses_ipv6 = false;
    refused_count = asked_count = 0;
    udp_rig_init_client_of(&rig, "local.test");
    udp_rig_log_in(&rig);
    int channel = udp_rig_channel(&rig);
    cr_assert_eq(asked_count, 1);
    return channel;
}

static bool is_served(int channel, const struct udp_frame_addr *visitor, int local)
{
    char bytes[16];
    udp_rig_send_frame(&rig, channel, visitor, "x", 1);
    ssize_t got = udp_rig_receive(&rig, local, bytes, sizeof(bytes));
    cr_assert_eq(udp_rig_receive(&rig, local, bytes, sizeof(bytes)), -1, "once");
    return got == 1;
}

Test(forward_names, without_ipv6_the_other_address_is_used)
{
    int channel = begin();
    int local = service_at(1);
    refuses_ipv6 = true;
    answer_two(at_v6(), at(1));
    cr_expect(is_served(channel, &alice, local));
    cr_expect(is_served(channel, &bob, local));
    cr_expect_eq(refused_count, 1, "what worked comes first");
    udp_rig_advance(&rig, 11000);
    cr_expect(is_served(channel, &carol, local));
    cr_expect_eq(asked_count, 2);
    answer_two(at_v6(), at(1));
    udp_rig_send_frame(&rig, channel, &carol, "x", 1);
    int second = udp_rig_channel(&rig); /* no reason for a look-up */
    char bytes[16];
    cr_expect_eq(udp_rig_receive(&rig, local, bytes, sizeof(bytes)), 1);
    cr_expect(is_served(second, &alice, local));
    cr_expect_eq(refused_count, 1);
    cr_expect_eq(asked_count, 2);
    udp_rig_end(&rig, (const int[]){channel, second, local}, 3);
}

Test(forward_names, an_address_that_refuses_is_left)
{
    int channel = begin();
    int local = service_at(2);
    answer_two(at(1), at(2));
    int second = udp_rig_channel(&rig);
    cr_expect_not(is_served(channel, &alice, local), "nobody is at the first one");
    cr_expect(is_served(channel, &alice, local));
    cr_expect(is_served(channel, &bob, local));
    cr_expect(is_served(second, &alice, local), "another channel knows it too");
    udp_rig_advance(&rig, 11000);
    cr_expect(is_served(channel, &carol, local));
    answer_two(at(1), at(2));
    cr_expect(is_served(channel, &(struct udp_frame_addr){.octets = {1}, .port = 1}, local));
    /* And back to the first when the second ends. */
    (void)close(local);
    local = service_at(1);
    cr_expect_not(is_served(channel, &alice, local));
    cr_expect(is_served(channel, &alice, local));
    cr_expect(is_served(channel, &carol, local) || is_served(channel, &carol, local));
    udp_rig_end(&rig, (const int[]){channel, second, local}, 3);
}

/* Known addresses are used during a look-up, and after one that failed. */
Test(forward_names, the_last_addresses_are_used_meanwhile)
{
    int channel = begin();
    int local = service_at(1);
    answer(&(struct resolver_answer){.count = 1, .addrs = {at(1)}});
    cr_expect(is_served(channel, &alice, local));
    udp_rig_advance(&rig, 11000);
    int second = udp_rig_channel(&rig);
    cr_expect_eq(asked_count, 2);
    cr_expect(is_served(second, &bob, local), "it does not wait");
    cr_expect_eq(asked_count, 2);
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    cr_expect(is_served(second, &carol, local));
    cr_expect_eq(asked_count, 2, "not before a second");
    udp_rig_advance(&rig, 1100);
    cr_expect(is_served(channel, &carol, local));
    cr_expect_eq(asked_count, 3);
    answer(&(struct resolver_answer){.count = 1, .is_stale = true, .addrs = {at(1)}});
    udp_rig_advance(&rig, 1100);
    cr_expect(is_served(channel, &bob, local));
    cr_expect_eq(asked_count, 4, "a stale answer is not for long");
    udp_rig_end(&rig, (const int[]){channel, second, local}, 3);
}
