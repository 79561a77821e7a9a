/* A UDP data channel on the client, from its command on: each visitor that the server sends frames
 * of gets a socket of its own, connected to the local service, and what comes back on it goes out
 * as frames of that visitor.
 *
 *     server --> data channel --> frames by visitor --> sockets --> local service
 *     server <-- data channel <-- one send per turn  <-- sockets <-- local service
 *
 * The server may open any number of these; each stands alone, on the worker that opened it, and
 * ends with its data channel. A visitor's address is a mere key and is echoed as it came. Its
 * socket lives until nothing has moved for udp_timeout, or until descriptors, ports or memory are
 * needed for another and it has been silent for longest of the channel with most (udp_share.h). A
 * local service that refuses is tried again with each datagram, at its next address if it has
 * several. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct client_service;
struct client_worker;
struct slab;
struct stream;

/* Takes the stream over, unless it fails (-ENOMEM). */
MUST_CHECK int forward_begin(struct client_worker *worker, struct client_service *service,
                             struct stream *stream);
/* Those of this worker and that service: closes them; their local service has another address; or
 * udp_timeout may have changed. */
void forward_close_of(struct client_worker *worker, const struct client_service *service);
void forward_change_local(struct client_worker *worker, const struct client_service *service);
void forward_review_timeout(struct client_worker *worker, const struct client_service *service);
/* Closes all of this worker; worker->forwards is empty when that is done. */
void forward_close_all(struct client_worker *worker);
/* A connection has found no descriptor: closes some of the visitors that have been silent for
 * longest. True: now there are some; false: there will be, if another worker has visitors, or else
 * UDP has no more than what is kept for it. */
bool forward_yield(struct client_worker *worker);
/* TUNNEL_SIGNAL_DESCRIPTORS: another worker wants what this one can give. */
void forward_give_up(struct client_worker *worker);
/* Prepares the worker's slab of visitors. */
void forward_init_slab(struct slab *slab);
