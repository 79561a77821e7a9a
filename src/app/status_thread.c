#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/sandbox.h"
#include "base/clock.h"
#include "io/socket.h"
#include "status_priv.h"

/* ---- one reader ---- */

static void connection_close(struct status_connection *connection)
{
    (void)close(take_fd(&connection->fd));
    text_finish(&connection->text);
}

static void connection_limit(struct status_connection *connection, enum status_step step,
                             uint64_t now_ms, uint64_t ms)
{
    connection->step = step;
    connection->deadline_ms = now_ms + ms;
}

/* Unread bytes would turn the close into a reset, and the answer might be lost: says the end, and
 * waits for that of the reader. */
static void connection_linger(struct status_connection *connection, uint64_t now_ms)
{
    (void)shutdown(connection->fd, SHUT_WR);
    text_finish(&connection->text);
    connection_limit(connection, STEP_LINGER, now_ms, STATUS_LINGER_MS);
}

static void connection_discard(struct status_connection *connection)
{
    ssize_t got = recv(connection->fd, connection->in, sizeof(connection->in), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        connection_close(connection);
}

static void connection_send(struct status_connection *connection, uint64_t now_ms)
{
    while (connection->sent < connection->head_len + connection->body_len) {
        bool is_head = connection->sent < connection->head_len;
        size_t at = is_head ? connection->sent : connection->sent - connection->head_len;
        const char *from = is_head ? connection->head + at : connection->body + at;
        size_t len = (is_head ? connection->head_len : connection->body_len) - at;
        ssize_t sent = send(connection->fd, from, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (sent < 0) {
            connection_close(connection);
            return;
        }
        connection->sent += (size_t)sent;
    }
    connection_linger(connection, now_ms);
}

/* Takes the answer over. */
static void connection_answer(struct status_connection *connection,
                              const struct status_answer *answer, bool is_head, uint64_t now_ms)
{
    const struct http_answer head = {
        .status = answer->status,
        .content_type = answer->type,
        .length = answer->body_len,
        .more = answer->more,
    };
    connection->head_len = http_answer_head(&head, connection->head);
    connection->text = answer->text;
    connection->body = answer->body;
    connection->body_len = is_head ? 0 : answer->body_len;
    connection->sent = 0;
    connection_limit(connection, STEP_ANSWER, now_ms, STATUS_ANSWER_MS);
    connection_send(connection, now_ms);
}

static void connection_refuse(struct status_connection *connection, enum http_status why,
                              uint64_t now_ms)
{
    struct status_answer answer;
    status_refuse(why, &answer);
    connection_answer(connection, &answer, false, now_ms);
}

static size_t answers_size(const struct status *status)
{
    size_t size = 0;
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++)
        size += status->connections[i].text.room;
    return size;
}

static void connection_receive(struct status *status, struct status_connection *connection,
                               uint64_t now_ms)
{
    struct http_request request;
    struct status_answer answer;
    ssize_t got = recv(connection->fd, connection->in + connection->in_len,
                       sizeof(connection->in) - connection->in_len, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        connection_close(connection);
        return;
    }
    connection->in_len += (size_t)got;
    int result = http_request_parse(connection->in, connection->in_len, &request);
    if (result == 0)
        return;
    if (result == HTTP_OK && answers_size(status) > STATUS_ANSWERS_MAX)
        result = HTTP_UNAVAILABLE;
    if (result != HTTP_OK) {
        connection_refuse(connection, (enum http_status)result, now_ms);
        return;
    }
    status_answer(status, &request, &answer);
    connection_answer(connection, &answer, request.is_head, now_ms);
    keys_wipe(connection->in, connection->in_len); /* it may have held the token */
}

static void connection_expired(struct status_connection *connection, uint64_t now_ms)
{
    if (connection->step == STEP_REQUEST && connection->in_len > 0)
        connection_refuse(connection, HTTP_REQUEST_TIMEOUT, now_ms);
    else
        connection_close(connection);
}

static void connection_turn(struct status *status, struct status_connection *connection,
                            bool is_due, uint64_t now_ms)
{
    if (is_due && connection->step == STEP_REQUEST)
        connection_receive(status, connection, now_ms);
    else if (is_due && connection->step == STEP_ANSWER)
        connection_send(connection, now_ms);
    else if (is_due)
        connection_discard(connection);
    if (connection->fd >= 0 && now_ms >= connection->deadline_ms)
        connection_expired(connection, now_ms);
}

/* ---- new readers ---- */

/* A free place, or that of the reader that came first, but of one with an answer only if all have
 * one. */
static struct status_connection *find_place(struct status *status)
{
    struct status_connection *oldest = &status->connections[0];
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++) {
        struct status_connection *connection = &status->connections[i];
        bool is_answering = connection->step == STEP_ANSWER;
        bool oldest_is = oldest->step == STEP_ANSWER;
        if (connection->fd < 0)
            return connection;
        if (is_answering != oldest_is ? oldest_is : connection->number < oldest->number)
            oldest = connection;
    }
    connection_close(oldest);
    return oldest;
}

