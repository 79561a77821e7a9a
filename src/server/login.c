#include "server/login.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "net/recipe.h"
#include "net/stream.h"
#include "proto/server_fsm.h"
#include "server/access.h"
#include "server/control.h"
#include "server/exchange.h"
#include "server/lobby.h"
#include "server/on_login.h"
#include "server/server_worker.h"

struct login {
    struct stream stream;
    struct list node; /* in worker->logins */
    struct server_worker *worker;
    struct gate_ticket ticket;
    struct timer deadline;
    struct server_fsm fsm;
    struct service *service; /* of a control channel, once its Hello has come */
    uint32_t epoch;          /* the service's, when the Hello came */
    /* For a service of the range set; `service` stays NULL until the login has found it. */
    bool is_on_login;
    uint32_t member;      /* of the set with this generation */
    uint64_t generation;  /* the set's, when the Hello came */
    struct list awaiting; /* in worker->awaiting_logins */
    uint64_t conn_id;
    bool close_after_write;
    uint32_t handshake_cost; /* has taken one from the gate's budget; 0: it has not */
    uint8_t in[MESSAGE_HELLO_SIZE];
    struct server_action action;
};

static_assert(sizeof(struct login) <= 1024, "the budget of an unauthenticated connection");

static void login_terminate(struct login *login, enum stream_close how)
{
    loop_timer_stop(login->worker->tunnel->loop, &login->deadline);
    list_remove(&login->awaiting);
    stream_terminate(&login->stream, how);
}

static void login_free(struct login *login)
{
    struct server_worker *worker = login->worker;
    loop_timer_stop(worker->tunnel->loop, &login->deadline);
    gate_leave(&worker->server->gate, &login->ticket);
    server_fsm_finish(&login->fsm);
    keys_wipe(login->in, sizeof(login->in));
    keys_wipe(&login->action, sizeof(login->action));
    list_remove(&login->node);
    list_remove(&login->awaiting);
    service_drop(login->service);
    slab_put(&worker->login_slab, login);
}

static void login_closed(struct stream *stream)
{
    login_free(container_of(stream, struct login, stream));
}

/* NULL: the login is for no service that is known. */
static const char *login_service_name(const struct login *login,
                                      char text[static LIMIT_SERVICE_NAME + 1])
{
    const struct range_set *set = server_ranges(login->worker->server);
    if (login->service != NULL)
        return service_name(login->service);
    if (!login->is_on_login || set->generation != login->generation)
        return NULL;
    range_set_name(set, login->member, text);
    return text;
}

/* Counts a rejected login, and logs it at most once a second, because strangers can cause it. */
static void log_rejected(const struct login *login, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    metrics_add(&login->worker->tunnel->metrics,
                login->service != NULL || login->is_on_login ? METRIC_LOGINS_FAILED
                                                             : METRIC_STRANGERS_REJECTED,
                1);
    if (!log_enabled(LOG_WARN) || !log_allowed(&limit, &suppressed))
        return;
    struct addr peer;
    char text[ADDR_TEXT_SIZE] = "?", name[LIMIT_SERVICE_NAME + 1];
    if (socket_peer(login->stream.fd, &peer) == 0)
        (void)addr_format(&peer, text, sizeof(text));
    const char *service = login_service_name(login, name);
    const char *why = error == ERR_HANDSHAKE ? stream_handshake_why(&login->stream) : NULL;
    log_conn(LOG_WARN, service, login->conn_id,
             "connection from %s rejected: %s%s%s (%u similar lines suppressed)", text,
             error_text(error), why != NULL ? ": " : "", why != NULL ? why : "", suppressed);
}

static void login_deadline_expired(struct timer *timer)
{
    struct login *login = container_of(timer, struct login, deadline);
    metrics_add(&login->worker->tunnel->metrics, METRIC_STRANGERS_TIMED_OUT, 1);
    log_rejected(login, ERR_DEADLINE);
    login_terminate(login, STREAM_ABORT);
}

static void login_read(struct login *login)
{
    stream_read(&login->stream, login->in, server_fsm_wanted(&login->fsm));
}

/* ---- the actions of the state machine ---- */

static void login_act(struct login *login);

static bool login_spoke(struct login *login)
{
    return gate_spoke(&login->worker->server->gate, &login->ticket,
                      loop_now_ns(login->worker->tunnel->loop));
}

