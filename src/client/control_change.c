/* How control channels follow a change. A reload has them log in again, or applies a setting. A
 * handover (tunnel/handover.h) holds, releases or retires them. */
#include <errno.h>

#include "base/error.h"
#include "control_priv.h"

/* ---- a reload ---- */

static void control_log_in_again(struct client_control *control)
{
    if (control->stopping)
        return;
    switch ((enum control_state)control->state) {
    case CONTROL_WAITING:
        client_control_begin(control);
        break;
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_give_up_turn(control);
        client_control_begin(control);
        break;
    case CONTROL_CONNECTING:
    case CONTROL_LOGIN:
    case CONTROL_UP:
        control->begins_anew = true;
        client_control_fail(control, ERR_RECONFIGURED);
        break;
    case CONTROL_CLOSING:
        control->begins_anew = true;
        break;
    case CONTROL_STATE_COUNT:
        break;
    }
}

void client_control_review(struct client_control *control, bool logs_in)
{
    client_backoff_init(&control->backoff,
                        client_service_config(control->service)->retry_interval_ms);
    if (logs_in)
        control_log_in_again(control);
}

void client_control_log_in_all_again(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        control_log_in_again(container_of(node, struct client_control, node));
    }
}

void client_control_review_heartbeats(struct client_worker *worker)
{
    list_for_each (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_UP)
            client_control_watch_heartbeat(control);
    }
}

/* ---- a handover ---- */

/* Gives up an attempt in progress. The state becomes WAITING, and client_control_begin does nothing
 * until the handover is over. */
static void control_hold(struct client_control *control)
{
    switch ((enum control_state)control->state) {
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_fail(control, -ECANCELED);
        break;
    case CONTROL_CONNECTING:
    case CONTROL_LOGIN:
        client_control_fail(control, -ECANCELED);
        break;
    case CONTROL_WAITING:
    case CONTROL_UP:
    case CONTROL_CLOSING:
    case CONTROL_STATE_COUNT:
        break;
    }
}

void client_control_hold_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        control_hold(container_of(node, struct client_control, node));
    }
}

void client_control_release_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_WAITING && !control->timer.armed)
            client_control_begin(control);
    }
}

void client_control_retire_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_UP)
            control->stopping = true;
        else
            client_control_stop(control);
    }
}
