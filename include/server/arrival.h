/* The arrival of a visitor behind a balancer that the service trusts (accept_proxy_protocol): the
 * balancer sends a PROXY header in front of the visitor's bytes, which says where the visitor comes
 * from. Other visitors do not pass here.
 *
 * The header is taken without a byte behind it: it is peeked at, and taken when it is complete.
 * What is peeked at of an incomplete one belongs to it and is taken at once, so that the next look
 * finds the socket empty. Of a long header only the beginning is kept.
 *
 * All of it has to be there handshake_timeout after the accept. Until then a visitor costs its
 * descriptor and its struct; LIMIT_VISITORS_ARRIVING bounds their number. max_connections counts it
 * from its admission on, when its address is known. */
#pragma once

#include <stdbool.h>

struct visitor;

/* For visitor_new. */
void arrival_init(struct visitor *visitor);
/* Reads the header of a visitor in state SEEKING, then has it admitted. May free the visitor. */
void arrival_begin(struct visitor *visitor);
/* Whether the visitor arrives, or was closed then and is not free yet. */
bool arrival_is_under_way(const struct visitor *visitor);
/* Closes an arriving visitor. It is freed when its poll has ended. Idempotent. */
void arrival_end(struct visitor *visitor);
