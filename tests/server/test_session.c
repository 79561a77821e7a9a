#include "server/session.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "config/config_copy.h"
#include "server/gate.h"
#include "service_rig.h"

static struct service_rig rig;
static struct session_table table;
static struct gate gate;

static void set_up(void)
{
    service_rig_init(&rig);
    gate_init(&gate, 100, 10);
    session_table_init(&table, &gate);
}

static void tear_down(void)
{
    session_table_finish(&table);
    cr_assert_eq(gate.expected_count, 0, "all of it is taken back");
    gate_finish(&gate);
    service_rig_finish(&rig);
}

static struct session session_of(uint8_t key, unsigned int worker)
{
    struct session session = {.service = rig.service, .worker_index = worker};
    memset(session.key, key, sizeof(session.key));
    session.client.bytes[0] = key;
    return session;
}

/* A data channel comes with the key. True: a session has it; *ret_expected: it was requested. */
static bool comes(uint8_t key, bool *ret_expected)
{
    uint8_t bytes[KEYS_DIGEST_SIZE];
    struct session_found found;
    memset(bytes, key, sizeof(bytes));
    if (!session_table_find(&table, bytes, &found))
        return false;
    cr_assert_eq(found.service, rig.service);
    service_drop(found.service);
    cr_assert_eq(found.client.bytes[0], key);
    *ret_expected = found.expected;
    if (found.expected)
        gate_expect(&gate, &found.client, -1);
    return true;
}

static bool opens(uint8_t key)
{
    bool expected;
    return comes(key, &expected);
}

static void park(const struct session *session, int fd)
{
    struct pool_offer offer = {
        .transport = {.fd = fd}, .source = session->source.handle, .may_park = true, .now_ns = 1};
    struct pool_match match;
    cr_assert_eq(channel_pool_offer(&rig.service->pool, &offer, &match), POOL_PARKED);
}

/* Ends a session. Returns how many channels were parked. */
static size_t ends(struct session *session, bool *ret_is_down)
{
    struct session_change change;
    struct pool_channel channel;
    size_t count = 0;
    session_end(&table, session, 1, &change);
    for (; pool_source_unpark(&session->source, &channel); count++)
        (void)close(channel.transport.fd);
    pool_source_finish(&session->source);
    *ret_is_down = change.is_down;
    return count;
}

static bool ends_all(struct session *session)
{
    bool is_down;
    (void)ends(session, &is_down);
    return is_down;
}

Test(session, begin_end_and_replace, .init = set_up, .fini = tear_down)
{
    struct session first = session_of(1, 0), second = session_of(2, 1);
    struct session_change change;
    bool is_down;
    cr_assert_not(opens(1));
    cr_assert_eq(session_begin(&table, &first, 1, &change), 0);
    cr_assert_not(change.replaced);
    cr_assert(opens(1));
    cr_assert(atomic_load(&rig.service->up));
    park(&first, dup(0));
    park(&first, dup(0));

    cr_assert_eq(session_begin(&table, &second, 2, &change), 0);
    cr_assert(change.replaced);
    cr_assert_eq(rig.service->pool.parked_count, 0, "those of the first are for nobody");
    cr_assert(atomic_load(&first.replaced));
    cr_assert_not(atomic_load(&second.replaced));
    cr_assert(opens(2) && !opens(1));
    cr_assert_eq(second.source.worker_index, 1);

    cr_assert_eq(ends(&first, &is_down), 2);
    cr_assert_not(is_down, "the newer goes on");
    cr_assert(atomic_load(&rig.service->up) && opens(2));
    park(&second, dup(0));
    cr_assert_eq(ends(&second, &is_down), 1);
    cr_assert(is_down);
    cr_assert_not(atomic_load(&rig.service->up));
    cr_assert_not(opens(2));
}

Test(session, keys_of_one_bucket_are_told_apart, .init = set_up, .fini = tear_down)
{
    enum { COUNT = 250 };
    static struct service *services[COUNT];
    static struct session sessions[COUNT];
    struct session_change change;
    for (unsigned int i = 0; i < COUNT; i++) {
        cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &services[i]), 0);
        sessions[i] = session_of((uint8_t)i, 0);
        sessions[i].service = services[i];
        cr_assert_eq(session_begin(&table, &sessions[i], 1, &change), 0);
    }
    for (unsigned int i = 0; i < COUNT; i++) {
        struct session_found found;
        cr_assert(session_table_find(&table, sessions[i].key, &found));
        cr_assert_eq(found.service, services[i]);
        service_drop(found.service);
    }
    for (unsigned int i = 0; i < COUNT; i++) {
        (void)ends_all(&sessions[i]);
        service_drop(services[i]);
    }
    cr_assert_not(opens(7));
}