static void login_find_service(struct login *login)
{
    if (!login_spoke(login)) {
        login_terminate(login, STREAM_ABORT);
        return;
    }
    uint8_t nonce[KEYS_NONCE_SIZE];
    keys_random(nonce, sizeof(nonce));
    const struct range_set *set = server_ranges(login->worker->server);
    struct service *service = service_index_find(&login->worker->services, login->action.digest);
    if (range_set_find(set, login->action.digest, &login->member)) {
        login->is_on_login = true;
        login->generation = set->generation;
        const char *token = range_set_section(set, login->member, NULL)->token;
        server_fsm_service_found(&login->fsm, token, strlen(token), nonce, &login->action);
    } else if (service != NULL) {
        login->service = service;
        service_use(service);
        /* Read the epoch before the token: if a reload changes the token in between, the epoch is
         * old and session_begin refuses the login. */
        login->epoch = atomic_load(&service->epoch);
        const char *token = service_config(service)->token;
        server_fsm_service_found(&login->fsm, token, strlen(token), nonce, &login->action);
    } else {
        server_fsm_service_unknown(&login->fsm, nonce, &login->action);
    }
    login_act(login);
}

/* The connection has proved to come from a client of ours. */
static void login_is_trusted(struct login *login)
{
    gate_trust(&login->worker->server->gate, &login->ticket.key, login->handshake_cost,
               loop_now_ns(login->worker->tunnel->loop));
    login->handshake_cost = 0; /* it has been given back */
}

static void login_become_control(struct login *login)
{
    struct server_worker *worker = login->worker;
    if (access_denies_now(worker->server, login->stream.fd)) {
        log_rejected(login, ERR_RECONFIGURED);
        login_terminate(login, STREAM_CLEAN);
        return;
    }
    struct service *service = login->service;
    struct server_control_options options = {
        .worker = worker,
        .service = service,
        .fsm = &login->fsm,
        .session_key = login->action.digest,
        .epoch = login->epoch,
        .conn_id = login->conn_id,
        .client = login->ticket.key,
        .transport = stream_release(&login->stream),
    };
    login_is_trusted(login);
    gate_leave(&worker->server->gate, &login->ticket);
    server_control_begin(&options);
    login_free(login);
}

static void login_lost_member(struct login *login)
{
    log_rejected(login, ERR_RECONFIGURED);
    login_terminate(login, STREAM_CLEAN);
}

/* Looks for the service of a login that is authenticated, and has it made if there is none. */
static void login_seek_member(struct login *login)
{
    struct server_worker *worker = login->worker;
    struct server *server = worker->server;
    struct range_set *set = server_ranges(server);
    if (set->generation != login->generation) { /* perhaps with another token */
        login_lost_member(login);
        return;
    }
    struct service *service = service_index_find(&worker->services, set->digests[login->member]);
    if (service == NULL || !session_claim(service)) {
        on_login_ask(server, set, login->member);
        return;
    }
    login->service = service;
    service_use(service);
    /* The epoch first: a reload with another token publishes its set before it begins the epoch.
     * session_begin refuses if the epoch begins later. */
    login->epoch = atomic_load(&service->epoch);
    if (server_ranges(server)->generation == login->generation)
        login_become_control(login);
    else
        login_lost_member(login);
}

static void login_await_member(struct login *login)
{
    list_push_back(&login->worker->awaiting_logins, &login->awaiting);
    login_is_trusted(login);
    login_seek_member(login);
}

void login_review_awaiting(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->awaiting_logins)
        login_seek_member(container_of(node, struct login, awaiting));
}

static void login_become_data_channel(struct login *login)
{
    struct server_worker *worker = login->worker;
    struct session_found found;
    if (!session_table_find(&worker->server->sessions, login->action.digest, &found)) {
        log_rejected(login, ERR_AUTH);
        login_terminate(login, STREAM_CLEAN);
        return;
    }
    login_is_trusted(login);
    struct transport channel = stream_release(&login->stream);
    uint64_t conn_id = login->conn_id;
    login_free(login);
    metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS, 1);
    const struct config_service *config = service_config(found.service);
    log_conn(LOG_DEBUG, config->name, conn_id, "data channel");
    if (config->nodelay != CONFIG_UNSET)
        socket_set_nodelay(channel.fd, config->nodelay == CONFIG_TRUE);
    if (found.expected)
        gate_expect(&worker->server->gate, &found.client, -1);
    exchange_offer(worker, found.service, channel, found.source, true);
    service_drop(found.service);
}

