/* The set of servers of a client on the fake loop: what look-ups make of it, when names are looked up,
 * and which control channels follow. Linked with --wrap: the test answers names. */
#include "client/servers.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/client.h"
#include "client/reload.h"
#include "control_priv.h"
#include "io/resolver.h"
#include "side.h"

enum { WORKERS = 2, ASKED_MAX = 32 };

/* ---- the test answers names ---- */

static struct asked {
    char host[ADDR_HOST_SIZE];
    resolver_answered_fn *answered; /* NULL: answered or abandoned */
    void *asker;
} asked[ASKED_MAX];
static unsigned int asked_count;

static struct addr known[LIMIT_SERVERS + 8];
static size_t known_count;
static uint32_t look_ups;

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker);
void __wrap_resolver_abandon(struct resolver_query *query);
size_t __wrap_resolver_list(struct resolver *resolver, const struct host_port *name,
                            bool prefer_ipv6, uint32_t *ret_look_up, struct addr *ret);

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker)
{
    cr_assert_lt(asked_count, ASKED_MAX);
    struct asked *query = &asked[asked_count++];
    *query = (struct asked){.answered = answered, .asker = asker};
    (void)snprintf(query->host, sizeof(query->host), "%s", name->host);
    return (struct resolver_query *)(void *)query;
}

void __wrap_resolver_abandon(struct resolver_query *query)
{
    if (query != NULL)
        ((struct asked *)(void *)query)->answered = NULL;
}

size_t __wrap_resolver_list(struct resolver *resolver, const struct host_port *name,
                            bool prefer_ipv6, uint32_t *ret_look_up, struct addr *ret)
{
    size_t count = MIN(known_count, (size_t)LIMIT_SERVERS);
    memcpy(ret, known, count * sizeof(*ret));
    for (size_t i = 0; i < count; i++)
        ret[i].v4.sin_port = htons(name->port);
    *ret_look_up = look_ups;
    return count;
}

/* ---- the rig ---- */

static struct side side;
static struct client *client;

static void start(const char *own, const char *services)
{
    static char text[2000];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    asked_count = 0;
    look_ups = 0;
    (void)snprintf(text, sizeof(text), "[client]\ndefault_token = t\n%s\n%s", own, services);
    struct config *config = side_config(text);
    cr_assert_eq(side_init(&side, WORKERS), 0);
    side_set_idle_step_ms(&side, 0);
    cr_assert_eq(client_create(&config->client, WORKERS, &client), 0);
    config_destroy(config);
    cr_assert_eq(side_start(&side, &client_role, client), 0);
    side_settle(&side, 4);
}

static void finish(void)
{
    side_finish(&side);
    for (size_t i = 0; i < client->servers.count; i++) {
        cr_expect_eq(client->servers.list[i]->users, 1, "nobody else holds it");
        cr_expect_eq(client->servers.list[i]->logins_in_progress, 0);
    }
    cr_expect_eq(client->fds.more_controls, 0);
    client_destroy(client);
}

#define ECHO "[client.services.echo]\nlocal_addr = 127.0.0.1:9\n"
#define WEB  "[client.services.web]\nlocal_addr = 127.0.0.1:9\n"

static void reload(const char *own)
{
    static char text[2000];
    struct reload_outcome outcome;
    (void)snprintf(text, sizeof(text), "[client]\ndefault_token = t\n%s\n%s", own, ECHO);
    struct config *config = side_config(text);
    cr_assert_eq(client_reload_ops.begin(client, &config->client, NULL, RELOAD_FIRST, 0, &outcome),
                 1);
    config_destroy(config);
    side_signal(&side, TUNNEL_SIGNAL_PLAN);
    for (int turn = 0; turn < 100 && !client_reload_ops.finish(client); turn++)
        side_settle(&side, 1);
    side_settle(&side, 6);
}

static bool is_of_set(const struct asked *query)
{
    bool found = false;
    for (size_t i = 0; i < client->servers.name_count; i++)
        found |= query->asker == &client->servers.names[i];
    return found;
}