Test(session, the_gate_expects_what_was_asked_for, .init = set_up, .fini = tear_down)
{
    struct session session = session_of(1, 0);
    struct session_change change;
    bool expected;
    cr_assert_eq(session_begin(&table, &session, 1, &change), 0);
    cr_assert_eq(session_ask(&table, &session, 3), 3);
    cr_assert_eq(gate.expected_count, 3);
    cr_assert(comes(1, &expected) && expected);
    cr_assert_eq(gate.expected_count, 2);
    session_give_up(&table, &session, 1);
    cr_assert_eq(gate.expected_count, 1);
    cr_assert(comes(1, &expected) && expected);
    cr_assert(comes(1, &expected) && !expected, "one too many");
    session_give_up(&table, &session, 5);
    cr_assert_eq(gate.expected_count, 0, "no more than were asked for");
    cr_assert_eq(session_ask(&table, &session, 256), LIMIT_POOL_MIN - 3);
    cr_assert(ends_all(&session));
    cr_assert_eq(session_ask(&table, &session, 256), 0, "it is over");
}

/* A session was replaced, its worker has not noticed yet and requests channels. It gets none, and
 * the gate expects none: the pool's wishes are for the newer session. */
Test(session, one_that_is_replaced_asks_for_nothing, .init = set_up, .fini = tear_down)
{
    struct session first = session_of(1, 0), second = session_of(2, 1);
    struct session_change change;
    cr_assert_eq(session_begin(&table, &first, 1, &change), 0);
    cr_assert_eq(session_ask(&table, &first, 256), LIMIT_POOL_MIN);
    cr_assert_eq(session_begin(&table, &second, 2, &change), 0);
    cr_assert_eq(gate.expected_count, 0);
    cr_assert_eq(session_ask(&table, &first, 256), 0);
    cr_assert_eq(gate.expected_count, 0);
    cr_assert_eq(session_ask(&table, &second, 256), LIMIT_POOL_MIN);
    cr_assert_not(ends_all(&first));
    cr_assert_eq(gate.expected_count, LIMIT_POOL_MIN, "of the newer one");
    cr_assert(ends_all(&second));
}

enum { ROUNDS = 2000 };

static void *asks(void *shared)
{
    struct session *session = shared;
    while (!atomic_load(&session->replaced))
        (void)session_ask(&table, session, 1);
    (void)session_ask(&table, session, 1);
    return NULL;
}

/* Sessions are replaced while another thread requests channels for them. The gate expects nothing
 * afterwards. */
Test(session, replaced_while_it_asks, .init = set_up, .fini = tear_down)
{
    struct session sessions[2] = {session_of(1, 0), session_of(2, 1)};
    struct session_change change;
    cr_assert_eq(session_begin(&table, &sessions[0], 1, &change), 0);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        struct session *old = &sessions[(i + 1) % 2], *new = &sessions[i % 2];
        pthread_t thread;
        *new = session_of((uint8_t)(1 + i % 2), 0);
        cr_assert_eq(pthread_create(&thread, NULL, asks, old), 0);
        cr_assert_eq(session_begin(&table, new, i, &change), 0);
        (void)pthread_join(thread, NULL);
        cr_assert_eq(gate.expected_count, 0);
        (void)ends_all(old);
    }
    cr_assert(ends_all(&sessions[ROUNDS % 2]));
}

/* With as many sessions as there may be services, the key in a data channel's Hello is compared
 * with few. */
Test(session, keys_are_compared_with_few, .init = set_up, .fini = tear_down)
{
    static struct session sessions[LIMIT_SERVICES];
    static struct service *all[LIMIT_SERVICES];
    struct session_change change;
    for (unsigned int i = 0; i < LIMIT_SERVICES; i++) {
        cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &all[i]), 0);
        sessions[i] = (struct session){.service = all[i]};
        memcpy(sessions[i].key, &i, sizeof(i));
        cr_assert_eq(session_begin(&table, &sessions[i], 1, &change), 0);
    }
    size_t longest = 0;
    for (size_t i = 0; i < SESSION_BUCKETS; i++) {
        size_t length = 0;
        list_for_each (node, &table.buckets[i])
            length++;
        longest = MAX(longest, length);
    }
    cr_assert_leq(longest, 20, "%zu in a bucket", longest);
    for (unsigned int i = 0; i < LIMIT_SERVICES; i++) {
        cr_assert(ends_all(&sessions[i]));
        service_drop(all[i]);
    }
}

