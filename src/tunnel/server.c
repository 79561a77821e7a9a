#include "tunnel/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "io/resolver.h"
#include "io/udp_socket.h"
#include "tunnel/server_control.h"
#include "tunnel/server_login.h"
#include "tunnel/udp_lane.h"
#include "tunnel/visitor.h"

enum { TEND_MS = 1000, CAUTIOUS_MS = 2000 };

/* ---- the shared part: addresses, listeners ---- */

static struct socket_options listener_options(const struct config_peer *config)
{
    /* Accepted sockets inherit these. */
    return (struct socket_options){
        .nodelay = config->transport.tcp_nodelay,
        .keepalive_secs = config->transport.tcp_keepalive_secs,
        .keepalive_interval = config->transport.tcp_keepalive_interval,
    };
}

static int resolve_bind_addr(const struct host_port *name, struct addr *ret)
{
    struct resolver_answer answer;
    resolver_look_up(name, false, &answer);
    if (answer.error < 0)
        return answer.error;
    *ret = answer.addrs[0];
    return 0;
}

static int log_bind_failed(const char *service, const struct host_port *name, int error)
{
    char text[ADDR_HOST_SIZE + 8];
    (void)host_port_format(name, text, sizeof(text));
    const char *remedy = error == -EADDRINUSE
                             ? " (another process has it; is a server running already?)"
                         : error == -EACCES ? " (ports below 1024 need CAP_NET_BIND_SERVICE)"
                                            : "";
    log_service(LOG_ERROR, service, "bind_addr %s: %s%s", text, error_text(error), remedy);
    return error;
}

static void hint_receive_room(const struct service *service)
{
    size_t room = udp_socket_receive_room(service->fds[0]);
    if (room < LIMIT_UDP_SOCKET_BUFFER)
        log_service(LOG_INFO, service->config->name,
                    "the system allows %zu KiB of receive buffer: bursts beyond that are lost; "
                    "sysctl net.core.rmem_max=%d would allow what is asked for",
                    room >> 10, LIMIT_UDP_SOCKET_BUFFER);
}

static int bind_services(struct server *server)
{
    const struct config_peer *config = server->config;
    struct socket_options options = listener_options(config);
    for (unsigned int i = 0; i < server->service_count; i++) {
        struct service *service = &server->services[i];
        int result = service_init(service, &config->services[i], i);
        if (result < 0)
            return result;
        struct socket_options own = options;
        if (service->config->nodelay != CONFIG_UNSET)
            own.nodelay = service->config->nodelay == CONFIG_TRUE;
        struct addr addr;
        result = resolve_bind_addr(&service->config->addr, &addr);
        if (result == 0 && service_is_udp(service))
            result = service_bind_udp(service, &addr, server->worker_count);
        else if (result == 0)
            result = service_bind(service, &addr, &own, server->worker_count);
        if (result < 0)
            return log_bind_failed(service->config->name, &service->config->addr, result);
        if (service_is_udp(service))
            hint_receive_room(service);
    }
    return 0;
}

static int bind_control_port(struct server *server)
{
    struct socket_options options = listener_options(server->config);
    options.user_timeout_ms = LIMIT_USER_TIMEOUT_MS; /* until a data channel gets its visitor */
    struct addr addr;
    int result = resolve_bind_addr(&server->config->addr, &addr);
    if (result == 0)
        result = socket_bind_group(&addr, &options, server->control_fds, server->worker_count);
    if (result < 0)
        return log_bind_failed(NULL, &server->config->addr, result);
    for (unsigned int i = 0; i < server->worker_count && result == 0; i++)
        result = socket_listen(server->control_fds[i]);
    return result < 0 ? log_bind_failed(NULL, &server->config->addr, result) : 0;
}

int server_create(const struct config_peer *config, unsigned int workers, struct server **ret)
{
    struct server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    server->config = config;
    server->worker_count = workers;
    server->fd_visitors_max = tunnel_fds_for_visitors();
    if (config->transport.type == CONFIG_TRANSPORT_NOISE)
        tunnel_noise_keys(&server->noise_keys, &config->transport.noise);
    gate_init(&server->gate, config->max_pending_handshakes, config->max_pending_handshakes_per_ip);
    session_table_init(&server->sessions);
    server->services = calloc(config->service_count + 1, sizeof(*server->services));
    server->control_fds = calloc(workers, sizeof(*server->control_fds));
    for (unsigned int i = 0; server->control_fds != NULL && i < workers; i++)
        server->control_fds[i] = -1;
    int result = -ENOMEM;
    if (server->services == NULL || server->control_fds == NULL)
        goto err;
    server->service_count = (unsigned int)config->service_count;
    /* The control port first: a second server with the same file is refused there, at once. */
    result = bind_control_port(server);
    if (result == 0)
        result = bind_services(server);
    if (result < 0)
        goto err;
    *ret = server;
    return 0;

err:
    server_destroy(server);
    return result;
}