/* Answers the open question of the set's name; control channels get no answer. */
static void answer_addrs(const char *host, const struct addr *addrs, size_t count, int error)
{
    struct asked *query = NULL;
    for (unsigned int i = 0; i < asked_count; i++)
        if (asked[i].answered != NULL && strcmp(asked[i].host, host) == 0 && is_of_set(&asked[i]))
            query = &asked[i];
    cr_assert_not_null(query, "%s is not looked up", host);
    resolver_answered_fn *answered = query->answered;
    query->answered = NULL;
    memcpy(known, addrs, count * sizeof(*addrs));
    known_count = count;
    look_ups += error == 0;
    answered(query->asker, &(struct resolver_answer){.error = error, .count = count > 0});
    side_settle(&side, 6);
}

static struct addr node(unsigned int number)
{
    struct addr addr = tcp_loopback(1);
    addr.v4.sin_addr.s_addr = htonl(0x7f010000u + number);
    return addr;
}

/* With 127.1.0.N for each digit; with none: it fails. */
static void answer_nodes(const char *host, const char *numbers)
{
    struct addr addrs[10];
    size_t count = strlen(numbers);
    for (size_t i = 0; i < count; i++)
        addrs[i] = node((unsigned int)(numbers[i] - '0'));
    answer_addrs(host, addrs, count, count > 0 ? 0 : ERR_RESOLVE);
}

/* The set, as the last digits of its addresses. */
static const char *set(void)
{
    static char text[LIMIT_SERVERS + 1];
    struct client_server *list[LIMIT_SERVERS];
    size_t count = client_servers_list(&client->servers, list);
    for (size_t i = 0; i < count; i++) {
        text[i] =
            (char)(list[i]->id == 0 ? '*' : '0' + (ntohl(list[i]->addr.v4.sin_addr.s_addr) & 15));
        client_server_drop(list[i]);
    }
    text[count] = '\0';
    return text;
}

static struct client_service *service_of(unsigned int index)
{
    struct list *at = client->services.entries.next;
    for (unsigned int i = 0; i < index; i++)
        at = at->next;
    return client_service_of(container_of(at, struct service_base, node));
}

/* Each service has one control channel for each entry of the set, and no other. */
static void check_controls(unsigned int services)
{
    struct client_server *list[LIMIT_SERVERS];
    size_t count = client_servers_list(&client->servers, list);
    for (unsigned int i = 0; i < services; i++) {
        size_t found = 0;
        list_for_each (at, &service_of(i)->controls)
            found++;
        cr_expect_eq(found, count, "service %u has %zu", i, found);
        for (size_t j = 0; j < count; j++) {
            size_t of_entry = 0;
            list_for_each (at, &service_of(i)->controls)
                of_entry +=
                    container_of(at, struct client_control, service_node)->server == list[j];
            cr_expect_eq(of_entry, 1);
        }
    }
    cr_expect_eq(client->fds.more_controls, services * (count > 0 ? count - 1 : 0));
    for (size_t i = 0; i < count; i++)
        client_server_drop(list[i]);
}

/* ---- */

Test(servers, first_is_one_entry)
{
    start("remote_addr = 127.0.0.1:1, 127.0.0.1:2", ECHO WEB);
    cr_expect_str_eq(set(), "*");
    check_controls(2);
    side_advance(&side, 100000);
    cr_expect_eq(asked_count, 0);
    finish();
}

