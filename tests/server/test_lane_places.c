/* Lanes of a UDP service whose clients are side by side (`clients = balance`). The test plays the
 * clients and the visitors. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "server/lane.h"
#include "udp_rig.h"

static struct udp_rig rig;

/* A client that the test plays: its session, and its data channel. */
struct peer {
    int control, channel;
    uint8_t key[KEYS_DIGEST_SIZE];
};

static struct peer logged_in(void)
{
    struct peer peer = {.channel = -1};
    rig.control = -1; /* udp_rig_log_in would end the session of the one before */
    udp_rig_log_in(&rig);
    peer.control = rig.control;
    memcpy(peer.key, rig.session_key, sizeof(peer.key));
    rig.control = -1;
    return peer;
}

static unsigned int requests(const struct peer *peer)
{
    rig.control = peer->control;
    unsigned int count = udp_rig_requests(&rig);
    rig.control = -1;
    return count;
}

static void open_channel(struct peer *peer)
{
    memcpy(rig.session_key, peer->key, sizeof(peer->key));
    peer->channel = udp_rig_channel(&rig);
}

static struct peer served(void)
{
    struct peer peer = logged_in();
    cr_assert_eq(requests(&peer), 1);
    open_channel(&peer);
    return peer;
}

static void begin_with(const char *more)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "udp_data_channels = 1\nclients = balance\n%s", more);
    udp_rig_init_server(&rig, "127.0.0.1", text);
}

static void leave(struct peer *peer)
{
    (void)close(peer->control);
    if (peer->channel >= 0)
        (void)close(peer->channel);
    *peer = (struct peer){.control = -1, .channel = -1};
    udp_rig_settle(&rig, 10);
}

static void end(struct peer *peers, size_t peer_count, const int *visitors, size_t visitor_count)
{
    for (size_t i = 0; i < peer_count; i++) {
        if (peers[i].control >= 0)
            leave(&peers[i]);
    }
    udp_rig_end(&rig, visitors, visitor_count);
}

static struct udp_frame_addr address(int visitor)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    struct udp_frame_addr ret = {.octets = {0}};
    cr_assert_eq(getsockname(visitor, &addr.any, &addr.len), 0);
    memcpy(ret.octets, &addr.v4.sin_addr, 4);
    ret.port = addr_port(&addr);
    return ret;
}

static void say(int visitor, const char *text)
{
    cr_assert_eq(send(visitor, text, strlen(text), 0), (ssize_t)strlen(text));
    udp_rig_settle(&rig, 5);
}

/* The visitor's next frame comes on this channel. */
static bool comes(const struct peer *peer, int visitor, const char *text)
{
    struct udp_frame frame;
    struct udp_frame_addr from = address(visitor);
    return udp_rig_get_frame(&rig, peer->channel, &frame) &&
           udp_frame_addr_equal(&frame.from, &from) && frame.payload_len == strlen(text) &&
           memcmp(frame.payload, text, frame.payload_len) == 0;
}

/* Says something; returns the index of the client that gets it. */
static size_t says_to(int visitor, const struct peer *peers, size_t count, const char *text)
{
    char byte;
    say(visitor, text);
    for (size_t i = 0; i < count; i++) {
        if (peers[i].channel >= 0 &&
            recv(peers[i].channel, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
            cr_assert(comes(&peers[i], visitor, text));
            return i;
        }
    }
    return count;
}

static bool is_answered(const struct peer *peer, int visitor)
{
    char bytes[8];
    struct udp_frame_addr to = address(visitor);
    udp_rig_send_frame(&rig, peer->channel, &to, "back", 4);
    return udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)) == 4;
}

enum { VISITORS = 6 };

static void visit(int visitors[static VISITORS])
{
    for (size_t i = 0; i < VISITORS; i++)
        visitors[i] = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
}

Test(lane_places, visitors_spread_and_stay)
{
    begin_with("");
    struct peer peers[3] = {served(), served(), served()};
    int visitors[VISITORS];
    size_t of[VISITORS], counts[3] = {0};
    visit(visitors);
    for (size_t i = 0; i < VISITORS; i++) {
        of[i] = says_to(visitors[i], peers, 3, "first");
        cr_assert_lt(of[i], 3);
        counts[of[i]]++;
    }
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(counts[i], VISITORS / 3, "client %zu has %zu", i, counts[i]);
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < VISITORS; i++)
            cr_expect_eq(says_to(visitors[i], peers, 3, "again"), of[i]);
    }
    /* Only its own client's answers reach a visitor. */
    for (size_t i = 0; i < VISITORS; i++) {
        for (size_t j = 0; j < 3; j++)
            cr_expect_eq(is_answered(&peers[j], visitors[i]), of[i] == j);
    }
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_STRANGER), 2 * VISITORS);
    end(peers, 3, visitors, VISITORS);
}

