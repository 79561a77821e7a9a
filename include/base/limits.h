/* Every maximum and every default time, each with its reason. Sizes in bytes, times in ms. */
#pragma once

enum limits_config {
    LIMIT_CONFIG_TEXT = 4096,    /* a value; and the names that lead to it, all of them together */
    LIMIT_CONFIG_FILE = 4 << 20, /* a file larger than this is a mistake or an attack */
    LIMIT_SERVICE_NAME = 255,    /* bytes; only its digest travels */
    LIMIT_SERVICES = 4096,       /* per role */
    LIMIT_SECRET = 4000,         /* a token; must fit a value */
    LIMIT_SECRET_MARGIN = 64,    /* what a file with one may have before and behind it */
    LIMIT_WORKERS = 256,         /* more cores than a tunnel can use */
    LIMIT_ACCOUNT_NAME = 64,     /* of a user or a group; Linux' own tools stop at 32 */
};

/* RLIMIT_MEMLOCK that root asks for before it is given away. 8 MiB are enough for 8 workers, where
 * rings count at all. */
enum limits_memlock { LIMIT_MEMLOCK_MIN = 64 << 20, LIMIT_MEMLOCK_WORKER = 1 << 20 };

enum limits_gate {
    LIMIT_PENDING = 256,        /* unauthenticated connections in all: 64 KiB of state */
    LIMIT_PENDING_FDS_PART = 8, /* of the descriptors, at most, or visitors and strangers together
                                 * would keep the clients out */
    LIMIT_PENDING_PER_IP = 64,  /* one address: a client with 64 services logs in at once */
    LIMIT_HANDSHAKE_MS = 5000,  /* accept to authenticated, whatever arrives and how slowly */
    /* Once the gate is half full, a connection without a valid first message makes room after this
     * time. A client's Hello comes with the ACK that completes its connection: a second is enough
     * to resend a lost one. */
    LIMIT_FIRST_BYTE_MS = 1000,
    LIMIT_ROUND_TRIP_MS = 300,    /* younger ones may wait for a distant client's answer: gate.h */
    LIMIT_CLIENTS_KNOWN = 4096,   /* addresses: as many as there may be services */
    LIMIT_CLIENT_KNOWN_S = 86400, /* clients come back within a day */
};

enum limits_pool {
    LIMIT_POOL_MIN = 8,              /* what upstream asks for at login */
    LIMIT_POOL_MAX = 256,            /* idle channels kept for a service's bursts */
    LIMIT_POOL_PARKED = 512,         /* channels offered beyond what was asked for are closed */
    LIMIT_POOL_HOLD_MS = 90000,      /* a burst is remembered that long, then the pool shrinks */
    LIMIT_VISITORS_WAITING = 1024,   /* per service, for a data channel */
    LIMIT_VISITOR_WAIT_MS = 10000,   /* then the visitor is closed */
    LIMIT_CHANNEL_REQUEST_MS = 3000, /* not here by once to twice that: asked for anew */
};

/* Noise handshakes of strangers: one costs 0.1 ms, an authenticated one does not count. */
enum limits_handshakes {
    LIMIT_HANDSHAKES_PER_S = 32, /* of one address: 0.3 % of a core */
    LIMIT_HANDSHAKES_BURST = 512,
    /* Of an address that data channels are expected from: a stranger behind the same NAT must not
     * keep the client out. A tenth of a core. */
    LIMIT_HANDSHAKES_EXPECTED_PER_S = 1000,
    LIMIT_HANDSHAKES_EXPECTED_BURST = 2000,
    LIMIT_HANDSHAKES_ALL_PER_S = 2000, /* of all: a fifth of a core */
    LIMIT_HANDSHAKES_ALL_BURST = 4000,
};

enum limits_client {
    LIMIT_CONNECT_MS = 10000,      /* connect_timeout: to the server, to the local service */
    LIMIT_LOGIN_MS = 15000,        /* an old server stalls 5 s for each silent stranger */
    LIMIT_LOGINS_IN_PROGRESS = 16, /* below the server's cap for one address */
    LIMIT_CLIENT_CHANNELS_PENDING =
        1024,                       /* being opened or parked, per service: a hostile server */
    LIMIT_CHANNEL_RETRY_MS = 10000, /* a data channel is retried that long, as upstream does */
    LIMIT_RETRY_MIN_MS = 500,       /* first back-off of a control channel */
    LIMIT_ADDRESSES = 8,            /* of one name, tried in turn */
    LIMIT_DIAL_FIRST_MS = 250,      /* for one address while others wait, as in RFC 8305; each
                                     * further round doubles it */
    LIMIT_DIAL_WORKED_MS = 600000,  /* an address that worked comes first for as long (RFC 6555) */
};