Test(servers, what_look_ups_make_of_it)
{
    start("remote_addr = a.test:1\nservers = all\nresolve_interval = 10", ECHO WEB);
    cr_expect_str_eq(set(), "");
    cr_assert_eq(asked_count, 1);
    answer_nodes("a.test", "12");
    cr_expect_str_eq(set(), "12");
    check_controls(2);
    side_advance(&side, 8900);
    cr_expect_eq(asked_count, 1, "not before nine tenths of the interval");
    side_advance(&side, 1200);
    cr_assert_eq(asked_count, 2);
    answer_nodes("a.test", "13");
    cr_expect_str_eq(set(), "123", "once is not enough");
    check_controls(2);
    side_advance(&side, 10100);
    answer_nodes("a.test", "13");
    cr_expect_str_eq(set(), "13");
    check_controls(2);
    /* Absent once, there again, absent once. */
    static const char *const answers[] = {"1", "13", "1"};
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        side_advance(&side, 10100);
        answer_nodes("a.test", answers[i]);
        cr_expect_str_eq(set(), "13", "%zu", i);
    }
    /* Failures do not count as look-ups without it: neither an error, nor the old addresses. */
    for (size_t i = 0; i < 4; i++) {
        side_advance(&side, 10100);
        if (i % 2 == 0) {
            answer_nodes("a.test", "");
        } else {
            look_ups--; /* the same look-up as before */
            answer_nodes("a.test", "1");
        }
        cr_expect_str_eq(set(), "13", "%zu", i);
    }
    side_advance(&side, 10100);
    answer_nodes("a.test", "1");
    cr_expect_str_eq(set(), "1");
    check_controls(2);
    finish();
}

Test(servers, the_first_one_leaves)
{
    static const char *const answers[] = {"123", "23", "23", "234"};
    start("remote_addr = a.test:1\nservers = all\nresolve_interval = 10", ECHO WEB);
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        answer_nodes("a.test", answers[i]);
        check_controls(2); /* the others take its place in the count */
        side_advance(&side, 10100);
    }
    cr_expect_str_eq(set(), "234");
    finish();
}

Test(servers, names_that_share_addresses)
{
    start("remote_addr = a.test:1, b.test:1, 127.1.0.5:1, b.test:2\nservers = all\n"
          "resolve_interval = 10",
          ECHO);
    cr_expect_str_eq(set(), "5", "needs no look-up");
    check_controls(1);
    cr_assert_eq(asked_count, 3);
    asked[2].answered = NULL; /* b.test:2 stays without an answer */
    answer_nodes("b.test", "215");
    cr_expect_str_eq(set(), "521");
    answer_nodes("a.test", "13");
    cr_expect_str_eq(set(), "5213", "one of each");
    check_controls(1);
    side_advance(&side, 10100);
    answer_nodes("b.test", "2");
    answer_nodes("a.test", "13");
    side_advance(&side, 10100);
    answer_nodes("b.test", "2");
    cr_expect_str_eq(set(), "5213", "a has it");
    cr_expect_eq(client->servers.list[2]->id, client->recipe->servers[0].id, "dialled as a");
    answer_nodes("a.test", "13");
    side_advance(&side, 10100);
    answer_nodes("a.test", "3");
    side_advance(&side, 10100);
    answer_nodes("a.test", "3");
    cr_expect_str_eq(set(), "523", "nobody has it");
    check_controls(1);
    finish();
}

Test(servers, a_name_leaves_and_its_addresses_stay)
{
    start("remote_addr = b.test:1, a.test:1\nservers = all", ECHO);
    answer_nodes("b.test", "123");
    answer_nodes("a.test", "14");
    struct client_server *shared = client->servers.list[0];
    cr_expect_str_eq(set(), "1234");
    cr_expect_eq(shared->id, client->recipe->servers[0].id);
    reload("remote_addr = a.test:1\nservers = all");
    cr_expect_str_eq(set(), "14");
    cr_expect_eq(client->servers.list[0], shared);
    cr_expect_eq(shared->id, client->recipe->servers[0].id);
    check_controls(1);
    answer_nodes("a.test", "14");
    cr_expect_str_eq(set(), "14");
    finish();
}

/* ---- families ---- */

/* The n-th address of the other family; its last digit is that of the set. */
static struct addr node6(unsigned int number)
{
    struct addr addr = {.v6 = {.sin6_family = AF_INET6}, .len = sizeof(addr.v6)};
    addr.v6.sin6_addr.s6_addr[0] = 0xfd;
    addr.v6.sin6_addr.s6_addr[15] = (uint8_t)number;
    return addr;
}

