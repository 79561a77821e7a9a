/* Opening data channels. The server's requests reach one worker, that of the control channel, which
 * spreads them over the least busy workers. */
#pragma once

#include <stddef.h>

struct client_session;
struct client_worker;

/* Opens `count` data channels for the session, but not more than LIMIT_CLIENT_CHANNELS_PENDING.
 * Each worker takes its own uses of the session. */
void client_open_channels(struct client_worker *worker, struct client_session *session,
                          size_t count);
