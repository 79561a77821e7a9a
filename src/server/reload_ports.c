/* The addresses of a reload. Each service, and the control port, first binds its new address beside
 * the old one, in the file's order. When all have tried, server_reload_settle decides about those
 * whose new address is in use:
 *
 *     by one that leaves it with this plan  ----> the next plan binds it
 *       or with a later one
 *     in a circle: they want each other's  -----> all of them give up their old addresses with
 *                                                 this plan, and the next plan binds the new ones
 *     by one that stays, or another process ----> it stays too, and is tried again every second
 *
 * So each plan brings at least one to its new address, and none gives its address up for one that
 * stays in use. Where that can't be known before, the next plan takes the old address back.
 * docs/decisions.md, "A reload settles its addresses when all have been tried". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reload_priv.h"
#include "server/addresses.h"
#include "server/descriptors.h"

/* ---- binding ---- */

/* The control port's index in prep->places, behind the running services and before added ones. */
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

/* Notes that the new address of a place's owner could not be bound. service and wanted are NULL for
 * the control port. */
static void note_failed(struct preparation *prep, size_t at, struct service *service,
                        const struct config_service *wanted, const struct addr *tried, int error)
{
    struct reload_place *place = &prep->places[at];
    place->service = service;
    place->wanted = wanted;
    place->error = error;
    if (error != -EADDRINUSE)
        return;
    place->is_in_use = true;
    place->addr = *tried;
    place->fate = PLACE_WAITS; /* server_reload_settle finds the place that it waits for */
}

bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

int server_reload_bind(struct preparation *prep, const struct config_service_diff *item,
                       struct service *service, struct binding **ret)
{
    bool is_new = !server_reload_is_same_addr(&service_config(service)->addr, &item->new->addr);
    struct addr tried;
    if (prep->attempt == RELOAD_FIRST && is_new)
        service->failures_said = 0;
    if (prep->attempt == RELOAD_FIRST)
        service->move.was_in_vain = false;
    /* Clients decide how many of these there are, and must leave descriptors to the others. */
    int result =
        item->new->bind == CONFIG_BIND_ON_LOGIN &&
                !server_fds_are_enough_for(prep->server, item->new)
            ? -EMFILE
            : addresses_bind_service(prep->server, service, item->new, prep->wanted, ret, &tried);
    if (result == 0 && item->old != NULL)
        server_reload_leaves(prep, item->old);
    else if (result < 0 && result != -ENOMEM)
        note_failed(prep,
                    item->old != NULL ? (size_t)(item->old - prep->running.peer.services)
                                      : prep->place_count++,
                    service, item->new, &tried, result);
    return result;
}

bool server_reload_bind_control(struct preparation *prep)
{
    struct server *server = prep->server;
    struct addr tried;
    if (prep->attempt == RELOAD_FIRST) {
        server->control_failures_said = 0;
        server->control_move.was_in_vain = false;
    }
    int result = addresses_bind_control(server, prep->wanted, &prep->plan->control_binding, &tried);
    if (result == 0)
        prep->places[control_place(prep)].fate = PLACE_LEAVES;
    else
        note_failed(prep, control_place(prep), NULL, NULL, &tried, result);
    return result == 0;
}

/* ---- who holds the wanted address ---- */

static bool wants_udp(const struct reload_place *place)
{
    return place->service != NULL && place->service->is_udp;
}

static const struct binding *binding_of(const struct preparation *prep, size_t at)
{
    return at < control_place(prep) ? service_of(prep->running.entries[at])->binding
                                    : prep->server->control_binding;
}

static bool place_is_in_the_way(const struct preparation *prep, size_t at,
                                const struct reload_place *place)
{
    return addresses_is_held_by(binding_of(prep, at), &place->addr, 1, wants_udp(place));
}

/* The place that holds the address which the owner of `own` wants, or NO_PLACE. Only a wildcard
 * address can have several holders; then this is the one that becomes free last, by the order of
 * enum reload_fate. Of two that wait only the first is followed: at worst an address is given up
 * for one that is not free yet, and is tried again. */
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

/* Whether another process holds part of the wildcard address that the owner of `own` wants, beside
 * a place of ours. A place that covers the whole wanted address leaves no room for others. */
static bool is_held_by_others(const struct preparation *prep, size_t own)
{
    const struct reload_place *place = &prep->places[own];
    for (size_t at = 0; at <= control_place(prep); at++) {
        if (place_is_in_the_way(prep, at, place) &&
            addr_covers(&binding_of(prep, at)->addr, &place->addr))
            return false;
    }
    return addresses_is_held_by_others(&place->addr, wants_udp(place));
}

/* The place at the end of the chain that `own` waits in. It stays, leaves, is none of ours
 * (NO_PLACE), or is `own` itself: a circle. If it is another place that waits, `own` is behind a
 * circle. */
static size_t follow(const struct preparation *prep, size_t own)
{
    size_t at = prep->places[own].behind;
    for (size_t i = 0; i < prep->place_count && at != NO_PLACE && at != own &&
                       prep->places[at].fate == PLACE_WAITS;
         i++)
        at = prep->places[at].behind;
    return at;
}

/* ---- settling ---- */

static struct address_move *move_of(const struct preparation *prep,
                                    const struct reload_place *place)
{
    return place->service != NULL ? &place->service->move : &prep->server->control_move;
}

static void give_up(struct preparation *prep, struct service *service)
{
    if (service == NULL)
        prep->plan->closes_control = true;
    else
        server_reload_add_step(prep, PLAN_CHANGE, service)->rebinds = true;
}

/* The owner has given its old address up for one that is in use all the same. If somebody has the
 * old one too by now, the next attempt tries both again. */
static void take_back(struct preparation *prep, const struct reload_place *place)
{
    struct server *server = prep->server;
    struct service *service = place->service;
    struct binding *binding = NULL;
    struct addr tried;
    int result = service != NULL
                     ? addresses_bind_service(server, service, service_config(service),
                                              prep->wanted, &binding, &tried)
                     : addresses_bind_control(server, server_config(server), &binding, &tried);
    if (result < 0)
        return;
    /* A place of ours, or others that can be seen, will be found in the way again. */
    move_of(prep, place)->was_in_vain = place->is_in_use && place->behind == NO_PLACE;
    if (service == NULL) {
        prep->plan->control_binding = binding;
        return;
    }
    struct server_step *step = server_reload_add_step(prep, PLAN_CHANGE, service);
    step->binding = binding;
    step->rebinds = true;
    prep->outcome->bound++;
}

/* Those that are known to gain nothing by another plan stay where they are. */
static void settle_hopeless(struct preparation *prep)
{
    for (size_t i = 0; i < prep->place_count; i++) {
        struct reload_place *place = &prep->places[i];
        if (!place->is_in_use)
            continue;
        if (!move_of(prep, place)->was_in_vain &&
            (find_in_the_way(prep, i) == NO_PLACE || !is_held_by_others(prep, i)))
            continue;
        place->is_in_use = false;
        place->fate = PLACE_STAYS;
    }
}

void server_reload_settle(struct preparation *prep)
{
    settle_hopeless(prep);
    /* Twice, because the fates that find_in_the_way compares are only known after the first round:
     * those whose address another process holds stay. */
    for (size_t i = 0; i < 2 * prep->place_count; i++) {
        struct reload_place *place = &prep->places[i % prep->place_count];
        if (!place->is_in_use)
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
    for (size_t i = 0; i < prep->place_count; i++) {
        const struct reload_place *place = &prep->places[i];
        if (place->error != 0 && place->fate == PLACE_STAYS && move_of(prep, place)->has_given_up)
            take_back(prep, place);
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
