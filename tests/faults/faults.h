/* Faults at the borders of the program: at the ring (submissions and completions), at the system
 * calls that it makes itself, and at allocation. The linker puts the functions of faults_ring.c and
 * faults_calls.c between the program's objects and the libraries (tests/faults/meson.build), so the
 * product has no hook at all.
 *
 * A fault is planned either by rules (the n-th time that a call could fail in this way) or by a
 * seed. Whether the n-th use of a call fails depends on the seed, the call and n alone, so a seed
 * replays although threads run as they like.
 *
 * Thread-safe, except that rules are set while nothing else runs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* X(NAME, "name", "what it can return"). The names of operations are those of enum loop_op_kind.
 * possible: the errors of its man page that the kernel can return for this use of it; for the
 * operations of the ring also the seven that every operation is forced to return; and what is no
 * error: short, zero, delay, surplus (a second completion after a cancel), no_more (a multishot
 * that has ended), spurious (an event that is none), small (a pipe of 8 KiB). Everything else is
 * impossible, for the reason in faults_table.c. */
#define FAULT_FORCED "ENOBUFS ENOMEM ECANCELED EINTR ECONNRESET EPIPE ETIMEDOUT "
#define FAULT_ACCEPTED                                                                      \
    "EAGAIN ECONNABORTED EMFILE ENFILE EPERM EPROTO EINVAL ENETDOWN ENOPROTOOPT EHOSTDOWN " \
    "EHOSTUNREACH EOPNOTSUPP ENETUNREACH "
#define FAULT_CALLS(X)                                                                           \
    X(ACCEPT, "accept", FAULT_FORCED FAULT_ACCEPTED "delay")                                     \
    X(ACCEPT_MULTISHOT, "accept_multishot", FAULT_FORCED FAULT_ACCEPTED "delay surplus no_more") \
    X(RECV, "recv",                                                                              \
      FAULT_FORCED "EAGAIN ECONNREFUSED EHOSTUNREACH ENETUNREACH ENOTCONN short delay surplus")  \
    X(RECV_SELECT, "recv_select",                                                                \
      FAULT_FORCED "EAGAIN ECONNREFUSED EHOSTUNREACH ENETUNREACH ENOTCONN short delay surplus")  \
    X(SEND, "send",                                                                              \
      FAULT_FORCED "EAGAIN EHOSTUNREACH ENETUNREACH ENOTCONN EPERM short delay surplus")         \
    X(POLL, "poll", FAULT_FORCED "zero delay surplus spurious")                                  \
    X(POLL_MULTISHOT, "poll_multishot", FAULT_FORCED "zero delay spurious no_more")              \
    X(NOP, "nop", FAULT_FORCED "delay")                                                          \
    X(CANCEL, "cancel", FAULT_FORCED "ENOENT EALREADY delay")                                    \
    X(CLOSE, "close", FAULT_FORCED "EIO delay")                                                  \
    X(MSG_RING, "msg_ring", FAULT_FORCED "EBADFD EOVERFLOW EPERM EINVAL EOPNOTSUPP delay")       \
    X(SUBMIT, "submit", "EAGAIN EBUSY EINTR ENOMEM short delay")                                 \
    X(WAIT, "wait", "EAGAIN EBUSY EINTR ENOMEM ETIME short delay")                               \
    X(LOOK, "look", "EAGAIN EBUSY EINTR ENOMEM delay")                                           \
    X(RING_SETUP, "ring_setup", "ENOMEM EPERM ENOSYS EINVAL EMFILE ENFILE delay")                \
    X(RING_REGISTER, "ring_register", "ENOMEM EPERM EINVAL EBUSY delay")                         \
    X(RING_BUFFERS, "ring_buffers", "ENOMEM EINVAL EEXIST EPERM delay")                          \
    X(RING_ENTER, "ring_enter", "EPERM ENOSYS EAGAIN delay")                                     \
    X(SOCKET, "socket()",                                                                        \
      "EMFILE ENFILE ENOBUFS ENOMEM EACCES EAFNOSUPPORT EPROTONOSUPPORT EINVAL delay")           \
    X(BIND, "bind()", "EADDRINUSE EADDRNOTAVAIL EACCES EINVAL ENOMEM ENOBUFS EPERM delay")       \
    X(LISTEN, "listen()", "EADDRINUSE ENOMEM EOPNOTSUPP delay")                                  \
    X(CONNECT, "connect()",                                                                      \
      "EINPROGRESS EALREADY EADDRNOTAVAIL ECONNREFUSED ECONNRESET EHOSTUNREACH ENETUNREACH "     \
      "ETIMEDOUT EAGAIN EACCES EPERM ENOBUFS ENOMEM EINVAL EAFNOSUPPORT delay")                  \
    X(SETSOCKOPT, "setsockopt()", "ENOMEM ENOBUFS EPERM EINVAL ENOPROTOOPT delay")               \
    X(GETSOCKOPT, "getsockopt()", "ENOBUFS ENOMEM EINVAL ENOPROTOOPT EOPNOTSUPP delay")          \
    X(SHUTDOWN, "shutdown()", "ENOTCONN delay")                                                  \
    X(SEND_NOW, "send()",                                                                        \
      "EAGAIN EINTR ECONNRESET EPIPE ENOBUFS ENOMEM ETIMEDOUT EHOSTUNREACH ENETUNREACH "         \
      "EPERM ENOTCONN short delay")                                                              \
    X(RECV_NOW, "recv()",                                                                        \
      "EAGAIN EINTR ECONNRESET ETIMEDOUT ENOMEM ENOBUFS ECONNREFUSED EHOSTUNREACH "              \
      "ENETUNREACH ENOTCONN short delay")                                                        \
    X(SPLICE_IN, "splice_in()",                                                                  \
      "EAGAIN EINTR ENOMEM EINVAL ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH ENOTCONN "       \
      "short zero delay")                                                                        \
    X(SPLICE_OUT, "splice_out()",                                                                \
      "EAGAIN EINTR ENOMEM ENOBUFS EPIPE ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH "         \
      "EPERM short delay")                                                                       \
    X(SENDMMSG, "sendmmsg()",                                                                    \
      "EAGAIN EINTR ECONNREFUSED EHOSTUNREACH ENETUNREACH EMSGSIZE ENOBUFS ENOMEM EPERM "        \
      "EINVAL EIO EACCES short delay")                                                           \
    X(SENDMSG, "sendmsg()",                                                                      \
      "EAGAIN EINTR ECONNREFUSED EHOSTUNREACH ENETUNREACH EMSGSIZE ENOBUFS ENOMEM EPERM "        \
      "EINVAL EIO EACCES delay")                                                                 \
    X(RECVMMSG, "recvmmsg()",                                                                    \
      "EAGAIN EINTR ECONNREFUSED EHOSTUNREACH ENETUNREACH ENOMEM ENOBUFS short delay")           \
    X(PIPE2, "pipe2()", "EMFILE ENFILE ENOMEM small delay")                                      \
    X(EVENTFD, "eventfd()", "EMFILE ENFILE ENOMEM ENODEV delay")                                 \
    X(EPOLL_CREATE, "epoll_create1()", "EMFILE ENFILE ENOMEM delay")                             \
    X(EPOLL_ADD, "epoll_ctl()", "ENOMEM ENOSPC EPERM delay")                                     \
    X(EPOLL_WAIT, "epoll_wait()", "delay")                                                       \
    X(PTHREAD_CREATE, "pthread_create()", "EAGAIN EPERM delay")                                  \
    X(MMAP, "mmap()", "ENOMEM EAGAIN EPERM delay")                                               \
    X(ALLOC, "malloc()", "ENOMEM")

