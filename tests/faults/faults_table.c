/* Which call can fail in which way, and why not in the others. */
#include <errno.h>
#include <string.h>

#include "faults.h"

static const char *const call_names[] = {
#define ROW(name, text, possible) text,
    FAULT_CALLS(ROW)
#undef ROW
};

static const char *const possible_failures[] = {
#define ROW(name, text, possible) possible,
    FAULT_CALLS(ROW)
#undef ROW
};

#define ERRORS(X)      \
    X(EACCES)          \
    X(EADDRINUSE)      \
    X(EADDRNOTAVAIL)   \
    X(EAFNOSUPPORT)    \
    X(EAGAIN)          \
    X(EALREADY)        \
    X(EBADFD)          \
    X(EBUSY)           \
    X(ECANCELED)       \
    X(ECONNABORTED)    \
    X(ECONNREFUSED)    \
    X(ECONNRESET)      \
    X(EEXIST)          \
    X(EHOSTDOWN)       \
    X(EHOSTUNREACH)    \
    X(EINPROGRESS)     \
    X(EINTR)           \
    X(EINVAL)          \
    X(EIO)             \
    X(EMFILE)          \
    X(EMSGSIZE)        \
    X(ENETDOWN)        \
    X(ENETUNREACH)     \
    X(ENFILE)          \
    X(ENOBUFS)         \
    X(ENODEV)          \
    X(ENOENT)          \
    X(ENOMEM)          \
    X(ENOPROTOOPT)     \
    X(ENOSPC)          \
    X(ENOSYS)          \
    X(ENOTCONN)        \
    X(EOPNOTSUPP)      \
    X(EOVERFLOW)       \
    X(EPERM)           \
    X(EPIPE)           \
    X(EPROTO)          \
    X(EPROTONOSUPPORT) \
    X(ETIME)           \
    X(ETIMEDOUT)

static const struct {
    const char *name;
    struct fault fault;
} failures[] = {
#define ROW(error) {#error, {FAULT_ERROR, error}},
    ERRORS(ROW)
#undef ROW
        {"short", {FAULT_SHORT, 0}},
    {"zero", {FAULT_ZERO, 0}},
    {"delay", {FAULT_DELAY, 0}},
    {"surplus", {FAULT_SURPLUS, 0}},
    {"no_more", {FAULT_NO_MORE, 0}},
    {"spurious", {FAULT_SPURIOUS, 0}},
    {"small", {FAULT_SMALL, 0}},
};

const char *fault_name(unsigned int failure)
{
    return failure < ARRAY_SIZE(failures) ? failures[failure].name : NULL;
}

struct fault fault_of(unsigned int failure)
{
    return failures[failure].fault;
}

const char *fault_call_name(enum fault_call call)
{
    return call_names[call];
}

bool fault_is_possible(enum fault_call call, unsigned int failure)
{
    const char *name = failures[failure].name;
    size_t size = strlen(name);
    for (const char *at = possible_failures[call]; *at != '\0'; at += strcspn(at, " ")) {
        at += strspn(at, " ");
        if (strcspn(at, " ") == size && memcmp(at, name, size) == 0)
            return true;
    }
    return false;
}

/* ---- what can't happen ---- */

static const char *error_excuse(enum fault_call call)
{
    if (call <= FAULT_POLL_MULTISHOT)
        return "the kernel has no path that ends this operation with it; what is left are errors "
               "of a wrong argument, and the descriptor is the loop's own";
    if (call <= FAULT_MSG_RING)
        return "nobody reads its result";
    if (call <= FAULT_RING_ENTER)
        return "io_uring_enter(2), io_uring_setup(2) and io_uring_register(2) return it only for "
               "arguments that the loop never passes";
    if (call == FAULT_EPOLL_WAIT)
        return "without a wait it has no error but those of a wrong argument";
    if (call == FAULT_ALLOC)
        return "malloc(3) has one error";
    return "its man page has it for wrong arguments or for other kinds of sockets, or not at all";
}

static bool is_receive(enum fault_call call)
{
    return call == FAULT_RECV || call == FAULT_RECV_SELECT || call == FAULT_RECV_NOW;
}

static bool is_write(enum fault_call call)
{
    return call == FAULT_SEND || call == FAULT_SEND_NOW || call == FAULT_SPLICE_OUT;
}

static const char *zero_excuse(enum fault_call call)
{
    if (call == FAULT_ACCEPT || call == FAULT_ACCEPT_MULTISHOT)
        return "descriptor 0 is taken at the start (A90)";
    if (is_receive(call))
        return "it is the end of the stream, which the scenarios have; said before the end it "
               "would "
               "be a lie that no kernel tells";
    if (is_write(call))
        return "something is always asked for, and then at least a byte is sent";
    return "0 is success, or there is no such result";
}

static const char *short_excuse(enum fault_call call)
{
    if (call == FAULT_EPOLL_WAIT)
        return "it returns all events that there are room for";
    if (call == FAULT_SENDMSG)
        return "a datagram is sent whole or not at all";
    return "it has no count";
}

const char *fault_excuse(enum fault_call call, unsigned int failure)
{
    if (fault_is_possible(call, failure))
        return NULL;
    switch (failures[failure].fault.what) {
    case FAULT_NOTHING:
        return NULL;
    case FAULT_ERROR:
        return error_excuse(call);
    case FAULT_SHORT:
        return short_excuse(call);
    case FAULT_ZERO:
        return zero_excuse(call);
    case FAULT_DELAY:
        return call == FAULT_ALLOC ? "a late allocation is a late callback, as the other delays"
                                   : NULL;
    case FAULT_SURPLUS:
        return call == FAULT_ACCEPT
                   ? "only a reload cancels single accepts; their callback is that of "
                     "accept_multishot"
                   : "nobody cancels it";
    case FAULT_NO_MORE:
        return "it is no multishot";
    case FAULT_SPURIOUS:
        return "it is no poll";
    case FAULT_SMALL:
        return "it makes no pipe";
    }
    return NULL;
}
