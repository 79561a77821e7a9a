/* The addresses of a reload. Each that moves is bound first, beside the old one, in the order of
 * the file. What has failed is settled when all have tried. If the address is in use
 *
 *     by what leaves it with this plan, -------> the next plan binds it
 *       or will with one that follows
 *     in a circle: they want each other's -----> all of it give their old ones up with this plan,
 *                                                and the next binds the new
 *     by what stays, or by another process ----> it stays too, and is tried again every second
 *
 * So each plan brings somebody to his place, and nobody gives an address up that ours will keep him
 * from. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/resolver.h"
#include "reload_priv.h"
#include "server/addresses.h"

/* ---- binding ---- */

/* Behind the running services there is the control port, and then what is added. */
static size_t control_place(const struct preparation *prep)
{
    return prep->running.peer.service_count;
}

int server_reload_begin_places(struct preparation *prep)
{
    prep->place_count = control_place(prep) + 1;
    prep->places = calloc(prep->place_count + prep->diff.service_count, sizeof(*prep->places));
    return prep->places != NULL ? 0 : -ENOMEM;
}

void server_reload_leaves(struct preparation *prep, const struct config_service *running)
{
    prep->places[running - prep->running.peer.services].fate = PLACE_LEAVES;
}

/* service, wanted NULL: the control port. */
static void note_failed(struct preparation *prep, size_t at, struct service *service,
                        const struct config_service *wanted, int error)
{
    struct reload_place *place = &prep->places[at];
    place->service = service;
    place->wanted = wanted;
    place->error = error;
    if (error == -EADDRINUSE)
        place->addr_count =
            resolver_find(prep->server->resolver,
                          wanted != NULL ? &wanted->addr : &prep->wanted->addr, place->addrs);
    if (place->addr_count > 0)
        place->fate = PLACE_WAITS; /* what for, is found when all have tried */
}

bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

int server_reload_bind(struct preparation *prep, const struct config_service_diff *item,
                       struct service *service, struct binding **ret)
{
    bool is_new = !server_reload_is_same_addr(&service_config(service)->addr, &item->new->addr);
    if (prep->attempt == RELOAD_FIRST && is_new)
        service->failures_said = 0;
    int result = addresses_bind_service(prep->server, service, item->new, prep->wanted, ret);
    if (result == 0 && item->old != NULL)
        server_reload_leaves(prep, item->old);
    else if (result < 0 && result != -ENOMEM)
        note_failed(prep,
                    item->old != NULL ? (size_t)(item->old - prep->running.peer.services)
                                      : prep->place_count++,
                    service, item->new, result);
    return result;
}

bool server_reload_bind_control(struct preparation *prep)
{
    struct server *server = prep->server;
    if (prep->attempt == RELOAD_FIRST)
        server->control_failures_said = 0;
    int result = addresses_bind_control(server, prep->wanted, &prep->plan->control_binding);
    if (result == 0)
        prep->places[control_place(prep)].fate = PLACE_LEAVES;
    else
        note_failed(prep, control_place(prep), NULL, NULL, result);
    return result == 0;
}

/* ---- what is in the way ---- */

static bool place_is_in_the_way(const struct preparation *prep, size_t at,
                                const struct reload_place *place)
{
    const struct binding *binding = at < control_place(prep)
                                        ? service_of(prep->running.entries[at])->binding
                                        : prep->server->control_binding;
    bool is_udp = place->service != NULL && place->service->is_udp;
    return addresses_is_held_by(binding, place->addrs, place->addr_count, is_udp);
}

/* Of several, which only an address of all hosts can have, the one that goes last: fates are in
 * this order. Of two that wait the second is not followed; at worst an address is given up for one
 * that is not free then, and tried again. */
static size_t find_in_the_way(const struct preparation *prep, size_t own)
{
    size_t found = NO_PLACE;
    for (size_t at = 0; at <= control_place(prep); at++) {
        if (!place_is_in_the_way(prep, at, &prep->places[own]))
            continue;
        if (found == NO_PLACE || prep->places[at].fate < prep->places[found].fate ||
            (found == own && prep->places[at].fate == PLACE_WAITS))
            found = at;
    }
    return found;
}

/* What it waits for in the end: what stays, or leaves, or itself. Something else that waits: it is
 * behind a circle. */
static size_t follow(const struct preparation *prep, size_t own)
{
    size_t at = prep->places[own].behind;
    for (size_t i = 0; i < prep->place_count && at != NO_PLACE && at != own &&
                       prep->places[at].fate == PLACE_WAITS;
         i++)
        at = prep->places[at].behind;
    return at;
}

/* ---- what comes of them ---- */

static void give_up(struct preparation *prep, struct service *service)
{
    if (service == NULL)
        prep->plan->closes_control = true;
    else
        server_reload_add_step(prep, PLAN_CHANGE, service)->rebinds = true;
}

void server_reload_settle(struct preparation *prep)
{
    /* Twice: what another process keeps where it is is known after the first time. */
    for (size_t i = 0; i < 2 * prep->place_count; i++) {
        struct reload_place *place = &prep->places[i % prep->place_count];
        if (place->addr_count == 0)
            continue;
        place->behind = find_in_the_way(prep, i % prep->place_count);
        place->fate = place->behind != NO_PLACE ? PLACE_WAITS : PLACE_STAYS;
    }
    for (size_t i = 0; i < prep->place_count; i++) {
        struct reload_place *place = &prep->places[i];
        prep->outcome->failed += place->error != 0;
        if (place->fate != PLACE_WAITS)
            continue;
        size_t last = follow(prep, i);
        if (last == NO_PLACE || prep->places[last].fate == PLACE_STAYS) {
            place->fate = PLACE_STAYS;
            continue;
        }
        prep->outcome->deferred++;
        if (last == i)
            give_up(prep, place->service);
    }
}

void server_reload_log_failures(struct preparation *prep)
{
    struct server *server = prep->server;
    for (size_t i = 0; i < prep->place_count; i++) {
        const struct reload_place *place = &prep->places[i];
        unsigned int *said = place->service != NULL ? &place->service->failures_said
                                                    : &server->control_failures_said;
        if (place->error != 0 && place->fate == PLACE_STAYS)
            addresses_bind_failed(server, prep->wanted, place->wanted, said, place->error);
    }
}
