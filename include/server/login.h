/* A connection to the control port from accept to authenticated: at most one fixed struct, under
 * one deadline, with a place at the gate. It ends as a control channel, as a data channel, or
 * closed. Owned by its worker. */
#pragma once

struct server_worker;
struct slab;

/* Takes a just accepted descriptor over. */
void login_begin(struct server_worker *worker, int fd);
/* The gate has given places away: closes those logins. */
void login_close_evicted(struct server_worker *worker);
void login_close_all(struct server_worker *worker);
/* Prepares the worker's slab of these. */
void login_init_slab(struct slab *slab);
