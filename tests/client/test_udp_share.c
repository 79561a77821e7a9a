#include "client/udp_share.h"

#include <criterion/criterion.h>
#include <stdint.h>

#include "base/limits.h"

static struct udp_share share;

static void begin(int fds, unsigned int percent, unsigned int ports)
{
    cr_assert_eq(udp_share_init(&share, 2), 0);
    udp_share_set(&share, fds, percent, ports);
}

static void open_many(unsigned int worker, unsigned int count)
{
    while (count-- > 0)
        udp_share_add(&share, worker);
}

Test(udp_share, a_percentage_of_the_descriptors_but_not_all_ports)
{
    begin(992, 50, 28232);
    cr_expect_eq(share.max, 496);
    udp_share_set(&share, 992, 100, 28232);
    cr_expect_eq(share.max, 992);
    udp_share_set(&share, INT32_MAX, 100, 28232);
    cr_expect_eq(share.max, 28232 - 28232 / LIMIT_UDP_PORTS_LEFT_PART);
    /* At least one, however few descriptors there are. */
    static const int few[] = {-5, 0, 1, 2};
    for (size_t i = 0; i < ARRAY_SIZE(few); i++) {
        udp_share_set(&share, few[i], 50, 28232);
        cr_expect_eq(share.max, 1);
        cr_expect_eq(udp_share_batch(&share), 1);
    }
    udp_share_finish(&share);
    udp_share_finish(&share);
}

Test(udp_share, is_spent_a_batch_before_its_end)
{
    begin(992, 50, 28232);
    unsigned int batch = udp_share_batch(&share);
    cr_expect_eq(batch, 496 / LIMIT_UDP_EVICT_PART);
    open_many(0, 496 - batch);
    cr_expect_not(udp_share_is_spent(&share));
    open_many(1, 1);
    cr_expect(udp_share_is_spent(&share));
    cr_expect_not(udp_share_is_over(&share));
    open_many(1, batch - 1);
    cr_expect(udp_share_is_over(&share));
    udp_share_remove(&share, 1);
    cr_expect_not(udp_share_is_over(&share));
    udp_share_set(&share, 1 << 20, 50, 65536);
    cr_expect_eq(udp_share_batch(&share), LIMIT_UDP_EVICT_BATCH);
    udp_share_finish(&share);
}

Test(udp_share, the_richest_worker)
{
    begin(992, 50, 28232);
    cr_expect_eq(udp_share_richest(&share), -1);
    open_many(1, 1);
    cr_expect_eq(udp_share_richest(&share), 1);
    open_many(0, 2);
    cr_expect_eq(udp_share_richest(&share), 0);
    cr_expect_eq(udp_share_of(&share, 0), 2);
    cr_expect_eq(udp_share_of(&share, 1), 1);
    udp_share_finish(&share);
}

/* UDP keeps a part of the share, however many connections there are, once it has a channel. */
Test(udp_share, keeps_a_part)
{
    begin(1280, 50, 28232);
    open_many(0, 100);
    cr_expect_eq(udp_share_kept(&share), 0);
    cr_expect_eq(udp_share_spare(&share), 100);
    share.channels = 1;
    cr_expect_eq(udp_share_kept(&share), 0);
    cr_expect_eq(udp_share_spare(&share), 20);
    for (unsigned int i = 0; i < 50; i++)
        udp_share_remove(&share, 0);
    cr_expect_eq(udp_share_kept(&share), 30);
    cr_expect_eq(udp_share_spare(&share), 0);
    udp_share_finish(&share);
}