void server_destroy(struct server *server)
{
    if (server == NULL)
        return;
    for (unsigned int i = 0; server->control_fds != NULL && i < server->worker_count; i++) {
        if (server->control_fds[i] >= 0)
            (void)close(server->control_fds[i]);
    }
    free(server->control_fds);
    for (unsigned int i = 0; i < server->service_count; i++)
        service_finish(&server->services[i]);
    free(server->services);
    session_table_finish(&server->sessions);
    gate_finish(&server->gate);
    noise_keys_wipe(&server->noise_keys);
    free(server);
}

/* ---- accepting ---- */

static void port_arm(struct server_port *port)
{
    struct loop *loop = port->worker->tunnel->loop;
    if (!loop_op_is_idle(&port->accept_op))
        return;
    if (loop_now_ns(loop) < port->cautious_until_ns)
        loop_accept(loop, &port->accept_op, port->fd);
    else
        loop_accept_multishot(loop, &port->accept_op, port->fd);
}

/* Without descriptors: what arrives waits in the backlog, and we look again in a while. */
static void port_pause(struct server_port *port)
{
    static struct log_limit limit;
    uint32_t suppressed;
    struct server_worker *worker = port->worker;
    struct loop *loop = worker->tunnel->loop;
    port->paused = true;
    loop_cancel(loop, &port->accept_op);
    metrics_add(&worker->tunnel->metrics, METRIC_ACCEPT_PAUSED, 1);
    loop_timer_start(loop, &worker->resume_timer, LIMIT_ACCEPT_PAUSE_MS);
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_WARN, port->service != NULL ? port->service->config->name : NULL,
                    "out of file descriptors, accepting pauses; raise the limit (ulimit -n) "
                    "(%u similar lines suppressed)",
                    suppressed);
}

/* Descriptors are handed out lowest first, so a high number says that nearly all are in use. Each
 * visitor that waits will need one more, for its channel. */
static bool leaves_enough_fds(const struct server *server, int fd)
{
    unsigned int waiting = atomic_load_explicit(&server->waiting_visitors, memory_order_relaxed);
    return fd + (int)waiting < server->fd_visitors_max;
}

/* What a burst has parked must not keep the next visitors out. */
static void shed_parked(struct server_worker *worker)
{
    struct transport shed[LIMIT_POOL_PARKED];
    for (unsigned int i = 0; i < worker->server->service_count; i++) {
        size_t count = channel_pool_shed(&worker->server->services[i].pool, shed, ARRAY_SIZE(shed));
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, count);
        for (size_t k = 0; k < count; k++)
            transport_close(&shed[k], worker->tunnel->loop);
    }
}

static void resume_accepting(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, resume_timer);
    struct server *server = worker->server;
    if (worker->draining)
        return;
    if (worker->control_port.paused) {
        worker->control_port.paused = false;
        port_arm(&worker->control_port);
    }
    int probe = fcntl(worker->control_port.fd, F_DUPFD_CLOEXEC, 0);
    bool enough = probe >= 0 && leaves_enough_fds(server, probe);
    if (probe >= 0)
        (void)close(probe);
    if (!enough)
        shed_parked(worker);
    bool again = false;
    for (unsigned int i = 0; i < server->service_count; i++) {
        struct server_port *port = &worker->ports[i];
        if (!port->paused)
            continue;
        if (!enough || !loop_op_is_idle(&port->accept_op)) {
            again = true;
            continue;
        }
        port->paused = false;
        port->cautious_until_ns = loop_now_ns(worker->tunnel->loop) + CAUTIOUS_MS * 1000000ull;
        if (port->listening)
            port_arm(port);
    }
    if (again)
        loop_timer_start(worker->tunnel->loop, timer, LIMIT_ACCEPT_PAUSE_MS);
}