/* A newcomer gets the new visitors until it has as many; nobody moves to it. */
Test(lane_places, a_newcomer_takes_new_visitors_alone)
{
    begin_with("udp_timeout = 10\n");
    struct peer peers[2] = {served(), {.control = -1, .channel = -1}};
    int visitors[VISITORS];
    visit(visitors);
    cr_expect_eq(says_to(visitors[0], peers, 2, "first"), 0);
    cr_expect_eq(says_to(visitors[1], peers, 2, "first"), 0);
    peers[1] = served();
    cr_expect_eq(says_to(visitors[2], peers, 2, "first"), 1);
    cr_expect_eq(says_to(visitors[3], peers, 2, "first"), 1);
    cr_expect_eq(says_to(visitors[0], peers, 2, "again"), 0);
    cr_expect_eq(says_to(visitors[1], peers, 2, "again"), 0);
    /* Those who are forgotten do not count. */
    for (int i = 0; i < 4; i++) {
        udp_rig_advance(&rig, 4000);
        cr_expect_eq(says_to(visitors[0], peers, 2, "still"), 0);
        cr_expect_eq(says_to(visitors[1], peers, 2, "still"), 0);
    }
    cr_expect_eq(says_to(visitors[4], peers, 2, "first"), 1);
    cr_expect_eq(says_to(visitors[5], peers, 2, "first"), 1);
    end(peers, 2, visitors, VISITORS);
}

Test(lane_places, the_visitors_of_a_dead_client_go_on_with_another)
{
    begin_with("proxy_protocol = off\n");
    struct peer peers[2] = {served(), served()};
    int visitors[VISITORS];
    size_t of[VISITORS];
    visit(visitors);
    for (size_t i = 0; i < VISITORS; i++)
        of[i] = says_to(visitors[i], peers, 2, "first");
    leave(&peers[of[0]]);
    size_t other = 1 - of[0];
    for (size_t i = 0; i < VISITORS; i++) {
        cr_expect_eq(says_to(visitors[i], peers, 2, "again"), other);
        cr_expect(is_answered(&peers[other], visitors[i]));
    }
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_CHANNEL), 0);
    end(peers, 2, visitors, VISITORS);
}

/* A client that stops ends its control channel first. */
Test(lane_places, answers_that_are_late_still_come)
{
    begin_with("");
    struct peer peers[2] = {served(), served()};
    int visitors[VISITORS];
    size_t of[VISITORS];
    visit(visitors);
    for (size_t i = 0; i < VISITORS; i++)
        of[i] = says_to(visitors[i], peers, 2, "first");
    struct peer *leaving = &peers[of[0]], *other = &peers[1 - of[0]];
    (void)close(leaving->control);
    udp_rig_settle(&rig, 10);
    cr_expect(is_answered(leaving, visitors[0]));
    cr_expect_eq(says_to(visitors[0], peers, 2, "again"), 1 - of[0]);
    cr_expect(is_answered(leaving, visitors[0]));
    cr_expect(is_answered(other, visitors[0]));
    udp_rig_advance(&rig, LIMIT_UDP_RETIRE_MS + 1);
    cr_expect(udp_rig_has_ended(&rig, leaving->channel));
    (void)close(leaving->channel);
    *leaving = (struct peer){.control = -1, .channel = -1};
    cr_expect_not(udp_rig_has_ended(&rig, other->channel));
    end(peers, 2, visitors, VISITORS);
}

/* As without `balance`: until there is another channel, the old one is better than none. */
Test(lane_places, the_last_channel_stays_until_there_is_another)
{
    begin_with("");
    struct peer peers[2] = {served(), {.control = -1, .channel = -1}};
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_expect_eq(says_to(visitor, peers, 2, "first"), 0);
    (void)close(peers[0].control);
    udp_rig_advance(&rig, 2 * LIMIT_UDP_RETIRE_MS);
    cr_expect_eq(says_to(visitor, peers, 2, "alone"), 0);
    cr_expect(is_answered(&peers[0], visitor));
    peers[1] = served();
    cr_expect_eq(says_to(visitor, peers, 2, "moved"), 1);
    udp_rig_advance(&rig, LIMIT_UDP_RETIRE_MS + 1);
    cr_expect(udp_rig_has_ended(&rig, peers[0].channel));
    (void)close(peers[0].channel);
    peers[0] = (struct peer){.control = -1, .channel = -1};
    end(peers, 2, &visitor, 1);
}

