/* What has to be done to get from one configuration to another. Pure: two objects in, a list out.
 * What a changed value is stands beside it in the table of options. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"

/* Kinds of changes, one bit each; of a role's own settings, or of a service. */
enum config_change {
    CONFIG_CHANGE_NONE = 0,           /* has no effect by itself */
    CONFIG_CHANGE_ADDRESS = 1 << 0,   /* bind_addr, remote_addr, local_addr */
    CONFIG_CHANGE_TRANSPORT = 1 << 1, /* tcp or noise, its pattern and keys */
    CONFIG_CHANGE_TOKEN = 1 << 2,
    CONFIG_CHANGE_TYPE = 1 << 3,      /* another service under the same name */
    CONFIG_CHANGE_LANES = 1 << 4,     /* of a UDP service: needs other sockets */
    CONFIG_CHANGE_SOCKETS = 1 << 5,   /* options of TCP sockets */
    CONFIG_CHANGE_HEARTBEAT = 1 << 6, /* of control channels that are up, too */
    CONFIG_CHANGE_LIMITS = 1 << 7,    /* limits and times that are read where they are needed */
    CONFIG_CHANGE_LOG = 1 << 8,
    CONFIG_CHANGE_RESTART = 1 << 9, /* not without a restart */
};

enum config_service_fate { CONFIG_SERVICE_ADDED, CONFIG_SERVICE_REMOVED, CONFIG_SERVICE_CHANGED };

struct config_service_diff {
    enum config_service_fate fate;
    unsigned int changes;                   /* enum config_change, if CHANGED */
    const struct config_service *old, *new; /* borrowed; NULL if ADDED, or REMOVED */
};

/* Services by name. */
struct config_diff {
    unsigned int changes; /* enum config_change, of the role's own settings */
    struct config_service_diff *services;
    size_t service_count;
};

/* -ENOMEM. Both peers are of that role, and outlive the result. */
MUST_CHECK int config_diff(enum config_role role, const struct config_peer *old,
                           const struct config_peer *new, struct config_diff *ret);
void config_diff_finish(struct config_diff *diff);
/* enum config_change, of the role's own settings alone. */
unsigned int config_peer_changes(enum config_role role, const struct config_peer *old,
                                 const struct config_peer *new);
/* "address, token": the kinds of changes in words; always terminated. Returns out. */
const char *config_changes_format(unsigned int changes, char *out, size_t out_size);
