/* Opening data channels: the worker of a control channel spreads what the server asks for over all
 * workers, to those that are least busy. */
#pragma once

#include <stddef.h>

struct client_session;
struct client_worker;

/* Opens `count` data channels for the session, spread over the workers. */
void client_open_channels(struct client_worker *worker, struct client_session *session,
                          size_t count);
