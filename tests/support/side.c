#include "side.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/message.h"
#include "server/server.h"

enum { READ_TURNS = 3000, END_TURNS = 30, STOP_TURNS = 40 };

static void on_signals(void *owner, uint32_t bits)
{
    struct tunnel_worker *worker = owner;
    struct side *side = container_of(worker->all, struct side, all);
    if (worker->role != NULL)
        side->role->signalled(worker, bits);
}

static int init_worker(struct side *side, unsigned int index)
{
    struct tunnel_worker *worker = &side->workers[index];
    struct loop_options options = {.metrics = &worker->metrics};
    worker->index = index;
    worker->all = &side->all;
    worker->mailbox = mailbox_of(side->mailboxes, index);
    int result = loop_create(&options, &worker->loop);
    if (result == 0)
        result = relay_engine_init(&worker->relays, worker->loop, 1 << 20);
    if (result < 0)
        return result;
    datagram_engine_init(&worker->datagrams, worker->loop);
    mailbox_attach(worker->mailbox, worker->loop, worker, on_signals);
    side->attached[index] = true;
    return 0;
}

int side_init(struct side *side, unsigned int workers)
{
    memset(side, 0, sizeof(*side));
    cr_assert(workers > 0 && workers <= SIDE_WORKERS_MAX);
    side->all = (struct tunnel_workers){.count = workers, .items = side->workers};
    int result = mailbox_group_create(workers, &side->mailboxes);
    for (unsigned int i = 0; result == 0 && i < workers; i++)
        result = init_worker(side, i);
    return result;
}

static void detach(struct side *side, unsigned int index)
{
    if (side->attached[index])
        mailbox_detach(side->workers[index].mailbox);
    side->attached[index] = false;
}

int side_start(struct side *side, const struct role *role, void *shared)
{
    int result = 0;
    side->role = role;
    for (unsigned int i = 0; result == 0 && i < side->all.count; i++) {
        mailbox_self_test(side->workers[i].mailbox);
        result = role->start(shared, &side->workers[i]);
        side->started[i] = result == 0;
        if (result < 0) { /* finish it here, because its loop does not run any more */
            detach(side, i);
            role->finish(&side->workers[i]);
        }
    }
    return result;
}

static void finish_worker(struct side *side, unsigned int index)
{
    struct tunnel_worker *worker = &side->workers[index];
    cr_assert(!side->started[index] || side->role->is_done(worker));
    detach(side, index);
    if (side->role != NULL)
        side->role->finish(worker);
    link_engine_destroy(worker->links);
    worker->links = NULL;
    if (worker->relays.loop != NULL) {
        cr_assert_eq(fake_loop_lent(worker->loop), 0);
        cr_assert_eq(worker->relays.relay_count, 0);
        relay_engine_finish(&worker->relays);
        datagram_engine_finish(&worker->datagrams);
    }
    loop_destroy(worker->loop);
}

void side_finish(struct side *side)
{
    static const struct fake_faults none;
    side_set_faults(side, &none);
    side_signal(side, TUNNEL_SIGNAL_STOP);
    side_settle(side, STOP_TURNS);
    for (unsigned int i = 0; i < side->all.count; i++)
        finish_worker(side, i);
    mailbox_group_destroy(side->mailboxes);
    memset(side, 0, sizeof(*side));
}

/* ---- time and turns ---- */

void side_settle(struct side *side, int turns)
{
    for (int turn = 0; turn < turns; turn++) {
        for (unsigned int i = 0; i < side->all.count; i++) {
            if (side->attached[i])
                cr_assert_eq(loop_run_once(side->workers[i].loop), 0);
        }
    }
}

void side_advance(struct side *side, uint64_t ms)
{
    for (unsigned int i = 0; i < side->all.count; i++)
        fake_loop_advance_ms(side->workers[i].loop, ms);
    side_settle(side, 4);
}

