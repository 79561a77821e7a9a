/* The local service of a data channel: looks up its name, whose answer is used for a while, tries
 * its addresses in order, and starts the relay with the first that answers. */
#include <errno.h>

#include "base/error.h"
#include "data_channel_priv.h"
#include "io/unix_socket.h"

static void local_try_address(struct data_channel *channel);

/* The visitor is reset. With rathole's client it gets an end of stream if it has sent nothing yet,
 * which looks like an empty answer of the service. */
void local_service_unavailable(struct data_channel *channel, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    channel_local(channel)->valid_until_ns = 0;
    counter_add(&channel_stats(channel)->reasons[CLIENT_REFUSED_UNREACHABLE], 1);
    if (log_allowed(&limit, &suppressed)) {
        char text[ADDR_HOST_SIZE + 8];
        log_conn(LOG_WARN, channel_service(channel), channel->id,
                 "cannot connect to the local service %s: %s (%u similar lines suppressed)",
                 host_port_format(&client_service_config(channel->service)->addr, text,
                                  sizeof(text)),
                 error_text(error), suppressed);
    }
    data_channel_close(channel);
}

static void local_connected(struct stream *stream, int result)
{
    struct data_channel *channel = container_of(stream, struct data_channel, local);
    struct client_local *local = channel_local(channel);
    loop_timer_stop(channel_loop(channel), &channel->timer);
    if (result < 0) {
        dial_failed(&channel->dial, result);
        stream_terminate(&channel->local, STREAM_ABORT); /* local_closed tries the next */
        return;
    }
    if (channel->local_version == local->version)
        client_local_worked(local, channel->dial.index, loop_now_ns(channel_loop(channel)));
    data_channel_drop_session(channel);
    struct transport server = stream_release(&channel->stream);
    data_channel_relay_start(channel, server, stream_release(&channel->local).fd);
}

static void local_closed(struct stream *stream)
{
    struct data_channel *channel = container_of(stream, struct data_channel, local);
    channel->has_local = false;
    if (channel->state != CHANNEL_CLOSING)
        local_try_address(channel);
    else
        data_channel_stream_gone(channel);
}

static void local_unexpected(struct stream *stream, int result)
{
    /* Nothing is read or written before the relay starts. */
}

static const struct stream_ops local_stream_ops = {
    .read_done = local_unexpected,
    .write_done = local_unexpected,
    .connected = local_connected,
    .closed = local_closed,
};

/* A unix socket whose accept queue is full refuses at once where TCP would wait, so it is tried
 * again within connect_timeout. Local services keep up again in a moment; the pauses grow from 5 ms
 * to 160. */
static void local_connect_unix(struct data_channel *channel)
{
    enum { PAUSE_MS = 5, PAUSE_ROUND_MAX = 5 };
    const struct host_port *name = &client_service_config(channel->service)->addr;
    if (!host_port_is_unix(name)) { /* a reload has just changed local_addr */
        client_local_forget(channel_local(channel));
        stream_terminate(&channel->local, STREAM_ABORT); /* local_closed begins again */
        return;
    }
    int result = unix_socket_connect(channel->local.fd, name->host);
    if (result != -EAGAIN) {
        local_connected(&channel->local, result);
        return;
    }
    uint32_t pause_ms = (uint32_t)PAUSE_MS << MIN(channel->dial.round, PAUSE_ROUND_MAX);
    channel->waits_for_queue = true;
    loop_deadline_start(channel_loop(channel), &channel->timer,
                        MIN(pause_ms, channel->dial.step_ms));
}

/* The pause is over. */
static void local_connect_again(struct data_channel *channel)
{
    channel->waits_for_queue = false;
    dial_timed_out(&channel->dial);
    if (dial_next(&channel->dial, loop_now_ns(channel_loop(channel)))) {
        local_connect_unix(channel);
        return;
    }
    channel->dial.error = -EAGAIN;
    stream_terminate(&channel->local, STREAM_ABORT); /* local_closed gives up */
}

