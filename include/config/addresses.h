/* What a server's file asks for at addresses that are taken by itself, or can't be had now. Names
 * are looked up and addresses tried by the caller: this layer knows no network. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"
#include "config/config.h"

struct config_network {
    void *owner;
    /* The addresses of a name, or the one that it is. 0: there is none now. */
    size_t (*find)(void *owner, const struct host_port *name, struct addr ret[LIMIT_ADDRESSES]);
    /* Whether a listener could be bound now: 0 or -errno. */
    int (*probe)(void *owner, const struct addr *addr, bool is_udp);
};

/* Appends what the addresses of [server] have against each other (an error where the control port
 * is concerned, else a warning: the first of them gets the address), and warnings about those that
 * can't be had at the moment. */
void config_check_addresses(const char *path, const struct config_peer *server,
                            const struct config_network *network, struct config_report *report);

enum { CONFIG_TAKEN_SIZE = 1400 };
/* "FILE:LINE: server.services.b.bind_addr: HOST:PORT is taken by server.services.a.bind_addr in
 * line N". first NULL: by server.bind_addr. Returns out. */
const char *config_taken_text(const char *path, const struct config_peer *server,
                              const struct config_service *second,
                              const struct config_service *first,
                              char out[static CONFIG_TAKEN_SIZE]);
