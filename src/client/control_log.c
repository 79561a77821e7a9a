#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "control_priv.h"

enum { SERVER_TEXT = ADDR_HOST_SIZE + 8 };

void client_control_trace(const struct client_control *control, enum control_state old)
{
    static const char *const names[] = {
        [CONTROL_WAITING] = "waiting",
        [CONTROL_RESOLVING] = "resolving",
        [CONTROL_CONNECTING] = "connecting",
        [CONTROL_LOGIN] = "login",
        [CONTROL_UP] = "up",
        [CONTROL_CLOSING] = "closing",
    };
    static_assert(ARRAY_SIZE(names) == CONTROL_STATE_COUNT, "a name for each state");
    log_write(LOG_TRACE, control_name(control), 0, "control channel: %s -> %s", names[old],
              names[control->state]);
}

/* Writes the server and the proxy on the way to it; the proxy alone, while that is dialled. */
static void format_server(const struct client_control *control, char *out, size_t size)
{
    const struct recipe *recipe = control_recipe(control);
    const struct recipe_server *target = control_target(control);
    char server[SERVER_TEXT] = "the server", proxy[SERVER_TEXT], addr[ADDR_TEXT_SIZE];
    if (target != NULL)
        (void)host_port_format(&target->addr, server, sizeof(server));
    (void)host_port_format(&recipe->proxy_addr, proxy, sizeof(proxy));
    (void)addr_format(&control->server->addr, addr, sizeof(addr));
    if (control->server->addr.len != 0 && strcmp(addr, server) != 0) /* one of a name's */
        (void)snprintf(out, size, "%s (%s)", server, addr);
    else if (!recipe->has_proxy)
        (void)snprintf(out, size, "%s", server);
    else if (control->state == CONTROL_RESOLVING || control->state == CONTROL_CONNECTING)
        (void)snprintf(out, size, "the proxy %s", proxy);
    else
        (void)snprintf(out, size, "%s through the proxy %s", server, proxy);
}

static const char *remedy_for(const struct client_control *control, int error)
{
    if (error == ERR_AUTH)
        return " (the token differs from the server's)";
    if (error == ERR_NO_SERVICE)
        return " (the server's configuration has no service of this name)";
    if (error == ERR_HANDSHAKE && control_recipe(control)->has_noise)
        return " (keys or patterns differ, or the server does not use Noise)";
    return "";
}

void client_control_log_failed(const struct client_control *control, int error)
{
    char server[2 * SERVER_TEXT + 32];
    format_server(control, server, sizeof(server));
    if (error == ERR_RECONFIGURED) {
        log_service(LOG_INFO, control_name(control), "logging in again: %s", error_text(error));
        return;
    }
    if (control->state == CONTROL_UP) {
        log_service(LOG_WARN, control_name(control), "control channel to %s lost: %s", server,
                    error_text(error));
        return;
    }
    static const char *const steps[CONTROL_STATE_COUNT] = {
        [CONTROL_RESOLVING] = "resolve",
        [CONTROL_CONNECTING] = "connect to",
        [CONTROL_LOGIN] = "log in to",
    };
    const struct stream *stream = control->has_stream ? &control->stream : NULL;
    const char *text = stream != NULL ? client_failure_text(stream, error) : error_text(error);
    /* The words for a proxy are all that there is to say. */
    const char *why = stream != NULL && !stream_is_at_proxy(stream) && error < 0
                          ? stream_handshake_why(stream)
                          : NULL;
    log_service(LOG_ERROR, control_name(control), "cannot %s %s: %s%s%s%s",
                steps[control->state] != NULL ? steps[control->state] : "reach", server, text,
                remedy_for(control, error), why != NULL ? ": " : "", why != NULL ? why : "");
}

void client_control_log_up(const struct client_control *control, const struct addr *dialled)
{
    const struct recipe_server *target = control_target(control);
    char text[ADDR_TEXT_SIZE], server[SERVER_TEXT];
    (void)addr_format(dialled, text, sizeof(text));
    if (control_recipe(control)->has_proxy && target != NULL)
        log_service(LOG_INFO, control_name(control),
                    "control channel established with %s through the proxy %s",
                    host_port_format(&target->addr, server, sizeof(server)), text);
    else
        log_service(LOG_INFO, control_name(control), "control channel established with %s", text);
}
