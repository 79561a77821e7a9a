/* The difference between two configurations, as a reload has to apply it. Pure: two objects in, a
 * list out. The table of options (config/options.c) says what kind of change each option is. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"

/* Kinds of changes, one bit each, of a role's own settings or of a service. */
enum config_change {
    CONFIG_CHANGE_NONE = 0,           /* has no effect by itself */
    CONFIG_CHANGE_ADDRESS = 1 << 0,   /* bind_addr, remote_addr, local_addr */
    CONFIG_CHANGE_TRANSPORT = 1 << 1, /* its type, keys, files and proxy */
    CONFIG_CHANGE_TOKEN = 1 << 2,
    CONFIG_CHANGE_TYPE = 1 << 3,      /* tcp or udp: in effect another service of the same name */
    CONFIG_CHANGE_LANES = 1 << 4,     /* a UDP service needs other sockets */
    CONFIG_CHANGE_SOCKETS = 1 << 5,   /* options of TCP sockets */
    CONFIG_CHANGE_HEARTBEAT = 1 << 6, /* applies to control channels that are up */
    CONFIG_CHANGE_LIMITS = 1 << 7,    /* limits and times, which are read when they are needed */
    CONFIG_CHANGE_LOG = 1 << 8,
    CONFIG_CHANGE_RESTART = 1 << 9, /* needs a restart */
    /* The files of TLS have changed, and no key. Found by the role, which reads them again. */
    CONFIG_CHANGE_CERTIFICATES = 1 << 10,
    CONFIG_CHANGE_ACCESS = 1 << 11, /* allow, deny: visitors of UDP services are looked at again */
    CONFIG_CHANGE_STATUS = 1 << 12, /* [status], which is the process's and no role's */
};

enum config_service_fate { CONFIG_SERVICE_ADDED, CONFIG_SERVICE_REMOVED, CONFIG_SERVICE_CHANGED };

struct config_service_diff {
    enum config_service_fate fate;
    unsigned int changes;                   /* enum config_change; CHANGED only */
    const struct config_service *old, *new; /* borrowed; old is NULL if ADDED, new if REMOVED */
};

/* Services are sorted by name. */
struct config_diff {
    unsigned int changes; /* enum config_change, of the role's own settings */
    struct config_service_diff *services;
    size_t service_count;
};

/* 0 or -ENOMEM. Both peers have that role; the result borrows their services. */
MUST_CHECK int config_diff(enum config_role role, const struct config_peer *old,
                           const struct config_peer *new, struct config_diff *ret);
void config_diff_finish(struct config_diff *diff);
/* The changes of the role's own settings: bits of enum config_change. */
unsigned int config_peer_changes(enum config_role role, const struct config_peer *old,
                                 const struct config_peer *new);
/* True if the last service of the old file is not in the new one: so it is with a file that was cut
 * off and is valid all the same. */
bool config_lacks_last(const struct config_peer *old, const struct config_peer *new);
/* Writes the kinds of changes as words ("address, token"), cut to fit. Returns out. */
const char *config_changes_format(unsigned int changes, char *out, size_t out_size);
