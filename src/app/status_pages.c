#include <string.h>
#include <time.h>

#include "app/worker.h"
#include "crypto/keys.h"
#include "status_page_priv.h"
#include "status_priv.h"

#define PLAIN      "text/plain; charset=utf-8"
#define NO_SCRIPTS "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"

/* ---- the view ---- */

static void view_begin(struct status *status, struct status_view *view)
{
    const struct workers *workers = atomic_load(&status->workers);
    const struct metrics *main_thread = atomic_load(&status->main_metrics);
    int state = atomic_load(&status->state);
    *view = (struct status_view){
        .role = status->options.role->name,
        .started_at_s = status->started_at_s,
        .now_s = time(NULL),
        .workers = status->options.workers,
        .is_ready = state == STATUS_READY,
        .is_draining = state == STATUS_DRAINING || state == STATUS_LEFT,
        .log_dropped = log_dropped(),
        .sandbox = sandbox_facts(),
        .refusal_name = status->options.role->refusal_name,
        .history = &status->history,
    };
    view->record_count = log_recent(view->records);
    for (unsigned int i = 0; i < METRIC_COUNT && main_thread != NULL; i++)
        view->metrics[i] = metrics_get(main_thread, (enum metric)i);
    if (workers != NULL)
        workers_read(workers, view->metrics, view->loads);
    status->options.role->list_services(status->options.shared, status_view_add, view);
}

static void write_view(struct status *status, struct status_answer *answer,
                       const struct http_request *request)
{
    struct status_view *view = malloc(sizeof(*view));
    if (view == NULL) {
        answer->text.failed = true;
        return;
    }
    view_begin(status, view);
    if (http_text_equals(&request->path, "/metrics")) {
        answer->type = request->takes_openmetrics
                           ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                           : "text/plain; version=0.0.4; charset=utf-8";
        status_write_metrics(view, request->takes_openmetrics, &answer->text);
    } else if (http_text_equals(&request->path, "/status")) {
        answer->type = "application/json";
        status_write_json(view, &answer->text);
    } else {
        status_write_table(view, &answer->text);
    }
    answer->text.failed |= view->is_cut;
    status_view_finish(view);
    free(view);
}

/* ---- /readyz ---- */

struct service_search {
    const char *name; /* NULL: any */
    bool is_found;
};

static void look_for_served(void *arg, const struct service_report *report)
{
    struct service_search *search = arg;
    if ((report->is_up || report->is_awaited) && report->has_address &&
        (search->name == NULL || strcmp(report->config->name, search->name) == 0))
        search->is_found = true;
}

/* An upgrade is no reason for a balancer to go elsewhere: visitors wait in queues that both
 * processes have, and one of the two serves. */
static bool serves(const struct status *status)
{
    enum status_state state = (enum status_state)atomic_load(&status->state);
    return state == STATUS_READY || state == STATUS_LEFT ||
           (state == STATUS_STARTING && status->options.has_predecessor);
}

/* A server is ready without clients; a client is not without a server. */
static bool is_ready(struct status *status, const struct http_request *request)
{
    const struct role *role = status->options.role;
    char name[LIMIT_SERVICE_NAME + 1];
    struct service_search search = {.name = NULL};
    bool is_asked = request->query.at != NULL;
    if (!serves(status))
        return false;
    if (!is_asked && role->half == CONFIG_SERVER)
        return true;
    if (is_asked && !http_query_find(request, "service", name, sizeof(name)))
        return false;
    if (is_asked)
        search.name = name;
    role->list_services(status->options.shared, look_for_served, &search);
    return search.is_found;
}

/* ---- answers ---- */

static void answer_say(struct status_answer *answer, enum http_status status, const char *body)
{
    answer->status = status;
    answer->body = body;
    answer->body_len = strlen(body);
}

