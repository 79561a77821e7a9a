/* A UDP data channel on the client, from its command on. Each visitor that the server sends frames
 * for gets a socket of its own, connected to the local service. Datagrams that arrive at that
 * socket become frames for that visitor.
 *
 *     server --> data channel --> frames by visitor --> sockets --> local service
 *     server <-- data channel <-- one send per turn  <-- sockets <-- local service
 *
 * The server may open any number of these channels. Each belongs to the worker that opened it, and
 * ends with its connection.
 *
 * A visitor's address is only a key, which is echoed as it came. Its socket is closed when nothing
 * has moved for udp_timeout. It is closed earlier if descriptors, ports or memory are needed for
 * others, and the visitor is the longest silent one of the channel with most visitors
 * (udp_share.h). If the local service refuses a datagram, the next one is sent all the same, to its
 * next address if it has several. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct client_service;
struct client_worker;
struct slab;
struct stream;

/* Turns a data channel into a forward, and takes the stream over. -ENOMEM: the stream is still the
 * caller's. */
MUST_CHECK int forward_begin(struct client_worker *worker, struct client_service *service,
                             struct stream *stream);
/* For the worker's forwards of one service: close them; use the changed local_addr; apply a changed
 * udp_timeout. */
void forward_close_of(struct client_worker *worker, const struct client_service *service);
void forward_change_local(struct client_worker *worker, const struct client_service *service);
void forward_review_timeout(struct client_worker *worker, const struct client_service *service);
/* Closes all forwards of the worker. worker->forwards is empty when they are closed. */
void forward_close_all(struct client_worker *worker);
/* To be called when no descriptor is left for a connection: closes some of the longest silent
 * visitors. True: descriptors are free now. False: another worker was asked and may free some soon,
 * or UDP has only its minimum. */
bool forward_yield(struct client_worker *worker);
/* For TUNNEL_SIGNAL_DESCRIPTORS: closes the visitors that another worker has asked for. */
void forward_give_up(struct client_worker *worker);
/* Prepares the worker's slab of UDP visitors. */
void forward_init_slab(struct slab *slab);
