/* What a worker does when descriptors run out, and how many strangers may hold. */
#pragma once

#include "config/config.h"

struct server;
struct timer;

/* How many connections may not have logged in yet: as configured, but only so many that neither
 * they nor visitors can take all descriptors. What visitors may have follows from it. */
void server_fds_limit_strangers(struct server *server, const struct config_peer *config);
/* The worker's resume_timer: looks whether there are descriptors again, and accepts. */
void server_fds_resume(struct timer *timer);