/* A channel that ends alone is asked for again, at once or, if it was new, after a pause. */
Test(lane_places, a_lost_channel_is_asked_of_its_own_client)
{
    begin_with("");
    struct peer peers[2] = {served(), served()};
    int visitors[VISITORS];
    visit(visitors);
    for (size_t i = 0; i < VISITORS; i++)
        (void)says_to(visitors[i], peers, 2, "first");
    udp_rig_advance(&rig, 2 * LIMIT_UDP_RETRY_MS);
    (void)close(peers[0].channel);
    peers[0].channel = -1;
    cr_expect_eq(requests(&peers[0]), 1);
    cr_expect_eq(requests(&peers[1]), 0);
    for (size_t i = 0; i < VISITORS; i++)
        cr_expect_eq(says_to(visitors[i], peers, 2, "again"), 1);
    open_channel(&peers[0]);
    for (size_t i = 0; i < VISITORS; i++)
        cr_expect_eq(says_to(visitors[i], peers, 2, "still"), 1, "nobody goes back");
    (void)close(peers[0].channel);
    peers[0].channel = -1;
    cr_expect_eq(requests(&peers[0]), 0, "it has not lived for long");
    udp_rig_advance(&rig, LIMIT_UDP_RETRY_MS + 2);
    cr_expect_eq(requests(&peers[0]), 1);
    open_channel(&peers[0]);
    int late = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_expect_eq(says_to(late, peers, 2, "first"), 0);
    (void)close(late);
    end(peers, 2, visitors, VISITORS);
}

/* One client does not read: its datagrams are dropped, and those of the others pass. */
Test(lane_places, a_full_channel_holds_nobody_up)
{
    static char large[60000];
    begin_with("");
    struct peer peers[2] = {served(), served()};
    int visitors[2] = {udp_rig_visitor("127.0.0.1", &rig.udp_addr),
                       udp_rig_visitor("127.0.0.1", &rig.udp_addr)};
    size_t of[2];
    for (size_t i = 0; i < 2; i++)
        of[i] = says_to(visitors[i], peers, 2, "first");
    cr_assert_neq(of[0], of[1]);
    for (int i = 0; i < 2000 && udp_rig_count(&rig, METRIC_UDP_DROPPED_QUEUE_FULL) < 50; i++) {
        (void)send(visitors[0], large, sizeof(large), 0);
        udp_rig_settle(&rig, 1);
    }
    cr_assert_geq(udp_rig_count(&rig, METRIC_UDP_DROPPED_QUEUE_FULL), 50);
    say(visitors[1], "small");
    cr_expect(comes(&peers[of[1]], visitors[1], "small"));
    cr_expect(is_answered(&peers[of[1]], visitors[1]));
    end(peers, 2, visitors, 2);
}

Test(lane_places, a_lane_has_a_channel_of_so_many_clients_at_most)
{
    enum { PEERS = LIMIT_UDP_CHANNELS + 2 };
    struct peer peers[PEERS];
    unsigned int asked = 0;
    begin_with("");
    for (size_t i = 0; i < PEERS; i++) {
        peers[i] = logged_in();
        unsigned int count = requests(&peers[i]);
        cr_assert_leq(count, 1);
        asked += count;
        if (count == 1)
            open_channel(&peers[i]);
    }
    cr_expect_eq(asked, LIMIT_UDP_CHANNELS);
    /* When one goes, another gets its place. */
    leave(&peers[0]);
    cr_assert_eq(requests(&peers[LIMIT_UDP_CHANNELS]), 1);
    cr_assert_eq(requests(&peers[LIMIT_UDP_CHANNELS + 1]), 0);
    open_channel(&peers[LIMIT_UDP_CHANNELS]);
    /* A newcomer takes no place of a session that goes on, although the pool lists it before. */
    peers[0] = logged_in();
    cr_expect_eq(requests(&peers[0]), 0);
    udp_rig_advance(&rig, LIMIT_UDP_RETIRE_MS + 1000);
    cr_expect_not(udp_rig_has_ended(&rig, peers[LIMIT_UDP_CHANNELS].channel));
    end(peers, PEERS, NULL, 0);
}

/* On a new client's channel the service learns anew who the visitor is. */
Test(lane_places, a_header_again_with_another_client)
{
    begin_with("proxy_protocol = v2\n");
    struct peer peers[2] = {served(), served()};
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    struct udp_frame frame;
    say(visitor, "one");
    size_t at = udp_rig_get_frame(&rig, peers[0].channel, &frame) ? 0 : 1;
    if (at == 1)
        cr_assert(udp_rig_get_frame(&rig, peers[1].channel, &frame));
    cr_expect_gt(frame.payload_len, 3);
    cr_expect_eq(says_to(visitor, peers, 2, "two"), at);
    leave(&peers[at]);
    say(visitor, "three");
    cr_assert(udp_rig_get_frame(&rig, peers[1 - at].channel, &frame));
    cr_expect_gt(frame.payload_len, 5);
    cr_expect_eq(says_to(visitor, peers, 2, "four"), 1 - at);
    end(peers, 2, &visitor, 1);
}
