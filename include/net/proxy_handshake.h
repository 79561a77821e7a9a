/* The dialogue with a proxy (proto/proxy.h) as a handshake: the first of a connection. It makes no
 * link; what follows talks to the server itself. */
#pragma once

#include "net/handshake.h"
#include "proto/proxy.h"

/* Copies the request, because a reload may free it while the dialogue runs. A failure is ERR_PROXY;
 * there is no `why` if the proxy has ended the connection. -ENOMEM. */
MUST_CHECK int proxy_handshake_create(const struct proxy_request *request, struct handshake **ret);
/* Copies the texts of a request as well. -ENOMEM; then there is nothing to finish. */
MUST_CHECK int proxy_request_copy(const struct proxy_request *request, struct proxy_request *ret);
/* Wipes and frees a copy, and leaves zeros. */
void proxy_request_finish(struct proxy_request *request);
