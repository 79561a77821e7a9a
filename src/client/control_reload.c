/* After a reload: control channels that log in again, and settings that count from now on. */
#include "base/error.h"
#include "control_priv.h"

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