static void expect_families(size_t v4, size_t v6)
{
    size_t found[2] = {0};
    for (size_t i = 0; i < client->servers.count; i++)
        found[client->servers.list[i]->addr.any.sa_family == AF_INET6]++;
    cr_expect_eq(found[0], v4);
    cr_expect_eq(found[1], v6);
    check_controls(1);
}

Test(servers, one_family_at_a_time)
{
    struct addr v4[] = {node(1), node(2)}, v6[] = {node6(1), node6(2)};
    start("remote_addr = a.test:1\nservers = all\nresolve_interval = 10", ECHO);
    answer_addrs("a.test", v4, 2, 0);
    expect_families(2, 0);
    side_advance(&side, 10100);
    answer_addrs("a.test", v6, 2, 0); /* a part of the answer is missing */
    expect_families(2, 0);
    side_advance(&side, 10100);
    answer_addrs("a.test", v4, 2, 0);
    expect_families(2, 0);
    side_advance(&side, 10100);
    answer_addrs("a.test", v6, 2, 0); /* or it is another server now */
    expect_families(2, 0);
    side_advance(&side, 10100);
    answer_addrs("a.test", v6, 2, 0);
    expect_families(0, 2);
    finish();
}

Test(servers, the_preferred_family_changes)
{
    struct addr v4[] = {node(1), node(2)}, v6[] = {node6(1)};
    start("remote_addr = a.test:1\nservers = all", ECHO);
    answer_addrs("a.test", v4, 2, 0);
    expect_families(2, 0);
    reload("remote_addr = a.test:1\nservers = all\nprefer_ipv6 = true");
    expect_families(2, 0);
    answer_addrs("a.test", v6, 1, 0);
    expect_families(0, 1);
    finish();
}

/* ---- failures ---- */

Test(servers, names_that_fail_do_not_end_what_is_up)
{
    start("remote_addr = a.test:1, b.test:1", ECHO);
    cr_expect_str_eq(set(), "*");
    reload("remote_addr = a.test:1, b.test:1\nservers = all");
    answer_nodes("b.test", "");
    answer_nodes("a.test", "");
    cr_expect_str_eq(set(), "*", "no name has an address");
    check_controls(1);
    side_advance(&side, 1100);
    answer_nodes("a.test", "12");
    cr_expect_str_eq(set(), "12");
    check_controls(1);
    finish();
}

static unsigned int count_lines(FILE *file, const char *what)
{
    char line[1000];
    unsigned int count = 0;
    rewind(file);
    while (fgets(line, sizeof(line), file) != NULL)
        count += strstr(line, what) != NULL;
    return count;
}

Test(servers, an_outage_is_told_once)
{
    start("remote_addr = a.test:1\nservers = all\nresolve_interval = 10", ECHO);
    answer_nodes("a.test", "1");
    log_configure(LOG_WARN, LOG_TEXT);
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    int old = dup(STDERR_FILENO);
    cr_assert_geq(dup2(fileno(file), STDERR_FILENO), 0);
    for (unsigned int outage = 1; outage <= 2; outage++) {
        for (int i = 0; i < 4; i++) {
            side_advance(&side, 10100);
            if (i < 3)
                look_ups--; /* the old addresses, as they were */
            answer_nodes("a.test", "1");
        }
        cr_expect_eq(count_lines(file, "cannot look up a.test"), outage);
        (void)fseek(file, 0, SEEK_END);
    }
    (void)dup2(old, STDERR_FILENO);
    (void)close(old);
    (void)fclose(file);
    finish();
}

