/* For --check: listeners of a server's file that conflict with each other, or that could not be
 * bound at the moment. This layer knows no network, so the caller resolves names and probes
 * addresses (struct config_network). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"
#include "config/config.h"

struct config_network {
    void *owner;
    /* Fills ret with the addresses of a name (of an address: itself) and returns their number. 0:
     * the name cannot be resolved now. */
    size_t (*find)(void *owner, const struct host_port *name, struct addr ret[LIMIT_ADDRESSES]);
    /* 0 if a listener could be bound now, or -errno. addr is one of the name's addresses. */
    int (*probe)(void *owner, const struct host_port *name, const struct addr *addr, bool is_udp);
};

/* Appends to the report: an error for a service that wants the control port's address, a warning
 * for one that wants an earlier service's, which keeps it; and a warning for each address that
 * cannot be bound now. */
void config_check_addresses(const char *path, const struct config_peer *server,
                            const struct config_network *network, struct config_report *report);

enum { CONFIG_TAKEN_SIZE = 1400 };
/* Writes "FILE:LINE: server.services.b.bind_addr: HOST:PORT is taken by
 * server.services.a.bind_addr in line N". first NULL: taken by server.bind_addr. Returns out. */
const char *config_taken_text(const char *path, const struct config_peer *server,
                              const struct config_service *second,
                              const struct config_service *first,
                              char out[static CONFIG_TAKEN_SIZE]);
