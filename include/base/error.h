/* Results of functions: 0 or more for success, -errno for what the kernel knows, and the codes
 * below, which lie beyond the range of errno, for what it does not. base, crypto, proto, config and
 * io return errors; net, tunnel and app log them, once. */
#pragma once

enum error_code {
    ERR_FIRST = -10000,
    ERR_PROTOCOL = ERR_FIRST, /* bytes that the protocol does not allow here */
    ERR_VERSION = -9999,      /* the peer speaks another protocol version */
    ERR_NO_SERVICE = -9998,   /* the server has no service of this name */
    ERR_AUTH = -9997,         /* the token is wrong */
    ERR_EOF = -9996,          /* the peer ended the stream before its message was whole */
    ERR_DEADLINE = -9995,     /* the time for this step is over */
    ERR_CONFIG = -9994,       /* the configuration has errors, already listed */
    ERR_RESOLVE = -9993,      /* a host name has no usable address */
    ERR_REPLACED = -9992,     /* a newer control channel took over */
    ERR_LIMIT = -9991,        /* a limit of ours is reached */
    ERR_HANDSHAKE = -9990,    /* the Noise handshake failed: keys or patterns differ */
    ERR_TRUNCATED = -9989,    /* the stream ended inside an encrypted message */
    ERR_RECONFIGURED = -9988, /* a reload has changed what this depends on */
    ERR_NOT_A_FILE = -9987,   /* a FIFO, a device or a socket where a file is read */
    ERR_UNACKED = -9986,      /* what was sent has not been acknowledged for too long */
    ERR_SILENT = -9985,       /* no answer when asked */
    ERR_LAST = ERR_SILENT,
};

/* A short text for a result of either kind ("connection refused", "wrong token"). Never NULL; valid
 * for ever; any thread. */
const char *error_text(int error);