Test(servers, there_is_a_bound)
{
    struct addr many[LIMIT_SERVERS + 8];
    for (unsigned int i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = node(i + 1);
    start("remote_addr = a.test:1, b.test:2\nservers = all", ECHO);
    answer_addrs("a.test", many, ARRAY_SIZE(many), 0);
    cr_expect_eq(client->servers.count, LIMIT_SERVERS);
    answer_nodes("b.test", "1");
    cr_expect_eq(client->servers.count, LIMIT_SERVERS);
    check_controls(1);
    finish();
}

Test(servers, a_name_without_an_address_is_asked_for_every_second)
{
    start("remote_addr = a.test:1\nservers = all\nresolve_interval = 60", ECHO);
    for (unsigned int i = 1; i < 5; i++) {
        cr_assert_eq(asked_count, i);
        answer_nodes("a.test", "");
        side_advance(&side, 890);
        cr_expect_eq(asked_count, i, "no busy loop");
        side_advance(&side, 120);
    }
    answer_nodes("a.test", "1");
    side_advance(&side, 50000);
    cr_expect_eq(asked_count, 5);
    finish();
}

Test(servers, logins_are_spread)
{
    start("remote_addr = 127.1.0.1:1, 127.1.0.2:1, 127.1.0.3:1\nservers = all", ECHO WEB);
    check_controls(2);
    unsigned int waiting = 0;
    uint64_t first_ns = UINT64_MAX, last_ns = 0;
    for (unsigned int i = 0; i < 2; i++) {
        list_for_each (at, &service_of(i)->controls) {
            const struct client_control *control =
                container_of(at, struct client_control, service_node);
            if (control->state != CONTROL_WAITING || !control->timer.armed)
                continue; /* its time was 0 */
            waiting++;
            first_ns = MIN(first_ns, control->timer.deadline_ns);
            last_ns = MAX(last_ns, control->timer.deadline_ns);
        }
    }
    cr_expect_geq(waiting, 4);
    cr_expect_leq(last_ns - first_ns, ms_to_ns(LIMIT_LOGIN_SPREAD_MS));
    cr_expect_neq(last_ns, first_ns);
    finish();
}

Test(servers, turns_are_of_each_server)
{
    start("remote_addr = 127.1.0.1:1, 127.1.0.2:1\nservers = all", ECHO);
    struct client_server *list[LIMIT_SERVERS];
    cr_assert_eq(client_servers_list(&client->servers, list), 2);
    atomic_store(&list[0]->logins_in_progress, LIMIT_LOGINS_IN_PROGRESS); /* it is dead */
    for (int i = 0; i < 20; i++)
        side_advance(&side, 50);
    uint64_t failed = side_metric(&side, METRIC_LOGINS_FAILED);
    cr_expect_geq(failed, 1, "the other one is tried");
    list_for_each (at, &service_of(0)->controls) {
        const struct client_control *control =
            container_of(at, struct client_control, service_node);
        if (control->server == list[0])
            cr_expect_eq(control->state, CONTROL_WAITING);
    }
    atomic_store(&list[0]->logins_in_progress, 0);
    client_server_drop(list[0]);
    client_server_drop(list[1]);
    finish();
}

Test(servers, the_interval_has_a_jitter)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t ms = client_servers_interval_ms(30000, i * 2654435761u);
        least = MIN(least, ms);
        most = MAX(most, ms);
    }
    cr_expect_geq(least, 27000);
    cr_expect_leq(least, 27100);
    cr_expect_eq(most, 30000);
    cr_expect_eq(client_servers_interval_ms(1, 12345), 1);
}

Test(servers, the_name_that_worked)
{
    start("remote_addr = 127.1.0.1:1, 127.1.0.2:1", ECHO);
    const struct recipe *recipe = client->recipe;
    struct client_servers *servers = &client->servers;
    uint64_t second = recipe->servers[1].id, for_ns = ms_to_ns(LIMIT_DIAL_WORKED_MS);
    cr_expect_eq(client_servers_preferred(servers, 5), 0);
    client_servers_prefer(servers, recipe, second, 5);
    cr_expect_eq(client_servers_preferred(servers, 6), second);
    client_servers_prefer(servers, recipe, second, 100);
    cr_expect_eq(client_servers_preferred(servers, 5 + for_ns), 0, "not prolonged for ever");
    client_servers_prefer(servers, recipe, second, 5);
    client_servers_prefer(servers, recipe, recipe->servers[0].id, 6);
    cr_expect_eq(client_servers_preferred(servers, 7), 0);
    finish();
}
