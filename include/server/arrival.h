/* The arrival of a visitor that has to send something before it is admitted. Other visitors do not
 * pass here.
 *
 * Behind a balancer that the service trusts (accept_proxy_protocol) it is a PROXY header: the
 * balancer sends a PROXY header in front of the visitor's bytes, which says where the visitor comes
 * from.
 *
 * The header is taken without a byte behind it: it is peeked at, and taken when it is complete.
 * What is peeked at of an incomplete one belongs to it and is taken at once, so that the next look
 * finds the socket empty. Of a long header only the beginning is kept.
 *
 * At an address that several services share (config/routes.h) it is the name of the service
 * (server/route.h). What has come is peeked at and stays in the socket; a poll waits for the number
 * of bytes without which another look would say the same (SO_RCVLOWAT). Anybody may come there, so
 * a gate of its own (server/gate.h) bounds those whose name is not known, in total and per address.
 *
 * All of it has to be there handshake_timeout after the accept. Until then a visitor costs its
 * descriptor and its struct; LIMIT_VISITORS_ARRIVING bounds their number. max_connections counts it
 * from its admission on, when its address is known. */
#pragma once

#include <stdbool.h>

struct visitor;

/* For visitor_new. */
void arrival_init(struct visitor *visitor);
/* Reads what a visitor in state SEEKING has to send first, then has it admitted. needs_header: a
 * PROXY header; what comes behind it, or first, is looked at if its service is a front. May free
 * the visitor. */
void arrival_begin(struct visitor *visitor, bool needs_header);
/* Ends it if its service is down; goes on if it awaits its service's client. May free it. */
void arrival_review(struct visitor *visitor);
/* Closes visitors of this worker that had to leave the gate for others. */
struct server_worker;
void arrival_close_evicted(struct server_worker *worker);
/* Whether the visitor arrives, or was closed then and is not free yet. */
bool arrival_is_under_way(const struct visitor *visitor);
/* Closes an arriving visitor. It is freed when its poll has ended. Idempotent. */
void arrival_end(struct visitor *visitor);
