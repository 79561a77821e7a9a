/* What the files of the status share:
 *
 *     status.c             the main thread's part: binds, starts and stops the thread
 *     status_thread.c      the thread: readers, their limits, the history
 *     status_pages.c       which answer a request gets
 *     status_view_priv.h     the answers' texts, from plain numbers */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "app/status.h"
#include "base/text.h"
#include "crypto/keys.h"
#include "io/unix_socket.h"
#include "net/http.h"
#include "status_view_priv.h"

enum {
    STATUS_CONNECTIONS = 16,
    STATUS_REQUEST_MS = 5000, /* to send a request */
    STATUS_ANSWER_MS = 5000,  /* to take the answer */
    STATUS_LINGER_MS = 1000,  /* to close, after the answer */
    STATUS_END_MS = 200,      /* for both, when the thread ends */
    STATUS_PAUSE_MS = 200,    /* no descriptor for a new reader: until the next attempt */
    /* 4,096 services have about 6 MB of metrics. */
    STATUS_ANSWER_MAX = 16 << 20,
    STATUS_ANSWERS_MAX = 32 << 20, /* of all readers; beyond it: 503 */
};

/* An answer. `body` may be `text`, or constant. */
struct status_answer {
    enum http_status status;
    const char *type;
    const char *more; /* further header lines, or NULL */
    struct text text;
    const char *body;
    size_t body_len;
};

enum status_step { STEP_REQUEST, STEP_ANSWER, STEP_LINGER };

struct status_connection {
    int fd; /* -1: none */
    enum status_step step;
    uint64_t number, deadline_ms;
    size_t in_len, head_len, body_len, sent;
    const char *body;
    struct text text;
    char in[HTTP_REQUEST_MAX];
    char head[HTTP_HEAD_MAX];
};

struct status {
    struct status_options options;
    int64_t started_at_s;
    int wake_fd;
    _Atomic int state; /* enum status_state */
    _Atomic(const struct workers *) workers;
    _Atomic(const struct metrics *) main_metrics;

    /* The main thread's: */
    struct config_status wanted, bound; /* without tokens; host "": none */
    int bound_fd;                       /* also the thread's; the thread closes it */
    struct unix_file file;
    bool is_shared; /* with a service manager */
    uint64_t retry_at_ms;
    pthread_t thread;
    bool is_running;

    pthread_mutex_t lock; /* protects these, for the thread to take: */
    bool is_changed;
    int next_fd;
    bool has_token, is_loopback;
    uint8_t token_digest[KEYS_DIGEST_SIZE];
    bool is_stopping;

    /* The thread's: */
    int listen_fd;
    uint64_t accepted, paused_until_ms;
    struct status_history history;
    struct status_connection connections[STATUS_CONNECTIONS];
};

/* status_thread.c */
void *status_thread(void *arg);

/* status_pages.c */

/* The answer to a request. answer->text is the caller's. */
void status_answer(struct status *status, const struct http_request *request,
                   struct status_answer *answer);
/* An answer of one line. */
void status_refuse(enum http_status why, struct status_answer *answer);