static void balance(void)
{
    struct config_service config = rig.config;
    const struct config_service *copy;
    config.clients = CONFIG_CLIENTS_BALANCE;
    cr_assert_eq(config_service_copy(&config, &copy), 0);
    config_service_free(service_base_set_config(&rig.service->entry, copy));
}

Test(session, side_by_side, .init = set_up, .fini = tear_down)
{
    struct session first = session_of(1, 0), second = session_of(2, 1), third = session_of(3, 1);
    struct session_change change;
    bool is_down, expected;
    balance();
    cr_assert_eq(session_begin(&table, &first, 1, &change), 0);
    cr_assert_eq(session_ask(&table, &first, 256), LIMIT_POOL_MIN);
    cr_assert_eq(session_begin(&table, &second, 1, &change), 0);
    cr_assert_not(change.replaced || atomic_load(&first.replaced));
    cr_assert(opens(1) && opens(2));
    cr_assert_eq(session_ask(&table, &second, 256), LIMIT_POOL_SOURCE_MIN);
    cr_assert(comes(2, &expected) && expected);
    cr_assert_eq(gate.expected_count, LIMIT_POOL_MIN + LIMIT_POOL_SOURCE_MIN - 2, "of both");
    (void)ends(&first, &is_down);
    cr_assert_not(is_down);
    cr_assert(atomic_load(&rig.service->up) && opens(2) && !opens(1));
    cr_assert_eq(session_ask(&table, &first, 256), 0, "it is over");
    cr_assert_eq(session_begin(&table, &third, 1, &change), 0);
    (void)ends(&second, &is_down);
    cr_assert_not(is_down);
    (void)ends(&third, &is_down);
    cr_assert(is_down);
    cr_assert_not(atomic_load(&rig.service->up));
}

/* A reload from balance to replace. */
Test(session, only_the_newest_stays, .init = set_up, .fini = tear_down)
{
    enum { COUNT = 5 };
    struct session sessions[COUNT];
    struct session_change change;
    bool is_down;
    balance();
    for (uint8_t i = 0; i < COUNT; i++) {
        sessions[i] = session_of(i, i);
        cr_assert_eq(session_begin(&table, &sessions[i], 1, &change), 0);
        (void)session_ask(&table, &sessions[i], 256);
    }
    session_keep_newest(&table, rig.service, 1, &change);
    cr_assert_not(change.replaced, "still balance");
    const struct config_service *copy;
    cr_assert_eq(config_service_copy(&rig.config, &copy), 0);
    config_service_free(service_base_set_config(&rig.service->entry, copy));
    session_keep_newest(&table, rig.service, 1, &change);
    cr_assert(change.replaced);
    cr_assert_neq(change.notice & 1 << (COUNT - 1), 0, "it is to request for all");
    for (uint8_t i = 0; i < COUNT; i++) {
        cr_assert_eq(atomic_load(&sessions[i].replaced), i < COUNT - 1);
        cr_assert_eq(opens(i), i == COUNT - 1);
    }
    session_keep_newest(&table, rig.service, 1, &change);
    cr_assert_not(change.replaced);
    for (uint8_t i = 0; i < COUNT; i++) {
        (void)ends(&sessions[i], &is_down);
        cr_assert_eq(is_down, i == COUNT - 1);
    }
}

Test(session, no_more_than_the_limit, .init = set_up, .fini = tear_down)
{
    static struct session sessions[LIMIT_SESSIONS + 1];
    struct session_change change;
    bool is_down;
    balance();
    for (unsigned int i = 0; i <= LIMIT_SESSIONS; i++) {
        sessions[i] = session_of(1, 0);
        memcpy(sessions[i].key, &i, sizeof(i));
        cr_assert_eq(session_begin(&table, &sessions[i], 1, &change),
                     i < LIMIT_SESSIONS ? 0 : ERR_LIMIT);
    }
    cr_assert_eq(atomic_load(&rig.service->sessions), LIMIT_SESSIONS);
    for (unsigned int i = 0; i < LIMIT_SESSIONS; i++)
        (void)ends(&sessions[i], &is_down);
    cr_assert(is_down);
}
