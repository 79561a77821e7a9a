/* The lobby of one worker on the fake loop, before a gate that is full. */
#include "server/lobby.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "crypto/keys.h"
#include "side.h"
#include "tunnel/tunnel_worker.h"

enum { GUESTS = 20 };

static struct side side;
static struct gate gate;
static struct gate_desk desk;
static struct gate_ticket holder, tickets[GUESTS];
static struct lobby lobby;
static size_t entered;
static int ends[GUESTS][2];

static struct addr_key key_of(unsigned int number)
{
    struct addr_key key = {{0}};
    memcpy(key.bytes, &number, sizeof(number));
    key.bytes[15] = 1;
    return key;
}

static uint64_t now_ns(void)
{
    return loop_now_ns(side.workers[0].loop);
}

static int enter(struct tunnel_worker *tunnel, int fd, const struct addr_key *key,
                 enum login_entry how, enum gate_answer kind)
{
    int result =
        gate_try(&gate, &tickets[entered], key, &desk, now_ns(), how == LOGIN_IS_NEW, kind);
    if (result == GATE_ENTERED) {
        entered++;
        (void)close(fd);
    }
    return result;
}

static void arrive(unsigned int i)
{
    struct addr_key key = key_of(1 + i);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends[i]), 0);
    int kind = enter(&side.workers[0], ends[i][1], &key, LOGIN_IS_NEW, GATE_WAITS);
    cr_assert(kind == GATE_WAITS || kind == GATE_WAITS_KNOWN);
    lobby_keep(&lobby, ends[i][1], &key, (enum gate_answer)kind);
}

static bool is_closed(unsigned int i)
{
    char byte;
    return recv(ends[i][0], &byte, 1, MSG_DONTWAIT) == 0;
}

static void set_up(void)
{
    struct addr_key key = key_of(1000);
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(side_init(&side, 1), 0);
    gate_init(&gate, 1, 8);
    gate_set_limits(&gate, 1, 8, GUESTS);
    gate_desk_init(&desk, &side.workers[0]);
    lobby_init(&lobby, &side.workers[0], &gate, enter);
    entered = 0;
    side_set_idle_step_ms(&side, 0);
    cr_assert_eq(gate_enter(&gate, &holder, &key, &desk, now_ns()), GATE_ENTERED);
    cr_assert(gate_spoke(&gate, &holder, now_ns()));
}

static void tear_down(void)
{
    lobby_close_all(&lobby);
    side_settle(&side, 4);
    cr_expect_eq(gate.waiting_count[0] + gate.waiting_count[1], 0);
    gate_leave(&gate, &holder);
    for (size_t i = 0; i < entered; i++)
        gate_leave(&gate, &tickets[i]);
    cr_expect_eq(gate.addrs.entry_count, gate.known_count, "an address is left");
    for (unsigned int i = 0; i < GUESTS; i++) {
        if (ends[i][0] > 0)
            (void)close(ends[i][0]);
    }
    lobby_finish(&lobby);
    gate_finish(&gate);
    side_finish(&side);
}

Test(lobby, first_come_first_served, .init = set_up, .fini = tear_down)
{
    for (unsigned int i = 0; i < 3; i++)
        arrive(i);
    side_advance(&side, 10);
    cr_expect_eq(entered, 0);
    gate_leave(&gate, &holder);
    side_advance(&side, 10);
    cr_expect_eq(entered, 1);
    cr_expect(is_closed(0) && !is_closed(1) && !is_closed(2));
    cr_expect_eq(gate.waiting_count[GATE_WAITS], 2);
}

Test(lobby, the_oldest_strangers_make_room_for_want_of_descriptors, .init = set_up,
     .fini = tear_down)
{
    struct addr_key known = key_of(1);
    cr_expect_not(lobby_relieve(&lobby));
    gate_trust(&gate, &known, 0, now_ns());
    for (unsigned int i = 0; i < GUESTS; i++)
        arrive(i);
    cr_expect(lobby_relieve(&lobby));
    side_settle(&side, 4);
    cr_expect_not(is_closed(0), "its address is known");
    for (unsigned int i = 1; i <= 16; i++)
        cr_expect(is_closed(i));
    for (unsigned int i = 17; i < GUESTS; i++)
        cr_expect_not(is_closed(i));
    cr_expect_eq(gate.waiting_count[GATE_WAITS], GUESTS - 17);
    cr_expect(lobby_relieve(&lobby));
    cr_expect_not(lobby_relieve(&lobby), "one from a known address stays");
    cr_expect_eq(side_metric(&side, METRIC_STRANGERS_EVICTED_FDS), GUESTS - 1);
}
