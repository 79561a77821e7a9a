#include "base/error.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/macros.h"

static const char *const own_texts[] = {
    [ERR_PROTOCOL - ERR_FIRST] = "protocol error",
    [ERR_VERSION - ERR_FIRST] = "the peer speaks another protocol version",
    [ERR_NO_SERVICE - ERR_FIRST] = "the server has no service of this name",
    [ERR_AUTH - ERR_FIRST] = "wrong token",
    [ERR_EOF - ERR_FIRST] = "connection ended in the middle of a message",
    [ERR_DEADLINE - ERR_FIRST] = "deadline exceeded",
    [ERR_CONFIG - ERR_FIRST] = "configuration error",
    [ERR_RESOLVE - ERR_FIRST] = "the host name has no usable address",
    [ERR_REPLACED - ERR_FIRST] = "replaced by a newer control channel",
    [ERR_LIMIT - ERR_FIRST] = "limit reached",
    [ERR_HANDSHAKE - ERR_FIRST] = "the handshake failed",
    [ERR_TRUNCATED - ERR_FIRST] = "connection cut inside a message",
    [ERR_RECONFIGURED - ERR_FIRST] = "the configuration has changed",
    [ERR_NOT_A_FILE - ERR_FIRST] = "not a regular file",
    [ERR_UNACKED - ERR_FIRST] = "nothing was acknowledged for too long",
    [ERR_SILENT - ERR_FIRST] = "no answer to keepalive probes",
    [ERR_ALERT - ERR_FIRST] = "the peer ended TLS with an alert (a client certificate?)",
    [ERR_PROXY - ERR_FIRST] = "the proxy refused or closed the connection",
    [ERR_REFUSED - ERR_FIRST] = "the server refused the login; it may be at full capacity",
    [ERR_SANDBOX - ERR_FIRST] =
        "outside the directories that the sandbox has left to this process: restart it",
};
static_assert(ARRAY_SIZE(own_texts) == ERR_LAST - ERR_FIRST + 1, "a text for each code");
static_assert(ERR_LAST < -4095, "beyond the range of errno");

/* The errors that a tunnel meets every day, in the same words with every C library. */
static const char *const errno_texts[] = {
    [EACCES] = "permission denied",
    [EADDRINUSE] = "address in use",
    [EADDRNOTAVAIL] = "address not available",
    [EAGAIN] = "temporarily unavailable",
    [EBADMSG] = "a message is damaged or forged",
    [EBUSY] = "busy",
    [ECANCELED] = "cancelled",
    [ECONNABORTED] = "connection aborted",
    [ECONNREFUSED] = "connection refused",
    [ECONNRESET] = "connection reset by peer",
    [EHOSTUNREACH] = "no route to host",
    [EINVAL] = "invalid argument",
    [EIO] = "input/output error",
    [EMFILE] = "too many open files",
    [ENETUNREACH] = "network unreachable",
    [ENFILE] = "too many open files in the system",
    [ENOBUFS] = "no buffer space",
    [ENOENT] = "no such file or directory",
    [ENOMEM] = "out of memory",
    [ENOSYS] = "not supported by this kernel",
    [EPERM] = "operation not permitted",
    [EPIPE] = "broken pipe",
    [ETIMEDOUT] = "timed out",
};

/* A constant, or NULL. glibc's strerror(3) may build its text in a buffer that does not last. */
static const char *libc_text(int number)
{
#ifdef __GLIBC__
    return strerrordesc_np(number);
#else
    return strerror(number); /* musl: always a constant */
#endif
}

const char *error_text(int error)
{
    if (error >= 0)
        return "success";
    if (error >= ERR_FIRST && error <= ERR_LAST)
        return own_texts[error - ERR_FIRST];
    if (error < -4095) /* also INT_MIN, which cannot be negated */
        return "unknown error";
    size_t number = (size_t)-error;
    if (number < ARRAY_SIZE(errno_texts) && errno_texts[number] != NULL)
        return errno_texts[number];
    const char *text = libc_text(-error);
    return text != NULL ? text : "unknown error";
}