void side_stop(struct side *side, uint64_t ms)
{
    for (unsigned int i = 0; i < side->all.count; i++)
        fake_loop_stop_ms(side->workers[i].loop, ms);
    side_settle(side, 4);
}

void side_set_idle_step_ms(struct side *side, unsigned int ms)
{
    for (unsigned int i = 0; i < side->all.count; i++)
        fake_loop_set_idle_step_ms(side->workers[i].loop, ms);
}

void side_set_faults(struct side *side, const struct fake_faults *faults)
{
    for (unsigned int i = 0; i < side->all.count; i++) {
        if (side->attached[i])
            fake_loop_set_faults(side->workers[i].loop, faults);
    }
}

void side_signal(struct side *side, uint32_t bits)
{
    for (unsigned int i = 0; i < side->all.count; i++) {
        if (side->attached[i])
            mailbox_signal(side->workers[i].mailbox, NULL, bits);
    }
    side_settle(side, 30);
}

uint64_t side_metric(const struct side *side, enum metric metric)
{
    uint64_t sum = 0;
    for (unsigned int i = 0; i < side->all.count; i++)
        sum += metrics_get(&side->workers[i].metrics, metric);
    return sum;
}

/* ---- as the other side ---- */

void say(int fd, const void *bytes, size_t size)
{
    (void)send(fd, bytes, size, MSG_NOSIGNAL);
}

size_t side_read(struct side *side, int fd, void *out, size_t size, int *ret_end)
{
    size_t have = 0;
    *ret_end = 0;
    for (int turn = 0; turn < READ_TURNS && have < size && *ret_end == 0; turn++) {
        ssize_t got = recv(fd, (char *)out + have, size - have, MSG_DONTWAIT);
        if (got > 0)
            have += (size_t)got;
        else if (got == 0)
            *ret_end = 1;
        else if (errno != EAGAIN)
            *ret_end = -errno;
        side_settle(side, 1);
    }
    return have;
}

bool side_expect(struct side *side, int fd, const void *bytes, size_t size)
{
    unsigned char got[4096];
    int end;
    cr_assert_leq(size, sizeof(got));
    return side_read(side, fd, got, size, &end) == size && memcmp(got, bytes, size) == 0;
}

int side_end_of(struct side *side, int fd)
{
    char bytes[4096];
    for (int turn = 0; turn < END_TURNS; turn++) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got == 0)
            return 1;
        if (got < 0 && errno != EAGAIN)
            return -errno;
        side_settle(side, 1);
    }
    return 0;
}

int side_log_in(struct side *side, int fd, const char *service, const char *token,
                uint8_t ret_session_key[static KEYS_DIGEST_SIZE])
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE], bytes[MESSAGE_ACK_SIZE];
    struct message_hello answer;
    enum message_ack ack;
    int end;
    keys_service_digest(service, strlen(service), digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    if (side_read(side, fd, hello, sizeof(hello), &end) != sizeof(hello) ||
        message_hello_decode(hello, sizeof(hello), &answer) < 0)
        return -1;
    keys_auth_digest(token, strlen(token), answer.digest, ret_session_key);
    say(fd, ret_session_key, KEYS_DIGEST_SIZE);
    if (side_read(side, fd, bytes, sizeof(bytes), &end) != sizeof(bytes) ||
        message_ack_decode(bytes, sizeof(bytes), &ack) < 0)
        return -1;
    return (int)ack;
}

struct service *side_first_service(struct server *server)
{
    cr_assert_not(list_is_empty(&server->services.entries));
    return service_of(container_of(server->services.entries.next, struct service_base, node));
}

struct config *side_config(const char *text)
{
    struct config *config;
    struct config_report report;
    int result = config_parse("test", text, strlen(text), &config, &report);
    cr_assert_eq(result, 0, "%s", report.count > 0 ? report.messages[0].text : "");
    config_report_finish(&report);
    return config;
}