static int local_socket(const struct data_channel *channel, const struct addr *addr)
{
    struct socket_options options = channel->worker->channel_options;
    const struct config_service *config = client_service_config(channel->service);
    if (config->nodelay != CONFIG_UNSET)
        options.nodelay = config->nodelay == CONFIG_TRUE;
    if (addr_is_loopback(addr))
        options.keepalive_secs =
            /* This machine can't vanish without a reset; saves three system calls
             * (docs/decisions.md, "No TCP_USER_TIMEOUT on relays and TCP data channels"). */
            0;
    int fd = client_fds_dial(channel->worker, addr, &options, channel->worker->client->fds.max);
    if (fd == -EMFILE) /* client_fds_hold has reserved one: any number will do */
        fd = socket_for_dialing(addr, &options);
    return fd;
}

/* Connects to the next address that a socket can be made for. */
static void local_try_address(struct data_channel *channel)
{
    struct loop *loop = channel_loop(channel);
    const struct client_local *local = channel_local(channel);
    if (local->answer.count == 0) { /* a reload has changed local_addr */
        local_service_begin(channel);
        return;
    }
    if (channel->local_version != local->version) {
        channel->local_version = local->version;
        dial_addresses(&channel->dial, local->answer.count, loop_now_ns(loop));
    }
    while (dial_next(&channel->dial, loop_now_ns(loop))) {
        const struct addr addr = local->answer.addrs[channel->dial.index];
        int fd = local_socket(channel, &addr);
        if (fd >= 0) {
            loop_deadline_start(loop, &channel->timer, channel->dial.step_ms);
            stream_init(&channel->local, loop, fd, &local_stream_ops);
            channel->has_local = true;
            if (addr_is_unix(&addr))
                local_connect_unix(channel);
            else
                stream_connect(&channel->local, &addr);
            return;
        }
        dial_failed(&channel->dial, fd);
        if (!socket_error_is_of_address(fd))
            break;
    }
    local_service_unavailable(channel, channel->dial.error);
}

/* Begins to dial, with the addresses that are known. */
static void local_dial(struct data_channel *channel)
{
    struct client_local *local = channel_local(channel);
    uint64_t now_ns = loop_now_ns(channel_loop(channel));
    client_local_catch_up(local, now_ns);
    channel->local_version = local->version;
    dial_addresses(&channel->dial, local->answer.count, now_ns);
    local_try_address(channel);
}

void local_service_expired(struct data_channel *channel)
{
    if (!channel->has_local) {
        local_service_unavailable(channel, ERR_DEADLINE);
        return;
    }
    if (channel->waits_for_queue) {
        local_connect_again(channel);
        return;
    }
    dial_timed_out(&channel->dial);
    stream_terminate(&channel->local, STREAM_ABORT); /* local_closed tries the next */
}

static void local_resolved(void *asker, const struct resolver_answer *answer)
{
    struct data_channel *channel = asker;
    struct client_local *local = channel_local(channel);
    channel->query = NULL;
    if (local->generation != channel->local_generation) { /* a reload has changed local_addr */
        local_service_begin(channel);
        return;
    }
    if (answer->error < 0) {
        local_service_unavailable(channel, answer->error);
        return;
    }
    client_local_take(local, answer, loop_now_ns(channel_loop(channel)));
    local_dial(channel);
}

void local_service_begin(struct data_channel *channel)
{
    struct client_worker *worker = channel->worker;
    struct client_local *local = channel_local(channel);
    const struct host_port *name = &client_service_config(channel->service)->addr;
    uint64_t now_ns = loop_now_ns(channel_loop(channel));
    data_channel_set_state(channel, CHANNEL_LOCAL);
    dial_begin(&channel->dial, client_config(worker->client)->connect_timeout_ms, now_ns);
    if (local->valid_until_ns > now_ns) {
        local_dial(channel);
        return;
    }
    if (addr_from_numeric(name, &local->answer.addrs[0])) {
        local->answer.count = 1;
        local->valid_until_ns = UINT64_MAX;
        local_dial(channel);
        return;
    }
    loop_deadline_start(channel_loop(channel), &channel->timer, channel->dial.step_ms);
    const struct config_service *config = client_service_config(channel->service);
    channel->local_generation = local->generation;
    bool prefer_ipv6 = client_config(worker->client)->prefer_ipv6 || config->prefer_ipv6;
    channel->query = resolver_ask(worker->tunnel->all->resolver, name, prefer_ipv6,
                                  worker->tunnel->mailbox, local_resolved, channel);
    if (channel->query == NULL && local->answer.count > 0)
        local_dial(channel); /* the old addresses may still be right */
    else if (channel->query == NULL)
        local_service_unavailable(channel, -ENOMEM);
}
