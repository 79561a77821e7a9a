/* The beginning of an attempt of a client's control channel: its turn, then the server's name and
 * addresses, up to a connection.
 *
 * With servers = first and several names, one attempt goes through all of them in rounds: in each,
 * every address of every name gets its part of the time (dial.h). So a dead server costs a quarter
 * of a second for each of its addresses. A name is looked up in each round. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "control_priv.h"

enum {
    LOGIN_TURN_MS = 2,  /* between two looks for a free turn to log in */
    LOGIN_GONE_MS = 50, /* until the end of a control channel whose server was removed */
};

static struct loop *dial_loop(const struct client_control *control)
{
    return control->worker->tunnel->loop;
}

bool client_control_may_begin(const struct client_control *control)
{
    return handover_phase(&control->worker->client->handover) == HANDOVER_SERVING;
}

/* ---- the names ---- */

static bool has_several_names(const struct client_control *control)
{
    return control->server->id == 0 && control_recipe(control)->server_count > 1;
}

/* The next server of this round: the one that worked last, then the others in order. NULL: there is
 * none. */
static const struct recipe_server *next_target(struct client_control *control)
{
    const struct recipe *recipe = control_recipe(control);
    uint64_t preferred_id = control->server->id;
    bool has_choice = preferred_id == 0;
    if (has_choice)
        preferred_id = client_servers_preferred(&control->worker->client->servers,
                                                loop_now_ns(dial_loop(control)));
    size_t found = recipe->server_count;
    for (size_t i = recipe->server_count; i-- > 0;) {
        bool is_preferred = recipe->servers[i].id == preferred_id;
        if ((control->tried & (1u << i)) != 0 || (!has_choice && !is_preferred))
            continue;
        found = i;
        if (is_preferred)
            break;
    }
    if (found == recipe->server_count)
        return NULL;
    control->tried |= (uint16_t)(1u << found);
    return &recipe->servers[found];
}

static void control_look_up(struct client_control *control, const struct recipe_server *target);

/* False: all names had their part, and the time or all addresses are used up. */
static bool try_next_name(struct client_control *control)
{
    const struct recipe_server *target = next_target(control);
    if (target == NULL && control->has_timed_out && has_several_names(control) &&
        control->dial.left_ms > 0) {
        control->round++;
        control->tried = 0;
        control->has_timed_out = false;
        target = next_target(control);
    }
    if (target == NULL)
        return false;
    control->target_id = target->id;
    control_look_up(control, target);
    return true;
}

void client_control_name_failed(struct client_control *control, int error)
{
    const struct recipe_server *target = control_target(control);
    if (control->state == CONTROL_RESOLVING && control->round == 0 && has_several_names(control) &&
        target != NULL)
        log_service(LOG_INFO, control_name(control), "cannot look up %s: %s", target->addr.host,
                    error_text(error));
    if (!try_next_name(control))
        client_control_fail(control, error);
}

bool client_control_goes_on(struct client_control *control, int error)
{
    /* These are not of one server, or a decision of ours. */
    static const int finals[] = {ERR_AUTH, ERR_NO_SERVICE, ERR_RECONFIGURED, -ECANCELED};
    bool goes_on = control->state == CONTROL_LOGIN && has_several_names(control) &&
                   control->tried != (1u << control_recipe(control)->server_count) - 1;
    for (size_t i = 0; i < ARRAY_SIZE(finals); i++)
        goes_on &= error != finals[i];
    if (goes_on)
        control->dial.count = control->dial.failed = 0; /* no other address of this name */
    return goes_on;
}

/* ---- the addresses of a name ---- */

static void log_address_failed(const struct client_control *control, int error)
{
    char text[ADDR_TEXT_SIZE];
    bool has_others = control->addrs.count > 1 || has_several_names(control);
    if (has_others && control->dial.round == 0)
        log_service(LOG_INFO, control_name(control), "cannot connect to %s: %s",
                    addr_format(&control->addrs.addrs[control->dial.index], text, sizeof(text)),
                    error_text(error));
}

void client_control_connect_failed(struct client_control *control, int error)
{
    log_address_failed(control, error);
    client_control_set_state(control, CONTROL_CLOSING);
    control->tries_next = true;
    loop_timer_stop(dial_loop(control), &control->timer);
    stream_terminate(&control->stream, STREAM_ABORT);
}

static void control_connect(struct client_control *control, const struct addr *addr, int fd)
{
    socket_set_nodelay(fd, true);
    client_control_deadline(control, control->dial.step_ms);
    stream_init(&control->stream, dial_loop(control), fd, &client_control_stream_ops);
    control->has_stream = true;
    stream_connect(&control->stream, addr);
}

