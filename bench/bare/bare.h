/* What the kernel alone costs: a chain of two plain forwarders, a peer of bench/run. A forwarder is a
 * process with one thread, no protocol, no log, no limits and no timeouts; of errors it knows that the
 * other end has to go as well. bench/README.md, "What the kernel alone costs". */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>

#include "../standalone.h"

struct bare {
    struct sockaddr_in here, onward;
    bool is_server; /* the visitors' end of the chain */
};

/* Each forwards from `here` to `onward` until the process is killed. */
_Noreturn void bare_splice(const struct bare *bare);
_Noreturn void bare_copy(const struct bare *bare);
_Noreturn void bare_udp(const struct bare *bare);
_Noreturn void bare_udp_segments(const struct bare *bare);

int bare_listen(const struct bare *bare);
/* A socket that is to be connected to bare->onward. */
int bare_socket(const struct bare *bare);