static bool out_of_fds(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

static void port_accepted(struct loop_op *op, int res, uint32_t flags)
{
    struct server_port *port = container_of(op, struct server_port, accept_op);
    struct server_worker *worker = port->worker;
    struct loop *loop = worker->tunnel->loop;
    bool wanted = port->service == NULL ? !worker->draining : port->listening;
    if (res < 0) {
        if (wanted && out_of_fds(res))
            port_pause(port);
        else if (wanted && !port->paused && loop_op_is_idle(op))
            port_arm(port); /* an aborted connection, or the end of one shot */
        return;
    }
    if (!wanted) {
        loop_close_fd(loop, res);
    } else if (port->service == NULL) {
        server_login_begin(worker, res);
    } else if (!leaves_enough_fds(worker->server, res)) {
        loop_close_fd(loop, res);
        if (!port->paused)
            port_pause(port);
    } else {
        visitor_begin(worker, port->service, res);
    }
    if (!wanted || port->paused || !loop_op_is_idle(op))
        return;
    /* The next one would get the next number, or a lower one. */
    if (port->service != NULL && !leaves_enough_fds(worker->server, res + 1))
        port_pause(port);
    else
        port_arm(port);
}

/* ---- listening: a service's port refuses while no client serves it ---- */

static void port_sync(struct server_port *port)
{
    bool up = atomic_load(&port->service->up) && !port->worker->draining;
    if (up == port->listening || service_is_udp(port->service))
        return; /* a lane's socket is always open */
    if (!up) {
        port->listening = false;
        socket_unlisten(port->fd); /* which also ends the accept */
        return;
    }
    int result = socket_listen(port->fd);
    if (result < 0) {
        log_service(LOG_ERROR, port->service->config->name, "listen: %s", error_text(result));
        return;
    }
    port->listening = true;
    if (!port->paused)
        port_arm(port);
}

static void review_waiting(struct server_worker *worker)
{
    visitor_review_waiting(worker);
    udp_lane_review_waiting(worker);
}

static void worker_sync_services(struct server_worker *worker)
{
    for (unsigned int i = 0; i < worker->server->service_count; i++)
        port_sync(&worker->ports[i]);
    server_control_close_replaced(worker);
    review_waiting(worker);
}

void server_signal_services(struct server_worker *worker)
{
    struct tunnel_worker *own = worker->tunnel;
    for (unsigned int i = 0; i < own->all->count; i++) {
        if (i != own->index)
            mailbox_signal(own->all->items[i].mailbox, own->mailbox, TUNNEL_SIGNAL_SERVICES);
    }
    /* Here at once: the service listens before its client reads the Ack. */
    for (unsigned int i = 0; i < worker->server->service_count; i++)
        port_sync(&worker->ports[i]);
    mailbox_signal(own->mailbox, own->mailbox, TUNNEL_SIGNAL_SERVICES);
}

/* ---- channels ---- */

static void send_requests(struct server_worker *worker, unsigned int service_index)
{
    struct server_control *control = worker->controls[service_index];
    if (control != NULL) /* else it has moved or ended, and the next one asks for itself */
        server_control_send_requests(control);
}

static void deliver_requests(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    unsigned int service_index;
    memcpy(&service_index, payload, sizeof(service_index));
    send_requests(tunnel->role, service_index);
}

void server_notify_owner(struct server_worker *worker, struct service *service)
{
    struct tunnel_worker *own = worker->tunnel;
    unsigned int owner = atomic_load(&service->owner);
    if (owner == own->index) {
        send_requests(worker, service->index);
        return;
    }
    struct mailbox *to = own->all->items[owner].mailbox;
    if (mailbox_post(to, own->mailbox, deliver_requests, &service->index, sizeof(service->index)) <
        0)
        mailbox_signal(to, own->mailbox, TUNNEL_SIGNAL_REQUESTS);
}

void server_offer_channel(struct server_worker *worker, struct service *service,
                          struct transport channel, bool requested, const struct addr_key *client)
{
    struct loop *loop = worker->tunnel->loop;
    if (requested)
        gate_expect(&worker->server->gate, client, -(int)service_answered(service, 1));
    struct pool_offer offer = {
        .transport = channel,
        .requested = requested,
        .may_park = channel.fd < worker->server->fd_visitors_max,
        .now_ns = loop_now_ns(loop),
    };
    struct pool_match match;
    switch (channel_pool_offer(&service->pool, &offer, &match)) {
    case POOL_MATCHED:
        if (service_is_udp(service))
            udp_lane_deliver(worker, service, &match, channel);
        else
            visitor_deliver(worker, service, &match, channel);
        break;
    case POOL_SURPLUS:
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, 1);
        transport_close(&channel, loop);
        break;
    case POOL_PARKED:
        break;
    }
}

/* ---- the worker's part ---- */

static void tend_due(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, tend_timer);
    server_control_tend_pools(worker);
    loop_timer_start(worker->tunnel->loop, timer, TEND_MS);
}