void status_refuse(enum http_status why, struct status_answer *answer)
{
    *answer = (struct status_answer){.type = PLAIN, .more = NO_SCRIPTS};
    switch (why) {
    case HTTP_UNAUTHORIZED:
        answer->more = "WWW-Authenticate: Bearer\r\n" NO_SCRIPTS;
        answer_say(answer, why, "status.token is needed, as Authorization: Bearer\n");
        return;
    case HTTP_NOT_FOUND:
        answer_say(answer, why, "there are /, /status, /metrics, /healthz and /readyz\n");
        return;
    case HTTP_METHOD_NOT_ALLOWED:
        answer->more = "Allow: GET, HEAD\r\n" NO_SCRIPTS;
        answer_say(answer, why, "GET or HEAD\n");
        return;
    case HTTP_REQUEST_TIMEOUT:
        answer_say(answer, why, "no request came in time\n");
        return;
    case HTTP_MISDIRECTED:
        answer_say(answer, why,
                   "Host has a name; without status.token, ask localhost or an address\n");
        return;
    case HTTP_HEADERS_TOO_LARGE:
        answer_say(answer, why, "the request is too large\n");
        return;
    case HTTP_UNAVAILABLE:
        answer_say(answer, why, "no memory for the answer\n");
        return;
    case HTTP_OK:
    case HTTP_BAD_REQUEST:
        break;
    }
    answer_say(answer, why, "not a request that this server understands\n");
}

/* HTTP_OK, or why the request is refused. Digests are compared, so that the time tells nothing
 * about the token, its length included. Without a token on a loopback address a name in Host is
 * refused: a web page may have its name resolved to 127.0.0.1, and its script would read all. */
static enum http_status judge_request(struct status *status, const struct http_request *request)
{
    uint8_t digest[KEYS_DIGEST_SIZE];
    keys_service_digest(request->bearer.at != NULL ? request->bearer.at : "", request->bearer.len,
                        digest);
    (void)pthread_mutex_lock(&status->lock);
    bool has_token = status->has_token, is_loopback = status->is_loopback;
    bool allowed = !has_token || keys_equal(digest, status->token_digest, sizeof(digest));
    (void)pthread_mutex_unlock(&status->lock);
    if (!allowed)
        return HTTP_UNAUTHORIZED;
    bool is_open = has_token || !is_loopback || http_host_is_no_name(request);
    return is_open ? HTTP_OK : HTTP_MISDIRECTED;
}

void status_answer(struct status *status, const struct http_request *request,
                   struct status_answer *answer)
{
    const struct http_text *path = &request->path;
    bool is_view = http_text_equals(path, "/metrics") || http_text_equals(path, "/status") ||
                   http_text_equals(path, "/status.tsv");
    enum http_status verdict = judge_request(status, request);
    *answer = (struct status_answer){.status = HTTP_OK, .type = PLAIN, .more = NO_SCRIPTS};
    if (http_text_equals(path, "/healthz")) {
        answer_say(answer, HTTP_OK, "ok\n");
    } else if (http_text_equals(path, "/")) {
        answer->type = "text/html; charset=utf-8";
        answer->more = status_page_headers;
        answer->body = (const char *)status_page;
        answer->body_len = status_page_size;
    } else if (verdict != HTTP_OK) {
        status_refuse(verdict, answer);
    } else if (http_text_equals(path, "/readyz")) {
        bool ready = is_ready(status, request);
        answer_say(answer, ready ? HTTP_OK : HTTP_UNAVAILABLE, ready ? "ready\n" : "not ready\n");
    } else if (is_view) {
        text_init(&answer->text, STATUS_ANSWER_MAX);
        write_view(status, answer, request);
        answer->body = answer->text.bytes;
        answer->body_len = answer->text.len;
        if (answer->text.failed) {
            text_finish(&answer->text);
            status_refuse(HTTP_UNAVAILABLE, answer);
        }
    } else {
        status_refuse(HTTP_NOT_FOUND, answer);
    }
}