#define FAULT_ENUM_ROW(name, text, possible) FAULT_##name,
enum fault_call { FAULT_CALLS(FAULT_ENUM_ROW) FAULT_CALL_COUNT };
#undef FAULT_ENUM_ROW

enum fault_what {
    FAULT_NOTHING,
    FAULT_ERROR,
    FAULT_SHORT,
    FAULT_ZERO,
    FAULT_DELAY,
    FAULT_SURPLUS,
    FAULT_NO_MORE,
    FAULT_SPURIOUS,
    FAULT_SMALL,
};

enum { FAULT_DELAY_MS = 20 };

struct fault {
    enum fault_what what;
    int error; /* positive, for FAULT_ERROR */
};

/* ---- the table ---- */

/* All failures that there are, by number; NULL behind the last. */
const char *fault_name(unsigned int failure);
struct fault fault_of(unsigned int failure);
const char *fault_call_name(enum fault_call call);
bool fault_is_possible(enum fault_call call, unsigned int failure);
/* Why a failure is impossible. NULL: it is possible, or nobody has said why it is not. */
const char *fault_excuse(enum fault_call call, unsigned int failure);

/* ---- the plan ---- */

/* The nth to nth + count - 1 use of the call, counted from 1, of those that can fail in this
 * way. */
void faults_add(enum fault_call call, unsigned int failure, uint64_t nth, uint64_t count);
/* Each use of a call fails with this probability, in a way that the seed draws. only: of this call
 * alone, or FAULT_CALL_COUNT for all. */
void faults_draw(uint64_t seed, unsigned int permille, enum fault_call only);
/* What the plan is about: the call and the failure of its first rule, or a seed (not 0) and the call
 * that it is for, or FAULT_CALL_COUNT. */
struct fault_plan {
    enum fault_call call;
    unsigned int failure;
    uint64_t seed;
};
struct fault_plan faults_plan(void);
/* No rule and no seed. Counts begin anew. */
void faults_clear(void);
/* Rules from a text: "CALL:FAILURE[:NTH[:COUNT]]" or "seed=N[:permille=N[:call=CALL]]", separated
 * by commas. False: it is none. */
MUST_CHECK bool faults_parse(const char *text);
/* Whether each fault is told on standard error. */
void faults_tell(bool tell);

/* How often a fault happened since the last faults_clear; how often the call was made. */
uint64_t faults_happened(void);
uint64_t faults_uses(enum fault_call call);

/* While exempt, this thread's own calls never fail and do not count: for a test's threads. */
void faults_exempt(bool exempt);
/* Blocks that the program's objects have allocated and not freed. */
int64_t faults_blocks(void);

/* ---- for faults_ring.c and faults_calls.c ---- */

#define FAULT_BIT(what) (1u << (what))
#define FAULT_ALL       (~0u)
/* What happens to this use of the call. kinds: those that can happen to it (FAULT_BIT). */
struct fault faults_at(enum fault_call call, unsigned int kinds);
void faults_wait(void);
