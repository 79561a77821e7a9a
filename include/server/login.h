/* A connection to the control port from accept to authenticated: at most one fixed struct, under
 * one deadline, with a place at the gate. It ends as a control channel, as a data channel, or
 * closed. Owned by its worker. */
#pragma once

struct server_worker;
struct service;
struct slab;

/* Takes over what the control port's listener, whose service is NULL, has just accepted. */
void login_begin(struct server_worker *worker, struct service *service, int fd);
/* The gate has given places away: closes those logins. */
void login_close_evicted(struct server_worker *worker);
void login_close_all(struct server_worker *worker);
/* Prepares the worker's slab of these. */
void login_init_slab(struct slab *slab);
