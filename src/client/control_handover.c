/* While one process hands over to another (handover.h): control channels that are held back, let go
 * on, or retired. */
#include <errno.h>

#include "control_priv.h"

/* The attempt is given up; control_wait comes by itself, and client_control_begin waits then. */
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
