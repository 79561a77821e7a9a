/* The results of functions: 0 or more is success, a negative number is -errno or one of the codes
 * below, which lie beyond the range of errno. base, crypto, proto, config and io return errors; the
 * layers above log them, once. */
#pragma once

enum error_code {
    ERR_FIRST = -10000,
    ERR_PROTOCOL = ERR_FIRST, /* the peer sent bytes that the protocol does not allow here */
    ERR_VERSION = -9999,      /* the peer speaks another protocol version */
    ERR_NO_SERVICE = -9998,   /* the server has no service of this name */
    ERR_AUTH = -9997,         /* the token is wrong */
    ERR_EOF = -9996,          /* the peer ended the stream before its message was whole */
    ERR_DEADLINE = -9995,     /* the time for this step is over */
    ERR_CONFIG = -9994,       /* the configuration has errors, which are in its report */
    ERR_RESOLVE = -9993,      /* a host name has no usable address */
    ERR_REPLACED = -9992,     /* a newer control channel took over */
    ERR_LIMIT = -9991,        /* one of our own limits is reached */
    ERR_HANDSHAKE = -9990,    /* the handshake failed: Noise keys or patterns differ, or TLS */
    ERR_TRUNCATED = -9989,    /* the stream ended inside an encrypted message */
    ERR_RECONFIGURED = -9988, /* a reload has changed an option that this connection depends on */
    ERR_NOT_A_FILE = -9987,   /* a FIFO, a device or a socket where a regular file is expected */
    ERR_UNACKED = -9986,      /* the peer has acknowledged nothing for too long (net/silence.h) */
    ERR_SILENT = -9985,       /* the peer did not answer keepalive probes (net/silence.h) */
    ERR_ALERT = -9984,        /* the peer ended TLS with an alert after the handshake */
    ERR_PROXY = -9983,        /* the proxy on the way to the server refused, or is none */
    ERR_REFUSED = -9982,      /* the server refused the login for a reason that we do not know */
    ERR_SANDBOX = -9981,      /* our sandbox, or another one, forbids the file (base/files.h) */
    ERR_LAST = ERR_SANDBOX,
};

/* A short text for a result of either kind ("connection refused", "wrong token"), the same with
 * every C library. A constant, never NULL. Any thread. */
const char *error_text(int error);