static void login_act(struct login *login)
{
    struct server_action *action = &login->action;
    switch (action->type) {
    case SERVER_ACTION_FIND_SERVICE:
        login_find_service(login);
        break;
    case SERVER_ACTION_SEND:
        login_read(login);
        stream_write(&login->stream, action->bytes, action->len);
        break;
    case SERVER_ACTION_LOGIN:
        if (login->is_on_login)
            login_await_member(login);
        else
            login_become_control(login);
        break;
    case SERVER_ACTION_DATA_CHANNEL:
        login_become_data_channel(login);
        break;
    case SERVER_ACTION_SEND_AND_CLOSE:
        log_rejected(login, action->error);
        login->close_after_write = true;
        stream_write(&login->stream, action->bytes, action->len);
        break;
    case SERVER_ACTION_CLOSE:
        log_rejected(login, action->error);
        login_terminate(login, STREAM_CLEAN);
        break;
    case SERVER_ACTION_COUNT:
        break;
    }
}

static void login_read_done(struct stream *stream, int result)
{
    struct login *login = container_of(stream, struct login, stream);
    if (result < 0) {
        log_rejected(login, result);
        login_terminate(login, STREAM_CLEAN);
        return;
    }
    if (stream_is_writing(stream)) {
        /* An Auth that comes before our Hello has left can't be an answer to it. The check also
         * makes sure that nothing is in flight when the connection is handed on. */
        log_rejected(login, ERR_PROTOCOL);
        login_terminate(login, STREAM_CLEAN);
        return;
    }
    server_fsm_received(&login->fsm, login->in, (size_t)result, &login->action);
    login_act(login);
}

static void login_write_done(struct stream *stream, int result)
{
    struct login *login = container_of(stream, struct login, stream);
    if (result < 0 || login->close_after_write)
        login_terminate(login, STREAM_CLEAN);
}

/* Limits the handshakes that strangers make us compute. docs/decisions.md, "Strangers take Noise
 * handshakes from a budget". */
static bool login_may_handshake(struct stream *stream)
{
    struct login *login = container_of(stream, struct login, stream);
    struct tunnel_worker *tunnel = login->worker->tunnel;
    uint32_t cost = tunnel->recipe->tls != NULL ? LIMIT_HANDSHAKES_TLS : 1;
    if (login->handshake_cost > 0) /* the second client message of an XX handshake */
        return true;
    if (!gate_take_handshake(&login->worker->server->gate, &login->ticket.key, cost,
                             loop_now_ns(tunnel->loop))) {
        metrics_add(&tunnel->metrics, METRIC_HANDSHAKES_LIMITED, 1);
        return false;
    }
    login->handshake_cost = cost;
    gate_begin_handshake(&login->worker->server->gate, &login->ticket, loop_now_ns(tunnel->loop));
    return true;
}

/* The first handshake message counts as spoken: its tag can only be made with the server's public
 * key. With XX the message has no tag and proves no more than a Hello does. */
static void login_handshake_begun(struct stream *stream)
{
    /* If the gate has evicted it, login_close_evicted closes it. */
    (void)login_spoke(container_of(stream, struct login, stream));
}

static const struct stream_ops login_stream_ops = {
    .may_handshake = login_may_handshake,
    .handshake_begun = login_handshake_begun,
    .read_done = login_read_done,
    .write_done = login_write_done,
    .closed = login_closed,
};

/* A connection that gets no place in the gate: counted and logged. The caller resets it. */
static void note_stranger_refused(struct server_worker *worker, const struct addr *peer,
                                  enum metric metric, struct log_limit *limit, const char *why)
{
    uint32_t suppressed;
    char text[ADDR_TEXT_SIZE];
    metrics_add(&worker->tunnel->metrics, metric, 1);
    if (log_allowed(limit, &suppressed))
        log_write(LOG_WARN, NULL, 0,
                  "connection from %s rejected: %s (%u similar lines suppressed)",
                  addr_format(peer, text, sizeof(text)), why, suppressed);
}

/* Whether a connection from this address can have what it will ask for at once: a handshake. While
 * a flood has used up the budget, the rest of it costs no more than its accept and its close. */
static bool stranger_has_handshake(struct server_worker *worker, const struct addr_key *key)
{
    const struct recipe *recipe = worker->tunnel->recipe;
    return (!recipe->has_noise && recipe->tls == NULL) ||
           gate_take_handshake(&worker->server->gate, key, 0, loop_now_ns(worker->tunnel->loop));
}

/* Whether a stranger may enter the gate. */
static bool stranger_is_let_in(struct server_worker *worker, const struct addr *peer,
                               const struct addr_key *key)
{
    static struct log_limit denied, limited;
    if (!access_allows_stranger(worker->server, peer)) {
        note_stranger_refused(worker, peer, METRIC_STRANGERS_DENIED, &denied,
                              "its address is not allowed (server.allow, deny)");
        return false;
    }
    if (!stranger_has_handshake(worker, key)) {
        note_stranger_refused(worker, peer, METRIC_HANDSHAKES_LIMITED, &limited,
                              "too many handshakes from its address, or in all");
        return false;
    }
    return true;
}