enum limits_udp {
    LIMIT_UDP_LANES = 256,        /* of a service: more sockets than there are cores help nobody */
    LIMIT_UDP_VISITORS = 65536,   /* max_udp_visitors; and of one channel on the client */
    LIMIT_UDP_TIMEOUT_MS = 60000, /* udp_timeout, as upstream's */
    LIMIT_UDP_SOCKET_BUFFER = 4 << 20, /* for bursts while a worker has no core */
    LIMIT_UDP_SEGMENT = 1472,          /* what UDP_SEGMENT may cut to: larger ones do not fit a
                                        * packet and can't be cut by a device */
    LIMIT_UDP_READ = 256 << 10,        /* one read of a data channel */
    LIMIT_UDP_QUEUE = 1 << 20,         /* waiting for a data channel, of a lane */
    LIMIT_UDP_QUEUE_MIN = 64 << 10,    /* at least this much, however slow the channel is */
    LIMIT_UDP_QUEUE_MS = 200,          /* what waits for longer makes the newest be dropped */
    LIMIT_UDP_FLUSH = 128 << 10,       /* packed bytes that do not wait for the end of the turn */
    LIMIT_UDP_UNSENT = 128 << 10,      /* in the kernel, of a data channel (TCP_NOTSENT_LOWAT) */
    LIMIT_UDP_TRIM_MS = 5000,          /* memory of a burst is given back */
    LIMIT_UDP_PAUSE_US = 1000,         /* datagrams of a dense one-way stream gather for as long */
    LIMIT_UDP_PAUSE_QUIET_MS = 20,     /* since answers came back at a like rate */
    LIMIT_UDP_RETRY_MS = 1000,         /* between two requests for a channel that does not live */
    LIMIT_UDP_DESCRIPTORS = 50,        /* percent of what all visitors may have (udp_descriptors) */
    /* Sockets that go at once when these are used up: the search for whom costs a look at each
     * channel, and a margin is left for workers that open some at the same moment. Of a small share
     * a part. */
    LIMIT_UDP_EVICT_BATCH = 32,
    LIMIT_UDP_EVICT_PART = 16,
    LIMIT_UDP_NEW_PER_TURN =
        64, /* of a channel: a socket is 25 us, and others wait for their turn */
    LIMIT_UDP_PORTS_LEFT_PART = 8, /* of the system's range of ports, to others */
    LIMIT_UDP_KEPT_PART = 8, /* of UDP's share: what TCP visitors leave to it, however many come */
};

enum limits_io {
    LIMIT_SQ_ENTRIES = 256,
    LIMIT_CQ_ENTRIES = 4096,
    LIMIT_BUFFER_SIZE = 16384,      /* one small read; the unit of copy mode */
    LIMIT_FIRST_READ = 16384,       /* of a visitor's bytes, sent together with the command */
    LIMIT_BUFFER_COUNT = 128,       /* per worker: 2 MiB, resident only where it was used */
    LIMIT_BUFFERS_OFFERED = 32,     /* of them, to the kernel at a time; the rest stays untouched */
    LIMIT_PATIENCE_US = 1500,       /* bulk alone: how long completions are gathered ... */
    LIMIT_PATIENCE_COUNT = 8,       /* ... unless there are that many */
    LIMIT_PATIENCE_QUIET_MS = 20,   /* since the last completion that was not bulk */
    LIMIT_BULK_WINDOW = 1 << 20,    /* what a patient loop lets come while it sleeps */
    LIMIT_BULK_BUFFER = 256 << 10,  /* one large read of copy mode under saturation */
    LIMIT_MAILBOX = 1024,           /* messages waiting for one worker */
    LIMIT_PIPE_SIZE = 1 << 20,      /* slots count: 256 of them */
    LIMIT_PIPE_SIZE_MIN = 64 << 10, /* less carries less than a copy */
    LIMIT_PIPES = 256,              /* per worker; a pipe is held only while its sink is full */
    LIMIT_PIPES_FDS_PART = 64,      /* no more than one for so many descriptors there may be */
    LIMIT_WORKER_STACK = 256 << 10, /* musl would give 128 KiB */
    LIMIT_FDS_RESERVED = 32,        /* kept for control channels when visitors use up the rest */
    LIMIT_FDS_RESERVED_UDP = 16,    /* of them, for the data channels of UDP services too */
    LIMIT_ACCEPT_PAUSE_MIN_MS = 5,  /* without descriptors, until the first look */
    LIMIT_ACCEPT_PAUSE_MS = 100,    /* and between two, once they have found nothing */
    LIMIT_RESOLVER_NAMES = 8192,    /* known to the resolver: twice what a role can have */
    LIMIT_RESOLVER_ASKERS = 4096, /* of one name: visitors, with a descriptor each, and services */
    LIMIT_RESOLVER_THREADS = 16,  /* look-ups at a time, of names in the hosts file ... */
    LIMIT_RESOLVER_UNKNOWN = 14,  /* ... of other names, which may turn out slow ... */
    LIMIT_RESOLVER_SLOW = 8,      /* ... and of names that were slow or failed the last time */
    LIMIT_RESOLVER_PATIENCE_MS = 500, /* then the last good addresses have to do */
    LIMIT_RESOLVER_FAILED_MS = 1000,  /* a failure is remembered for as long */
    LIMIT_RESOLVER_IDLE_MS = 10000,   /* then its last thread ends */
    LIMIT_HOSTS_FILE = 64 << 10,      /* of the hosts file is searched, when threads are short */
    LIMIT_INHERITED = 1 << 16,        /* sockets that a process is started with */
};