void client_control_try_address(struct client_control *control)
{
    struct socket_options options = control->worker->channel_options;
    options.user_timeout_ms = LIMIT_USER_TIMEOUT_MS;
    options.speaks_first = true;
    client_control_set_state(control, CONTROL_CONNECTING);
    while (dial_next(&control->dial, loop_now_ns(dial_loop(control)))) {
        const struct addr *addr = &control->addrs.addrs[control->dial.index];
        int fd = client_fds_dial(control->worker, addr, &options, INT32_MAX);
        if (fd >= 0) {
            control_connect(control, addr, fd);
            return;
        }
        dial_failed(&control->dial, fd);
        log_address_failed(control, fd);
        if (!socket_error_is_of_address(fd)) {
            client_control_fail(control, fd);
            return;
        }
    }
    client_control_name_failed(control, control->dial.error);
}

static void control_resolved(void *asker, const struct resolver_answer *answer)
{
    struct client_control *control = asker;
    control->query = NULL;
    if (answer->error < 0) {
        client_control_name_failed(control, answer->error);
        return;
    }
    uint64_t now_ns = loop_now_ns(dial_loop(control));
    bool has_others = has_several_names(control);
    control->addrs = *answer;
    (void)dial_put_first(&control->worker->client->memory, &control->addrs, now_ns);
    if (!has_others || control->dial.since_ns == 0) /* else in the time that is left */
        dial_begin(&control->dial, control_config(control)->connect_timeout_ms, now_ns);
    dial_addresses(&control->dial, control->addrs.count, now_ns);
    if (has_others)
        dial_one_round(&control->dial, control->round);
    client_control_try_address(control);
}

static void control_look_up(struct client_control *control, const struct recipe_server *target)
{
    struct client_worker *worker = control->worker;
    client_control_set_state(control, CONTROL_RESOLVING);
    /* Not from the configuration, which may already be that of a reload: a password for one proxy
     * must not reach another. */
    const struct host_port *dialled = recipe_dialled(control_recipe(control), target);
    struct resolver_answer answer;
    memset(&answer, 0, sizeof(answer));
    answer.addrs[0] = control->server->addr;
    if (control->server->addr.len != 0 || addr_from_numeric(dialled, &answer.addrs[0])) {
        answer.count = 1;
        control_resolved(control, &answer);
        return;
    }
    bool has_others = has_several_names(control);
    client_control_deadline(control, has_others ? LIMIT_SERVER_NAME_MS : LIMIT_LOGIN_MS);
    bool prefer_ipv6 = control_config(control)->prefer_ipv6 ||
                       client_service_config(control->service)->prefer_ipv6;
    control->query = resolver_ask(worker->tunnel->all->resolver, dialled, prefer_ipv6,
                                  worker->tunnel->mailbox, control_resolved, control);
    if (control->query == NULL)
        client_control_fail(control, -ENOMEM);
}

/* ---- the turn ---- */

/* Limits the logins in progress at a server, so that a client with hundreds of services stays below
 * its limit for one address (server/gate.h). */
static bool has_free_turn(const struct client_control *control)
{
    return atomic_load(&control->server->logins_in_progress) < LIMIT_LOGINS_IN_PROGRESS;
}

static bool take_turn(struct client_control *control)
{
    _Atomic unsigned int *in_progress = &control->server->logins_in_progress;
    if (atomic_fetch_add(in_progress, 1) < LIMIT_LOGINS_IN_PROGRESS) {
        control->has_turn = true;
        return true;
    }
    (void)atomic_fetch_sub(in_progress, 1);
    return false;
}

static void wait_for_turn(struct client_control *control)
{
    struct client_worker *worker = control->worker;
    list_push_back(&worker->login_waiters, &control->turn_node);
    if (!worker->turn_timer.armed)
        loop_timer_start(dial_loop(control), &worker->turn_timer, LOGIN_TURN_MS);
}

/* All workers look equally often, so none keeps the turns to itself. */
static void look_for_turns(struct timer *timer)
{
    struct client_worker *worker = container_of(timer, struct client_worker, turn_timer);
    struct list waiters, *node;
    list_init(&waiters);
    list_move_all(&waiters, &worker->login_waiters);
    while ((node = list_pop_front(&waiters)) != NULL) {
        struct client_control *control = container_of(node, struct client_control, turn_node);
        if (has_free_turn(control))
            client_control_begin(control);
        else
            wait_for_turn(control);
    }
}

void client_control_init_turns(struct client_worker *worker)
{
    list_init(&worker->login_waiters);
    timer_init(&worker->turn_timer, look_for_turns);
}

void client_control_begin(struct client_control *control)
{
    control->begins_anew = control->tries_next = false;
    list_remove(&control->turn_node);
    client_control_set_state(control, CONTROL_WAITING);
    if (!client_control_may_begin(control))
        return; /* client_control_release_all calls again */
    if (take_turn(control)) {
        control->attempt_at_ns = loop_now_ns(dial_loop(control));
        control->tried = control->round = 0;
        control->has_timed_out = false;
        control->dial.since_ns = 0;
        if (try_next_name(control))
            return;
        client_control_give_up_turn(control); /* a reload has just removed the server */
        loop_timer_start(dial_loop(control), &control->timer, LOGIN_GONE_MS);
        return;
    }
    wait_for_turn(control);
}