static void port_init(struct server_port *port, struct server_worker *worker,
                      struct service *service, int fd)
{
    *port = (struct server_port){.worker = worker, .service = service, .fd = fd};
    loop_op_init(&port->accept_op, port_accepted);
}

static int server_start(void *shared, struct tunnel_worker *tunnel)
{
    struct server *server = shared;
    struct server_worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return -ENOMEM;
    worker->ports = calloc(server->service_count + 1, sizeof(*worker->ports));
    worker->controls = calloc(server->service_count + 1, sizeof(struct server_control *));
    if (worker->ports == NULL || worker->controls == NULL) {
        free(worker->ports);
        free(worker->controls);
        free(worker);
        return -ENOMEM;
    }
    worker->server = server;
    worker->tunnel = tunnel;
    tunnel->role = worker;
    list_init(&worker->logins);
    list_init(&worker->control_list);
    list_init(&worker->waiting_visitors);
    list_init(&worker->relaying_visitors);
    list_init(&worker->lanes);
    udp_lane_init_slab(&worker->udp_visitor_slab);
    server_login_init_slab(&worker->login_slab);
    visitor_init_slab(&worker->visitor_slab);
    timer_init(&worker->resume_timer, resume_accepting);
    timer_init(&worker->tend_timer, tend_due);
    loop_timer_start(tunnel->loop, &worker->tend_timer, TEND_MS);
    int result = 0;
    for (unsigned int i = 0; i < server->service_count && result == 0; i++) {
        struct service *service = &server->services[i];
        bool is_udp = service_is_udp(service);
        port_init(&worker->ports[i], worker, service, is_udp ? -1 : service->fds[tunnel->index]);
        if (is_udp)
            result = udp_lane_start_all(worker, service);
    }
    port_init(&worker->control_port, worker, NULL, server->control_fds[tunnel->index]);
    if (result == 0 && server->config->transport.type == CONFIG_TRANSPORT_NOISE)
        result = tunnel_use_noise(tunnel, &server->noise_keys,
                                  server->config->transport.noise.zerocopy_send);
    if (result == 0)
        port_arm(&worker->control_port);
    return result;
}

static void worker_drain(struct server_worker *worker)
{
    worker->draining = true;
    socket_unlisten(worker->control_port.fd);
    for (unsigned int i = 0; i < worker->server->service_count; i++)
        port_sync(&worker->ports[i]);
    server_login_close_all(worker);
    server_control_close_all(worker);
    visitor_close_waiting(worker);
    udp_lane_close_all(worker); /* datagrams have no end that could be waited for */
}

static void server_signalled(struct tunnel_worker *tunnel, uint32_t bits)
{
    struct server_worker *worker = tunnel->role;
    if ((bits & (TUNNEL_SIGNAL_DRAIN | TUNNEL_SIGNAL_STOP)) != 0 && !worker->draining)
        worker_drain(worker);
    if ((bits & TUNNEL_SIGNAL_STOP) != 0) {
        worker->stopping = true;
        visitor_close_all(worker);
    }
    if ((bits & TUNNEL_SIGNAL_EVICTED) != 0)
        server_login_close_evicted(worker);
    if ((bits & TUNNEL_SIGNAL_SERVICES) != 0)
        worker_sync_services(worker);
    else if ((bits & TUNNEL_SIGNAL_VISITORS) != 0)
        review_waiting(worker);
    if ((bits & TUNNEL_SIGNAL_REQUESTS) != 0) {
        for (unsigned int i = 0; i < worker->server->service_count; i++)
            send_requests(worker, i);
    }
}

static bool server_is_done(const struct tunnel_worker *tunnel)
{
    const struct server_worker *worker = tunnel->role;
    return worker->draining && list_is_empty(&worker->relaying_visitors) &&
           list_is_empty(&worker->control_list) && list_is_empty(&worker->logins) &&
           list_is_empty(&worker->lanes);
}

static void server_finish(struct tunnel_worker *tunnel)
{
    struct server_worker *worker = tunnel->role;
    if (worker == NULL)
        return;
    slab_finish(&worker->login_slab);
    slab_finish(&worker->visitor_slab);
    slab_finish(&worker->udp_visitor_slab);
    free(worker->ports);
    free(worker->controls);
    free(worker);
    tunnel->role = NULL;
}

const struct tunnel_role server_role = {
    .start = server_start,
    .signalled = server_signalled,
    .is_done = server_is_done,
    .finish = server_finish,
};