/* An upgrade: the old process hands its sockets to a new one (app/upgrade.h). */
enum limits_upgrade {
    LIMIT_UPGRADE_START_MS = 30000,    /* the new process has its rings and workers by then */
    LIMIT_UPGRADE_SETTLE_MS = 200,     /* from the last visitor's start to the control channels'
                                        * end: its command reaches the client before that */
    LIMIT_UPGRADE_QUIET_MS = 2000,     /* visitors that wait may still get a channel for as long */
    LIMIT_UPGRADE_HOLD_MS = 10000,     /* services handed over wait that long for their client */
    LIMIT_UPGRADE_PACE_VISITORS = 256, /* of what has gathered by then, waiting for channels */
    LIMIT_UPGRADE_PACE_MS = 2,         /* between two looks whether there are fewer */
};

/* When the other end of a relay is taken for dead (net/silence.h). */
enum limits_silence {
    /* Not acknowledging for that long: retransmissions have been sent after 0.2, 0.6, 1.4, 3, 6, 13
     * and 25 s by then. Rathole and the kernel alone wait for a quarter of an hour. */
    LIMIT_SILENT_MS = 30000,
    LIMIT_SILENT_QUESTIONS =
        4,                    /* and as many unanswered: for paths that lose packets, or are long */
    LIMIT_ASK_MS = 10000,     /* an end that is asked answers within that, or is dead */
    LIMIT_ASK_INTERVAL_S = 2, /* between two questions, in seconds */
    LIMIT_SWEEP_MS = 1000,    /* from one look at all relays to the next */
    LIMIT_SWEEP_STEP = 256,   /* relays in a turn: some 40 us */
};

enum limits_time {
    LIMIT_USER_TIMEOUT_MS = 20000, /* TCP_USER_TIMEOUT of control and UDP data channels */
    LIMIT_DRAIN_MS = 30000,
    LIMIT_HEARTBEAT_INTERVAL_MS = 30000,
    LIMIT_HEARTBEAT_TIMEOUT_MS = 40000,
    LIMIT_BIND_RETRY_MS = 1000, /* a predecessor in teardown still holds the control port */
    LIMIT_START_MS = 500, /* a start waits that long for names of services, and for their ports */
    LIMIT_START_CONTROL_NAME_MS = 30000, /* and for the control port's name: C libraries give up a
                                          * dead name server after 10 to 20 s */
    LIMIT_RELOAD_NAMES_MS = 1000,        /* a reload waits that long for names */
    LIMIT_CHECK_NAMES_MS = 3000,         /* and so does --check */
    LIMIT_ADDRESS_RETRY_MS = 1000,       /* between two attempts at an address that failed */
    LIMIT_ABSENT_MS = 500, /* a loop that is late by as much was stopped, or starved; a busy one is
                            * late by a few ms */
    LIMIT_ABSENT_GRACE_MS = 2000, /* then nothing ends for want of an answer: two round trips over
                                   * any network, and a retransmission */
};
