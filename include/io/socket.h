/* TCP sockets: creating them, their options (socket(7), tcp(7)), and the system calls that relays
 * make inline. Inline calls are non-blocking and take microseconds, which is cheaper than a turn of
 * the ring (docs/decisions.md, "Sends are inline, or together"). The ring's own splice operation
 * goes to worker threads.
 *
 * Descriptors are plain ints that the caller owns. This file has no state; any thread may call. A
 * function that returns int or ssize_t returns 0 or more, or -errno. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/addr.h"
#include "base/macros.h"

struct pipe;

enum { SOCKET_BACKLOG = 4096 /* of listeners; the kernel caps it at somaxconn */ };

struct socket_options {
    bool nodelay;
    uint32_t keepalive_secs, keepalive_interval; /* seconds; keepalive_secs 0 = off */
    uint32_t user_timeout_ms;                    /* TCP_USER_TIMEOUT (RFC 5482); 0 = the system's */
    bool speaks_first; /* when dialling: we send first, at once. The kernel then does not send the
                        * handshake's last ACK by itself, which saves a packet */
};

/* Options are hints: an option that the kernel refuses keeps its default. */
void socket_set_options(int fd, const struct socket_options *options);
/* The same for a socket that has other options by now: also switches off what `options` lacks. */
void socket_change_options(int fd, const struct socket_options *options);
void socket_set_nodelay(int fd, bool nodelay);
void socket_set_user_timeout(int fd, uint32_t timeout_ms);
/* Opens the receive window to `bytes` at once, before the kernel's buffer tuning would. The tuning
 * goes on from there. */
void socket_widen_window(int fd, int bytes);
/* Limits the bytes that the kernel accepts beyond what it can send (TCP_NOTSENT_LOWAT, Linux 3.12).
 * The limit is approximate. */
void socket_set_unsent_limit(int fd, size_t bytes);
/* Makes the close of this socket send an end of stream. Connections that were accepted or dialled
 * here are reset by their close otherwise, also when the kernel closes them for a killed process
 * (SO_LINGER {1, 0}, socket(7)). So an end of stream is never sent by accident. */
void socket_close_cleanly(int fd);
/* Sets what socket_for_dialing and our own listeners set, for a connection that another program's
 * listener has accepted. */
void socket_prepare_accepted(int fd);

/* A socket for socket_connect_now, or for unix_socket_connect if `to` is a unix socket:
 * non-blocking, close-on-exec, with these options. -errno. */
MUST_CHECK int socket_for_dialing(const struct addr *to, const struct socket_options *options);

/* Begins to connect, without waiting. 0: connected, which is usual for an address of this machine.
 * -EINPROGRESS: poll for writable, then ask socket_take_error. Otherwise -errno: it has failed. */
MUST_CHECK int socket_connect_now(int fd, const struct addr *to);

/* Binds the guard of a TCP address: a socket that never listens and has no SO_REUSEADDR. Listeners
 * need SO_REUSEADDR, because connections of a predecessor may be in TIME_WAIT; but two groups of
 * sockets with SO_REUSEADDR may share a port while neither listens. With a guard the kernel refuses
 * every other group. docs/decisions.md, "A guard keeps a service's address". join_group: a group of
 * ours holds the address already. -EADDRINUSE: another program holds it. */
MUST_CHECK int socket_guard(const struct addr *addr, bool join_group, int *ret_fd);
/* Whether an error of creating, binding or connecting a socket concerns that address alone, so that
 * another address of the same name may work: unknown family, no route, nobody there, not allowed.
 * False: there are no descriptors or there is no memory, and any other address would fail too. */
bool socket_error_is_of_address(int error);

/* Binds count sockets to one TCP address for the workers to share (SO_REUSEPORT, socket(7)). They
 * do not listen yet; accepted sockets inherit the options. "::" is dual-stack. is_guarded: the
 * caller has the guard, and all sockets join its group. Otherwise the first socket is bound without
 * SO_REUSEPORT: if another process listens on the port, this fails with -EADDRINUSE instead of
 * sharing the port. On failure nothing is left open. */
MUST_CHECK int socket_bind_group(const struct addr *addr, const struct socket_options *options,
                                 bool is_guarded, int *ret_fds, size_t count);
/* Binds one more member of the group that holds the address. -EADDRINUSE or -EACCES: the group
 * can't be joined, or not by this user. */
MUST_CHECK int socket_join_group(const struct addr *addr, const struct socket_options *options,
                                 int *ret_fd);
/* Whether a listener could be bound to the address now: 0 or -errno. Binds for a moment. */
MUST_CHECK int socket_probe(const struct addr *addr, bool is_udp);
/* Gives an inherited listener the options of a listener that was bound here. False: the listener
 * does not reset on close, because another program made it: a service manager, or version 0.1.0,
 * which goes on to serve with it if this process fails to start. That program does not expect its
 * connections to be reset, so SO_LINGER stays as it is, and each accepted connection needs
 * socket_prepare_accepted. */
MUST_CHECK bool socket_adopt(int fd, const struct addr *addr, const struct socket_options *options);
/* Start and stop listening. While a bound socket does not listen, the port stays ours and
 * connections are refused. */
MUST_CHECK int socket_listen(int fd);
void socket_unlisten(int fd);
/* Takes a connection that waits, from a listener that is about to end: it does not block any more.
 * -EAGAIN: there is none; other -errno. */
MUST_CHECK int socket_accept_last(int fd);

/* The other end's address, and our own. */
MUST_CHECK int socket_peer(int fd, struct addr *ret);
MUST_CHECK int socket_local(int fd, struct addr *ret);
/* The pending error: 0 or -errno. Reading SO_ERROR clears it, so nothing else sees this error. */
int socket_take_error(int fd);
/* Whether an idle connection is still alive, without taking bytes: 1 = bytes are waiting, 0 =
 * nothing new, ERR_EOF = the peer has ended it, -errno = it is broken. Clears SO_ERROR, so it must
 * not run on a socket that a relay owns. */
int socket_peek(int fd);
/* Bytes in the send queue, unsent or not acknowledged (SIOCOUTQ, tcp(7)). 0 on error. */
uint32_t socket_unsent(int fd);
/* Sends our end of stream: shutdown(SHUT_WR). */
void socket_shutdown_send(int fd);

/* One non-blocking call each. Returns the bytes moved, or -errno; -EAGAIN: it would block.
 * socket_recv_now returns 0 at the end of the stream. */
ssize_t socket_recv_now(int fd, void *buffer, size_t size);
/* Like socket_recv_now, but the bytes stay in the socket. */
ssize_t socket_peek_now(int fd, void *buffer, size_t size);
/* The bytes that have to be there before a poll finds the socket readable (SO_RCVLOWAT; tcp(7),
 * Linux 4.18). 1: any. */
void socket_set_low_water(int fd, int bytes);
ssize_t socket_send_now(int fd, const void *data, size_t size);
/* Like socket_send_now, for bytes behind which more follow at once, or socket_shutdown_send or a
 * close. These then share the last segment (MSG_MORE). */
ssize_t socket_send_more(int fd, const void *data, size_t size);
/* Splices up to max bytes from fd into the pipe, which must be empty, and sets pipe->pending_bytes.
 * splice(2) stops at TCP's urgent mark: there -EAGAIN does not mean "empty", and 0 does not mean
 * "ended". A receive has to confirm both. */
ssize_t socket_splice_in(int fd, struct pipe *pipe, size_t max);
/* Splices the pipe's bytes to fd. pipe->pending_bytes goes down by the bytes moved. */
ssize_t socket_splice_out(struct pipe *pipe, int fd);