/* Begins the login of a connection that has a place at the gate. */
static void login_start(struct login *login, struct server_worker *worker, int fd)
{
    struct tunnel_worker *tunnel = worker->tunnel;
    login->worker = worker;
    login->service = NULL;
    login->is_on_login = false;
    list_init(&login->awaiting);
    login->close_after_write = false;
    login->handshake_cost = 0;
    login->conn_id = tunnel_next_conn_id(tunnel);
    list_push_back(&worker->logins, &login->node);
    server_fsm_init(&login->fsm);
    stream_init(&login->stream, tunnel->loop, fd, &login_stream_ops);
    timer_init(&login->deadline, login_deadline_expired);
    loop_deadline_start(tunnel->loop, &login->deadline,
                        server_config(worker->server)->handshake_timeout_ms);
    if (tunnel_prepare(tunnel, NULL, NULL, &login->stream) < 0) {
        metrics_add(&tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        login_terminate(login, STREAM_ABORT);
        return;
    }
    stream_distrust(&login->stream);
    /* The client speaks first, and its message is mostly here before the connection is accepted. */
    stream_read_now(&login->stream, login->in, server_fsm_wanted(&login->fsm));
}

/* Who waits holds a descriptor of the visitors' part, and leaves them half of it. Descriptors are
 * numbered lowest first. */
static bool fd_may_wait(const struct server_worker *worker, int fd)
{
    return fd < atomic_load(&worker->server->fd_visitors_max) / 2;
}

int login_enter(struct tunnel_worker *tunnel, int fd, const struct addr_key *key,
                enum login_entry how, enum gate_answer kind)
{
    struct server_worker *worker = tunnel->role;
    struct gate *gate = &worker->server->gate;
    if (how != LOGIN_IS_NEW && access_denies_now(worker->server, fd)) {
        metrics_add(&tunnel->metrics, METRIC_STRANGERS_DENIED, 1);
        gate_stop_waiting(gate, key, kind);
        return -EACCES;
    }
    uint64_t now_ns = loop_now_ns(worker->tunnel->loop);
    struct login *login = slab_get(&worker->login_slab);
    int result = -ENOMEM;
    if (how == LOGIN_HAS_TO_ENTER || (login == NULL && how == LOGIN_HAS_WAITED))
        gate_stop_waiting(gate, key, kind);
    bool may_wait = how == LOGIN_HAS_WAITED || (how == LOGIN_IS_NEW && fd_may_wait(worker, fd));
    if (login != NULL && !may_wait)
        result = gate_enter(gate, &login->ticket, key, &worker->gate_desk, now_ns);
    else if (login != NULL)
        result = gate_try(gate, &login->ticket, key, &worker->gate_desk, now_ns,
                          how == LOGIN_IS_NEW, kind);
    if (result == GATE_ENTERED)
        login_start(login, worker, fd);
    else if (login != NULL)
        slab_put(&worker->login_slab, login);
    if (result < 0)
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
    return result;
}

void login_begin(struct server_worker *worker, struct service *service, int fd, bool has_left)
{
    struct tunnel_worker *tunnel = worker->tunnel;
    metrics_add(&tunnel->metrics, METRIC_STRANGERS_ACCEPTED, 1);
    struct addr peer;
    if (socket_peer(fd, &peer) < 0) {
        transport_close_fd(fd, tunnel->loop); /* the peer has reset the connection already */
        return;
    }
    struct addr_key key = addr_key(&peer, config_prefixes(server_config(worker->server)));
    if (!stranger_is_let_in(worker, &peer, &key)) {
        loop_close_fd(tunnel->loop, fd); /* a reset: no TIME_WAIT for each of a flood */
        return;
    }
    int result = login_enter(tunnel, fd, &key, LOGIN_IS_NEW, GATE_WAITS);
    if (result == GATE_WAITS || result == GATE_WAITS_KNOWN)
        lobby_keep(&worker->lobby, fd, &key, (enum gate_answer)result);
    else if (result < 0)
        transport_close_fd(fd, tunnel->loop);
}

void login_close_evicted(struct server_worker *worker)
{
    struct gate_ticket *ticket;
    while ((ticket = gate_next_evicted(&worker->server->gate, &worker->gate_desk)) != NULL)
        login_terminate(container_of(ticket, struct login, ticket), STREAM_ABORT);
}

void login_close_all(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->logins) {
        login_terminate(container_of(node, struct login, node), STREAM_ABORT);
    }
}

void login_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct login));
}