/* One at a time, after poll(2) has found it: a successor that starts makes the listener, which both
 * processes share, blocking for a moment (io/inherit.h). */
static void accept_reader(struct status *status, uint64_t now_ms)
{
    int fd = accept4(status->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        /* Out of descriptors or memory: the connection stays in the queue, and poll would return at
         * once. */
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            status->paused_until_ms = now_ms + STATUS_PAUSE_MS;
        return;
    }
    struct status_connection *connection = find_place(status);
    socket_close_cleanly(fd);
    connection->fd = fd;
    connection->number = status->accepted++;
    connection->in_len = 0;
    connection_limit(connection, STEP_REQUEST, now_ms, STATUS_REQUEST_MS);
    connection_receive(status, connection, now_ms); /* it usually comes at once */
}

/* ---- the thread ---- */

/* Takes what the main thread has changed. False: the thread has to end. */
static bool take_changes(struct status *status)
{
    (void)pthread_mutex_lock(&status->lock);
    bool is_stopping = status->is_stopping;
    if (status->is_changed) {
        if (status->listen_fd >= 0)
            (void)close(status->listen_fd);
        status->listen_fd = status->next_fd;
        status->next_fd = -1;
        status->is_changed = false;
    }
    (void)pthread_mutex_unlock(&status->lock);
    return !is_stopping;
}

static uint64_t next_sample_ms(const struct status *status)
{
    return status->history.last_ms == 0 ? 0 : status->history.last_ms + STATUS_SAMPLE_MS;
}

static void take_sample(struct status *status, uint64_t now_ms)
{
    struct status_totals totals = {0};
    status->options.role->list_services(status->options.shared, status_totals_add, &totals);
    status_history_add(&status->history, &totals, now_ms);
}

static int wait_ms(const struct status *status, uint64_t now_ms)
{
    uint64_t next_ms = next_sample_ms(status);
    if (status->paused_until_ms > now_ms)
        next_ms = MIN(next_ms, status->paused_until_ms);
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++) {
        if (status->connections[i].fd >= 0)
            next_ms = MIN(next_ms, status->connections[i].deadline_ms);
    }
    return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}

static void status_poll(struct status *status)
{
    enum { WAKE, LISTEN, OWN };
    struct pollfd fds[OWN + STATUS_CONNECTIONS];
    uint64_t now_ms = clock_monotonic_ms();
    bool is_listening =
        status->paused_until_ms <= now_ms && atomic_load(&status->state) != STATUS_AWAITING;
    fds[WAKE] = (struct pollfd){.fd = status->wake_fd, .events = POLLIN};
    fds[LISTEN] = (struct pollfd){.fd = is_listening ? status->listen_fd : -1, .events = POLLIN};
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++)
        fds[OWN + i] = (struct pollfd){
            .fd = status->connections[i].fd,
            .events = status->connections[i].step == STEP_ANSWER ? POLLOUT : POLLIN,
        };
    if (poll(fds, ARRAY_SIZE(fds), wait_ms(status, now_ms)) < 0)
        return;
    uint64_t count;
    ssize_t got = read(status->wake_fd, &count, sizeof(count));
    (void)got;
    now_ms = clock_monotonic_ms();
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++) {
        struct status_connection *connection = &status->connections[i];
        if (connection->fd >= 0)
            connection_turn(status, connection, fds[OWN + i].revents != 0, now_ms);
    }
    if (fds[LISTEN].revents != 0)
        accept_reader(status, now_ms);
    if (now_ms >= next_sample_ms(status))
        take_sample(status, now_ms);
}

static bool is_unfinished(const struct status_connection *connection)
{
    return connection->fd >= 0 && connection->step != STEP_LINGER;
}

/* Lets readers finish that came before the end: their connections were accepted, so no successor
 * can serve them. */
static void finish_readers(struct status *status)
{
    uint64_t end_ms = clock_monotonic_ms() + STATUS_END_MS;
    bool are_unfinished = true;
    if (status->listen_fd >= 0)
        (void)close(take_fd(&status->listen_fd));
    while (are_unfinished) {
        are_unfinished = false;
        for (size_t i = 0; i < STATUS_CONNECTIONS; i++) {
            struct status_connection *connection = &status->connections[i];
            connection->deadline_ms = MIN(connection->deadline_ms, end_ms);
            are_unfinished |= is_unfinished(connection);
        }
        if (are_unfinished)
            status_poll(status);
    }
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++) {
        if (status->connections[i].fd >= 0)
            connection_close(&status->connections[i]);
    }
}

void *status_thread(void *arg)
{
    struct status *status = arg;
    (void)pthread_setname_np(pthread_self(), "status");
    if (status->options.thread_begins != NULL)
        status->options.thread_begins();
    sandbox_enter(SANDBOX_STATUS);
    while (take_changes(status))
        status_poll(status);
    finish_readers(status);
    return NULL;
}
