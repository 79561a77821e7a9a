/* Sockets: making them, their options, and the few system calls that relays make inline (splice(2)
 * has no ring operation worth using, and a non-blocking call that takes microseconds is cheaper
 * inline). Descriptors are plain ints owned by the caller. No state, any thread. Results: 0 or
 * more, or -errno. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/addr.h"
#include "base/macros.h"

struct pipe;

struct socket_options {
    bool nodelay;
    uint32_t keepalive_secs, keepalive_interval; /* seconds; keepalive_secs 0 = off */
    uint32_t user_timeout_ms;                    /* TCP_USER_TIMEOUT; 0 = the system's */
    bool speaks_first; /* when dialling: bytes follow at once, and carry the handshake's last
                        * acknowledgement along, which saves a packet */
};

/* Options are hints: what the kernel refuses is left at its default. */
void socket_set_options(int fd, const struct socket_options *options);
/* The same for a socket that has other options: also puts back what is off now. */
void socket_change_options(int fd, const struct socket_options *options);
void socket_set_nodelay(int fd, bool nodelay);
void socket_set_user_timeout(int fd, uint32_t timeout_ms);
/* Makes room for a receive window of that size, at once instead of when the kernel finds out; its
 * own tuning goes on from there. */
void socket_widen_window(int fd, int bytes);
/* The kernel takes at most about this much more than it can send (TCP_NOTSENT_LOWAT). */
void socket_set_unsent_limit(int fd, size_t bytes);
/* A close sends an end of stream. Without this it resets a connection that was accepted or dialled
 * here, as does the kernel when the process is killed: an end of stream is never said by accident.
 */
void socket_close_cleanly(int fd);
/* What socket_for_dialing and our listeners see to, for a connection of another listener. */
void socket_prepare_accepted(int fd);

/* A socket for socket_connect_now: non-blocking, close-on-exec, options set. */
MUST_CHECK int socket_for_dialing(const struct addr *to, const struct socket_options *options);

/* Begins connecting, without waiting: 0 = connected (as happens on this machine at once),
 * -EINPROGRESS = poll for writable and look at socket_take_error, or -errno. */
MUST_CHECK int socket_connect_now(int fd, const struct addr *to);

/* The guard of a TCP address: a socket that is bound to it, never listens, and does not allow the
 * reuse of the address. Listeners need SO_REUSEADDR (for connections of a predecessor), and two
 * groups with it may share a port as long as neither listens. The kernel refuses everybody else
 * while there is a guard. join_group: the address is held by a group of ours already. -EADDRINUSE:
 * somebody else has it. */
MUST_CHECK int socket_guard(const struct addr *addr, bool join_group, int *ret_fd);
/* Whether an error of making, binding or connecting a socket is about that address, so that another
 * one of the same name may do: no such family here, no route, nobody there, not allowed. Otherwise
 * there are no descriptors or no memory, and no address would do. */
bool socket_error_is_of_address(int error);

/* Binds count sockets to one TCP address for the workers to share (SO_REUSEPORT), not yet
 * listening; accepted sockets inherit the options. "::" is dual-stack. is_guarded: the caller has
 * the guard, and all join its group. Otherwise the first is bound without SO_REUSEPORT, so a
 * port on which another process listens is refused (-EADDRINUSE) and never shared by accident.
 * On failure nothing is left open. */
MUST_CHECK int socket_bind_group(const struct addr *addr, const struct socket_options *options,
                                 bool is_guarded, int *ret_fds, size_t count);
/* One more member of the group that holds the address already. -EADDRINUSE, -EACCES: it was not
 * made to be joined, or not by this user. */
MUST_CHECK int socket_join_group(const struct addr *addr, const struct socket_options *options,
                                 int *ret_fd);
/* Whether a listener could be bound to the address now: 0 or -errno. Binds for a moment. */
MUST_CHECK int socket_probe(const struct addr *addr, bool is_udp);
/* Gives a listener that was inherited the options of one that was bound here. False: it is somebody
 * else's, who may not know that a close resets unless it is told to be clean (a service manager, or
 * 0.1.0, which serves on with it if this program fails to start). So it is left as it is, and what
 * it accepts needs socket_prepare_accepted. */
MUST_CHECK bool socket_adopt(int fd, const struct addr *addr, const struct socket_options *options);
/* Starts and ends listening. The port stays ours in between, and connections are refused. */
MUST_CHECK int socket_listen(int fd);
void socket_unlisten(int fd);

MUST_CHECK int socket_peer(int fd, struct addr *ret);
/* The pending error, taken out of the socket: 0 or -errno. */
int socket_take_error(int fd);
/* Whether an idle connection is still there, without reading: 1 = bytes wait, 0 = nothing new,
 * ERR_EOF = the peer ended it, -errno = it broke. */
int socket_peek(int fd);
/* Bytes that wait in the send queue or for their acknowledgement. */
uint32_t socket_unsent(int fd);
/* Sends our end of stream. */
void socket_shutdown_send(int fd);

/* One non-blocking call each; -EAGAIN when it would block. Receiving 0 is the end of the stream. */
ssize_t socket_recv_now(int fd, void *buffer, size_t size);
ssize_t socket_send_now(int fd, const void *data, size_t size);
/* As socket_send_now, and socket_shutdown_send or a close follows at once: the end of stream shares
 * the last segment. */
ssize_t socket_send_last(int fd, const void *data, size_t size);
/* Up to max bytes from fd into the empty pipe; pipe->pending_bytes says how many then. */
ssize_t socket_splice_in(int fd, struct pipe *pipe, size_t max);
/* The pipe's bytes to fd; pending_bytes goes down by what it took. */
ssize_t socket_splice_out(struct pipe *pipe, int fd);
