/* Every maximum and every default time, each with its reason.
 *
 * Sizes are in bytes and times in milliseconds, unless the name says otherwise. A limit that is the
 * default of an option names the option: the default in force is the text in config/options.c,
 * which tests/config/test_config.c compares with the number here. */
#pragma once

#include <stddef.h>

enum limits_config {
    /* A value; and the section and key names that lead to it, together. Longer than any token. */
    LIMIT_CONFIG_TEXT = 4096,
    LIMIT_CONFIG_FILE = 4 << 20, /* 4,096 services fit; a larger file is a mistake or an attack */
    LIMIT_SERVICE_NAME = 255,    /* for the log and the tables: only the name's digest travels */
    LIMIT_SERVICES = 4096,       /* per role; bounds tables and descriptors */
    LIMIT_RANGE_PORTS = 1 << 16, /* of all ranges of a server: every port once. 40 bytes for each */
    LIMIT_SECRET = 4000,         /* a token or key: it has to fit into LIMIT_CONFIG_TEXT */
    LIMIT_SECRET_MARGIN = 64,    /* byte order mark and white space around the secret in its file */
    LIMIT_WORKERS = 256,         /* more cores than a tunnel can use */
    LIMIT_SECOND_MS = 1000,      /* of an option in whole seconds; tests have shorter ones */
    LIMIT_SOCKS5_CREDENTIAL = 255,   /* user, password: RFC 1929 has one byte for each length */
    LIMIT_ACCESS_FILE = 16 << 20,    /* a list of addresses; each line has up to 50 bytes */
    LIMIT_ACCESS_PREFIXES = 1 << 19, /* of one service's lists: more than public blocklists have */
    LIMIT_ACCOUNT_NAME = 64,         /* a user's or group's name; Linux' own tools stop at 32 */
    LIMIT_SERVER_NAMES = 16,         /* of remote_addr; each may have many addresses */
};

/* RLIMIT_MEMLOCK, raised while the process is still root: rings count against it afterwards. Where
 * they count at all, 8 MiB are enough for 8 workers. */
enum limits_memlock { LIMIT_MEMLOCK_MIN = 64 << 20, LIMIT_MEMLOCK_WORKER = 1 << 20 };

/* Unauthenticated connections (server/gate.h). */
enum limits_gate {
    /* max_pending_handshakes: all of them together. Each costs at most 1 KiB (struct login). */
    LIMIT_PENDING = 256,
    /* They also get no more than this part of the descriptors (1/8): strangers and visitors
     * together must leave some to the clients. */
    LIMIT_PENDING_FDS_PART = 8,
    /* max_pending_handshakes_per_ip: a client with 64 services may log in for all at once. */
    LIMIT_PENDING_PER_IP = 64,
    /* handshake_timeout: from accept to authenticated, however slowly the bytes come. */
    LIMIT_HANDSHAKE_MS = 5000,
    /* While the gate is half full, a connection without a valid first message may be evicted after
     * this time. A client's Hello comes with the ACK that completes its connection; one second is
     * enough to retransmit a lost one. */
    LIMIT_FIRST_BYTE_MS = 1000,
    /* A younger connection may still wait for the round trip of a distant client, so it is evicted
     * only if a coin says so (server/gate.h). */
    LIMIT_ROUND_TRIP_MS = 300,
    /* Newcomers that wait because the gate is full of young connections, which may be clients that
     * all come back at once (server/gate.h). Each costs a descriptor and 64 bytes. */
    LIMIT_GATE_WAITING = 16384,
    LIMIT_GATE_WAITING_FDS_PART = 4, /* and at most this part (1/4) of the descriptors */
    /* What is young: a silent connection, for a round trip, and one that has spoken, for the round
     * trips and the handshake of a busy client. */
    LIMIT_GATE_SILENT_MS = 300,
    LIMIT_GATE_YOUNG_MS = 2000,
    /* Newcomers wait only if a client has come in within this time, or the gate was half empty. */
    LIMIT_GATE_PATIENCE_MS = 2000,
    LIMIT_GATE_WAIT_MS = 10000,   /* clients give a login up after 15 s (LIMIT_LOGIN_MS) */
    LIMIT_CLIENTS_KNOWN = 4096,   /* addresses that clients came from: one for each service */
    LIMIT_CLIENT_KNOWN_S = 86400, /* and how long, in seconds: clients come back within a day */
};

/* A service's idle data channels, and the visitors that wait for one (server/channel_pool.h). */
enum limits_pool {
    LIMIT_POOL_MIN = 8,   /* what rathole's server requests at login */
    LIMIT_POOL_MAX = 256, /* for bursts; each idle channel costs both ends a descriptor */
    /* A client may offer channels that nobody has asked for; those beyond this are closed. */
    LIMIT_POOL_PARKED = 512,
    LIMIT_POOL_HOLD_MS = 90000,    /* a burst keeps the pool large for once to twice this time */
    LIMIT_SESSIONS = 1024,         /* of one service side by side (`clients = balance`) */
    LIMIT_POOL_SOURCE_MIN = 2,     /* with several clients: for a visitor, and for the next one */
    LIMIT_VISITORS_WAITING = 1024, /* per service; each holds a descriptor, more are closed */
    /* While more than this wait, those who have waited so long and have left get no channel. */
    LIMIT_VISITORS_CROWD = 64,
    LIMIT_VISITORS_CROWD_MS = 1000,
    /* max_new_per_second_per_ip: addresses that are remembered, in 3.5 MiB, and the number of times
     * for each (server/visitor_rate.h). */
    LIMIT_RATE_ADDRESSES = 1 << 15,
    LIMIT_RATE_EXACT = 16,
    LIMIT_VISITOR_WAIT_MS = 10000, /* then the visitor is closed; clients retry no longer either */
    /* A request that has brought no channel after once to twice this time is made anew. */
    LIMIT_CHANNEL_REQUEST_MS = 3000,
};

/* PROXY headers that visitors' balancers send (server/arrival.h). */
enum limits_arrival {
    /* The largest header: its addresses have 52 bytes, a certificate in its TLVs some KiB. All but
     * the addresses is passed over, so this costs no memory. */
    LIMIT_PROXY_PROTOCOL = 16 << 10,
    /* Per service: visitors whose header is not there yet. More are closed: each holds a descriptor
     * and 1 KiB, and a balancer sends the header with its first segment. */
    LIMIT_VISITORS_ARRIVING = 1024,
    /* What a visitor may send before the name of its service is known: the largest ClientHello with
     * the headers of its records. It stays in the socket. As many visitors may do so at a time. */
    LIMIT_ROUTE_HEAD = (16 << 10) + 1024,
    LIMIT_ARRIVING_PER_IP = LIMIT_VISITORS_ARRIVING / 4, /* of one address, likewise */
    /* Between two looks at a socket that is readable, and does not show all that it has. */
    LIMIT_ROUTE_LOOK_MS = 100,
};

/* Noise handshakes that unauthenticated peers may make the server compute. One costs 0.1 ms; those
 * of clients that log in are given back. docs/decisions.md, "Strangers take Noise handshakes from a
 * budget". */
enum limits_handshakes {
    LIMIT_HANDSHAKES_PER_S = 32,  /* per address: 0.3 % of a core */
    LIMIT_HANDSHAKES_BURST = 512, /* rathole's client logs in for all its services at once */
    /* Per address that data channels are expected from: a stranger behind the same NAT must not
     * keep the client out. A tenth of a core. */
    LIMIT_HANDSHAKES_EXPECTED_PER_S = 1000,
    LIMIT_HANDSHAKES_EXPECTED_BURST = 2000,
    LIMIT_HANDSHAKES_ALL_PER_S = 2000, /* of all addresses together: a fifth of a core */
    LIMIT_HANDSHAKES_TLS = 10, /* one of TLS counts as so many there: 1.3 ms with an RSA key */
    LIMIT_HANDSHAKES_ALL_BURST = 4000,
    /* One of TLS counts as so many of its address' own: 8 a second are 1 % of a core, and a client
     * that has never been here may still log in for 128 services at once. */
    LIMIT_HANDSHAKES_OWN_MAX = 4,
};

enum limits_tls {
    LIMIT_TLS_FILE = 4 << 20, /* a bundle of all public roots has 220 KiB */
    /* The largest ClientHello, which is held until it is whole: those of browsers have 2 KiB, a
     * ticket may add some. */
    LIMIT_TLS_HELLO = 16 << 10,
    /* What a stranger may send through a link until it has logged in, coded: a WebSocket request
     * has at most 4 KiB, the messages of a login 200 bytes. Key updates of 27 bytes cost 23 us. */
    LIMIT_STRANGER_BYTES = 16 << 10,
    /* Servers whose sessions a client keeps to take them up again, some KiB each: LIMIT_SERVERS,
     * because with a hostname in the configuration one context serves all of them. */
    LIMIT_TLS_KEPT = 64,
    /* The operator is warned so long before a certificate expires: renewals by a timer come weeks
     * before that, so one has failed. */
    LIMIT_CERTIFICATE_WARNING_S = 14 * 24 * 60 * 60,
};

enum limits_client {
    /* connect_timeout: to the server, and to the local service. Behind a proxy: to the proxy, and
     * then again for its dialogue, in which it connects to the server. */
    LIMIT_CONNECT_MS = 10000,
    /* A look-up, or the login: rathole's server stalls for 5 s behind each silent stranger. */
    LIMIT_LOGIN_MS = 15000,
    /* Well below LIMIT_PENDING_PER_IP, so that several clients may share an address. */
    LIMIT_LOGINS_IN_PROGRESS = 16,
    /* Data channels being opened or parked, per service: a hostile server may request any
     * number. */
    LIMIT_CLIENT_CHANNELS_PENDING = 1024,
    LIMIT_CHANNEL_RETRY_MS = 10000, /* a data channel is retried for this long, as by rathole */
    LIMIT_RETRY_MIN_MS = 500,       /* the first back-off of a control channel, as rathole's */
    LIMIT_ADDRESSES = 8,            /* per name, tried in turn */
    /* servers = all: of all names together, and of one. Each costs a control channel per service.
     * DNS answers with more do not fit into a datagram. */
    LIMIT_SERVERS = 64,
    /* servers = all: a service's first login to a server comes within this time at random. */
    LIMIT_LOGIN_SPREAD_MS = 500,
    LIMIT_SERVER_NAME_MS = 1000, /* a look-up, while there are other servers to try */
    /* Per address while others wait (RFC 8305, section 5); doubled in each further round. */
    LIMIT_DIAL_FIRST_MS = 250,
    LIMIT_DIAL_WORKED_MS = 600000, /* an address that worked is tried first (RFC 6555) */
    LIMIT_PROXY_HEADER = 4096,     /* of a proxy's answer; real ones have some 100 bytes */
};

enum limits_udp {
    LIMIT_UDP_LANES = 256, /* per service; more sockets than cores help nobody */
    /* Of one lane, with `clients = balance`: one for each session. Each may hold a megabyte for a
     * moment. With more clients than this, each lane serves others. */
    LIMIT_UDP_CHANNELS = 32,
    LIMIT_UDP_VISITORS = 65536,   /* max_udp_visitors; on the client, per data channel */
    LIMIT_UDP_TIMEOUT_MS = 60000, /* udp_timeout: rathole's constant */
    /* SO_RCVBUF and SO_SNDBUF: room for a burst while the worker has no core. Memory is charged
     * only for datagrams that wait. */
    LIMIT_UDP_SOCKET_BUFFER = 4 << 20,
    /* The largest segment for UDP_SEGMENT: the payload of a 1,500-byte IPv4 packet. A device can't
     * cut into larger ones. */
    LIMIT_UDP_SEGMENT = 1472,
    LIMIT_UDP_READ = 256 << 10, /* one read of a data channel: many frames for one system call */
    LIMIT_UDP_QUEUE = 1 << 20,  /* per lane, waiting for the data channel */
    /* However slow the channel is, its queue takes a datagram of the largest size. */
    LIMIT_UDP_QUEUE_MIN = 64 << 10,
    /* Datagrams older than this are of no use to a live stream: while the oldest has waited for
     * longer, new ones are dropped. */
    LIMIT_UDP_QUEUE_MS = 200,
    LIMIT_UDP_FLUSH = 128 << 10,  /* packed bytes that do not wait for the end of the turn */
    LIMIT_UDP_UNSENT = 128 << 10, /* TCP_NOTSENT_LOWAT: the backlog stays where it can be dropped */
    LIMIT_UDP_TRIM_MS = 5000,     /* unused for this long, the memory of a burst is given back */
    /* docs/decisions.md, "Dense one-way UDP streams gather for up to 1 ms". */
    LIMIT_UDP_PAUSE_US = 1000,
    LIMIT_UDP_PAUSE_QUIET_MS = 20, /* not within this time of answers at a like rate */
    LIMIT_UDP_RETRY_MS = 1000,     /* between two requests if the channel lived no longer */
    LIMIT_UDP_RETIRE_MS = 1000,    /* answers that are late, after the visitors have moved */
    LIMIT_UDP_DESCRIPTORS = 50,    /* udp_descriptors: percent of what all visitors may have */
    /* Sockets that are evicted at once when the share is used up. Finding the channel to take them
     * from costs a look at each, and other workers may open some at the same moment. A small share
     * gives up a sixteenth. */
    LIMIT_UDP_EVICT_BATCH = 32,
    LIMIT_UDP_EVICT_PART = 16,
    /* New visitors of a channel in one turn of the loop: a socket costs 25 us, and others wait. */
    LIMIT_UDP_NEW_PER_TURN = 64,
    /* This part (1/8) of the system's local ports is left to others: finding the last free port of
     * the range is a long search. */
    LIMIT_UDP_PORTS_LEFT_PART = 8,
    /* This part (1/8) of UDP's descriptors stays UDP's, however many TCP visitors come. */
    LIMIT_UDP_KEPT_PART = 8,
};

enum limits_io {
    LIMIT_SQ_ENTRIES = 256,     /* a full queue is submitted early */
    LIMIT_CQ_ENTRIES = 4096,    /* thousands of relays may complete in one turn */
    LIMIT_BUFFER_SIZE = 16384,  /* one small read; the unit of copy mode */
    LIMIT_FIRST_READ = 16384,   /* of a visitor's bytes, sent in one segment with the command */
    LIMIT_BUFFER_COUNT = 128,   /* per worker: 2 MiB, resident only where it was used */
    LIMIT_BUFFERS_OFFERED = 64, /* lent to the kernel, which goes round them: so few stay warm */
    /* docs/decisions.md, "A worker that sees bulk alone is patient": completions gather for this
     * long, or until there are this many, but not within this time of one that was not bulk. */
    LIMIT_PATIENCE_US = 1500,
    LIMIT_PATIENCE_COUNT = 8,
    LIMIT_PATIENCE_QUIET_MS = 20,
    LIMIT_PLACE_MS = 100, /* between two questions where bulk should run (relay_ops.place) */
    LIMIT_STAY_MS = 1000, /* without such a question, after a move has failed */
    /* docs/decisions.md, "Workers let others finish": a worker whose wake-ups wait longer than this
     * for a core, on average, preempts others for this time. */
    LIMIT_CORE_WAIT_US = 1000,
    LIMIT_PREEMPT_MS = 5000,
    LIMIT_BULK_WINDOW = 1 << 20,    /* receive window for bulk: it fills while a loop is patient */
    LIMIT_BULK_BUFFER = 256 << 10,  /* one read of a bulk flow that found no pipe */
    LIMIT_MAILBOX = 1024,           /* messages that wait for one worker; more are refused */
    LIMIT_PIPE_SIZE = 1 << 20,      /* 256 slots of one segment each (io/pipe_pool.h) */
    LIMIT_PIPE_SIZE_MIN = 64 << 10, /* a smaller pipe carries less than a copy */
    LIMIT_PIPES = 256,              /* per worker; a pipe is held only while its sink is full */
    LIMIT_PIPES_FDS_PART = 64,      /* at most one for 64 descriptors; each takes two */
    LIMIT_WORKER_STACK = 256 << 10, /* musl's default is 128 KiB */
    LIMIT_FDS_RESERVED = 32,        /* for control channels once visitors have used up the rest */
    LIMIT_FDS_RESERVED_UDP = 16,    /* of these, also for the data channels of UDP services */
    /* Out of descriptors, accepting pauses: first this long, then twice as long after each look
     * that found none, up to the second. */
    LIMIT_ACCEPT_PAUSE_MIN_MS = 5,
    LIMIT_ACCEPT_PAUSE_MS = 100,
    LIMIT_RESOLVER_NAMES = 8192,  /* remembered: twice as many as a role can have */
    LIMIT_RESOLVER_ASKERS = 4096, /* per name: visitors, each with a descriptor, and services */
    /* Threads, and so look-ups at a time: of names in the hosts file, of other names, which may
     * turn out to be slow, and of names that were slow or failed the last time. */
    LIMIT_RESOLVER_THREADS = 16,
    LIMIT_RESOLVER_UNKNOWN = 14,
    LIMIT_RESOLVER_SLOW = 8,
    LIMIT_RESOLVER_PATIENCE_MS = 500, /* after this the last good addresses have to do */
    LIMIT_RESOLVER_FAILED_MS = 1000,  /* a failure is remembered for this long */
    LIMIT_RESOLVER_IDLE_MS = 10000,   /* the last thread ends after this long without a question */
    LIMIT_HOSTS_FILE = 64 << 10,      /* of the hosts file is searched when threads are short */
    LIMIT_INHERITED = 1 << 16,        /* sockets by LISTEN_FDS: an index fits a lane's id */
};

/* Looks at the configuration file (io/file_watch.h). */
enum limits_watch {
    LIMIT_WATCH_LOOK_MS = 250,   /* so that a change is in force within a second */
    LIMIT_WATCH_AGAIN_MS = 100,  /* unchanged for this long: its writer has stopped */
    LIMIT_WATCH_DOUBT_MS = 2000, /* the same for a file that looks unfinished */
};

/* An upgrade: the old process hands its sockets to a new one (app/upgrade.h). */
enum limits_upgrade {
    LIMIT_UPGRADE_START_MS = 30000, /* each process gives the other this long to answer */
    /* From the last visitor's start to the end of the control channels: the visitor's command has
     * to reach the client before its session ends. */
    LIMIT_UPGRADE_SETTLE_MS = 200,
    LIMIT_UPGRADE_QUIET_MS = 2000, /* visitors that wait may still get a channel for this long */
    LIMIT_UPGRADE_HOLD_MS = 10000, /* services that were handed over wait for their client */
    /* Visitors who gathered in the accept queues by then are accepted only while fewer than this
     * wait for a channel (a quarter of LIMIT_VISITORS_WAITING); between two looks. */
    LIMIT_UPGRADE_PACE_VISITORS = 256,
    LIMIT_UPGRADE_PACE_MS = 2,
};

/* bandwidth, connection_bandwidth (relay/pace.h). */
enum limits_pace {
    /* What is read at a time: 10 ms of the rate keep the CPU's cost per byte low and bursts small.
     * If others use the same bucket, 2 ms, so that a small message does not wait long. */
    LIMIT_PACE_QUANTUM_MS = 10,
    LIMIT_PACE_SHARED_MS = 2,
    LIMIT_PACE_READ_MIN = 4096, /* at low rates: 4 s at 8 kbit/s */
    LIMIT_PACE_WAIT_MIN_MS = 1,
    /* Credit of an unused bucket: a loop that is late by less loses no bandwidth. */
    LIMIT_PACE_DEPTH_MS = 20,
    LIMIT_PACE_UDP_MS = 50, /* the same for datagrams, which are dropped and do not wait */
};

/* When the other end of a relay counts as dead (net/silence.h). */
enum limits_silence {
    /* Nothing was acknowledged for this long. By then the kernel has retransmitted after 0.2, 0.6,
     * 1.4, 3, 6, 13 and 25 s. Rathole leaves it to the kernel, which waits a quarter of an hour. */
    LIMIT_SILENT_MS = 30000,
    LIMIT_SILENT_QUESTIONS = 4, /* and as many unanswered: a path may lose packets, or be long */
    LIMIT_ASK_MS = 10000,       /* an end that gets keepalive probes answers within this time */
    LIMIT_ASK_INTERVAL_S = 2,   /* seconds between two of these probes */
    LIMIT_SWEEP_MS = 1000,      /* between two looks at all relays of a worker */
    LIMIT_SWEEP_STEP = 256,     /* relays per turn of the loop: some 40 us */
    /* A peer at a unix socket has closed it, and the other end neither answers nor ends. Over TCP
     * keepalive ends such a relay, some 60 s after the end of stream (tcp_fin_timeout, tcp(7)). */
    LIMIT_GONE_MS = 60000,
    LIMIT_LINGER_MS = 2000, /* for the FIN of a peer that has said its end with a message */
};

enum limits_time {
    /* TCP_USER_TIMEOUT of control and UDP data channels. Not of relays: docs/decisions.md, "No
     * TCP_USER_TIMEOUT on relays and TCP data channels". */
    LIMIT_USER_TIMEOUT_MS = 20000,
    LIMIT_DRAIN_MS = 30000, /* drain_timeout */
    /* A client that stops: from the end of its control channels until it closes what has no visitor
     * yet. A visitor may have got a parked channel while the end was on its way to the server. */
    LIMIT_CLIENT_PARTING_MS = 500,
    LIMIT_HEARTBEAT_INTERVAL_MS = 30000, /* heartbeat_interval: rathole's default */
    LIMIT_HEARTBEAT_TIMEOUT_MS = 40000,  /* heartbeat_timeout: rathole's default */
    LIMIT_BIND_RETRY_MS = 1000,          /* a predecessor in teardown may hold the control port */
    /* Right after the machine's start this one waits so long for random numbers, then says so and
     * waits on. Kernels from 5.4 on collect some within about two seconds of a wait. */
    LIMIT_RANDOM_TELL_MS = 1000,
    LIMIT_RANDOM_MS = 30000,
    LIMIT_START_MS = 500, /* a start waits for the services' names and ports */
    /* And for the control port's name. C libraries give up a dead name server after 10 to 20 s. */
    LIMIT_START_CONTROL_NAME_MS = 30000,
    LIMIT_RELOAD_NAMES_MS = 1000,  /* a reload waits for names; the rest is tried again later */
    LIMIT_CHECK_NAMES_MS = 3000,   /* --check waits for names */
    LIMIT_ADDRESS_RETRY_MS = 1000, /* between two attempts at an address that failed */
    /* bind = on_login: from the end of the session until the address is free. A client that has
     * lost its connection is back after its first two back-offs, and finds its address. */
    LIMIT_ON_LOGIN_LINGER_MS = 3000,
    /* A loop this late was stopped or had no core; a busy one is late by a few ms. */
    LIMIT_ABSENT_MS = 500,
    /* After an absence no deadline runs for this long: two round trips over any network, and a
     * retransmission (io/schedule.h). */
    LIMIT_ABSENT_GRACE_MS = 2000,
};

/* Times that the end-to-end tests wait for. In developer builds (meson -Dmode=developer) the
 * environment variable RATHOLE_URING_LIMITS shortens them for a process, once, at its start:
 *
 *     RATHOLE_URING_LIMITS="visitor_wait_ms=500,login_ms=700"
 *
 * Release builds have the constants above and do not read the variable.
 *
 * LIMIT_VISITOR_WAIT_MS is the name in both builds: a constant in one, a macro for a member of
 * `limits` in the other. So the code that uses a limit does not know about this, and a release
 * build pays nothing. A member cannot be the size of an array or the value of an enumerator: the
 * compiler refuses that in a developer build.
 *
 * A row: the member, its constant. Add one only for a time that a test waits for. */
#define LIMITS_ADJUSTABLE(ROW)                        \
    ROW(login_ms, LIMIT_LOGIN_MS)                     \
    ROW(second_ms, LIMIT_SECOND_MS)                   \
    ROW(random_tell_ms, LIMIT_RANDOM_TELL_MS)         \
    ROW(random_ms, LIMIT_RANDOM_MS)                   \
    ROW(retry_min_ms, LIMIT_RETRY_MIN_MS)             \
    ROW(visitor_wait_ms, LIMIT_VISITOR_WAIT_MS)       \
    ROW(channel_request_ms, LIMIT_CHANNEL_REQUEST_MS) \
    ROW(watch_look_ms, LIMIT_WATCH_LOOK_MS)           \
    ROW(watch_again_ms, LIMIT_WATCH_AGAIN_MS)         \
    ROW(watch_doubt_ms, LIMIT_WATCH_DOUBT_MS)         \
    ROW(upgrade_start_ms, LIMIT_UPGRADE_START_MS)     \
    ROW(upgrade_quiet_ms, LIMIT_UPGRADE_QUIET_MS)     \
    ROW(upgrade_hold_ms, LIMIT_UPGRADE_HOLD_MS)       \
    ROW(silent_ms, LIMIT_SILENT_MS)                   \
    ROW(ask_ms, LIMIT_ASK_MS)                         \
    ROW(sweep_ms, LIMIT_SWEEP_MS)                     \
    ROW(gone_ms, LIMIT_GONE_MS)                       \
    ROW(user_timeout_ms, LIMIT_USER_TIMEOUT_MS)       \
    ROW(absent_ms, LIMIT_ABSENT_MS)                   \
    ROW(absent_grace_ms, LIMIT_ABSENT_GRACE_MS)       \
    ROW(address_retry_ms, LIMIT_ADDRESS_RETRY_MS)     \
    ROW(reload_names_ms, LIMIT_RELOAD_NAMES_MS)       \
    ROW(check_names_ms, LIMIT_CHECK_NAMES_MS)         \
    ROW(on_login_linger_ms, LIMIT_ON_LOGIN_LINGER_MS)

#ifdef LIMITS_FROM_ENVIRONMENT
/* The constants again, under names that no macro replaces. */
#define LIMITS_ROW(member, constant) limits_##member = (constant),
enum limits_default { LIMITS_ADJUSTABLE(LIMITS_ROW) };
#undef LIMITS_ROW

#define LIMITS_ROW(member, constant) unsigned int member;
struct limits {
    LIMITS_ADJUSTABLE(LIMITS_ROW)
};
#undef LIMITS_ROW

/* Written before the first thread starts, then only read. */
extern struct limits limits;

/* Takes "name=value,...": members, and values from 1 to the constant. NULL changes nothing. Returns
 * 0, or -EINVAL with a problem; then nothing is changed. */
int limits_adjust(const char *text, char *problem, size_t problem_size);
/* The same with the text of the environment variable. */
int limits_from_environment(char *problem, size_t problem_size);

#define LIMIT_LOGIN_MS           limits.login_ms
#define LIMIT_SECOND_MS          limits.second_ms
#define LIMIT_RANDOM_TELL_MS     limits.random_tell_ms
#define LIMIT_RANDOM_MS          limits.random_ms
#define LIMIT_RETRY_MIN_MS       limits.retry_min_ms
#define LIMIT_VISITOR_WAIT_MS    limits.visitor_wait_ms
#define LIMIT_CHANNEL_REQUEST_MS limits.channel_request_ms
#define LIMIT_WATCH_LOOK_MS      limits.watch_look_ms
#define LIMIT_WATCH_AGAIN_MS     limits.watch_again_ms
#define LIMIT_WATCH_DOUBT_MS     limits.watch_doubt_ms
#define LIMIT_UPGRADE_START_MS   limits.upgrade_start_ms
#define LIMIT_UPGRADE_QUIET_MS   limits.upgrade_quiet_ms
#define LIMIT_UPGRADE_HOLD_MS    limits.upgrade_hold_ms
#define LIMIT_SILENT_MS          limits.silent_ms
#define LIMIT_ASK_MS             limits.ask_ms
#define LIMIT_SWEEP_MS           limits.sweep_ms
#define LIMIT_GONE_MS            limits.gone_ms
#define LIMIT_USER_TIMEOUT_MS    limits.user_timeout_ms
#define LIMIT_ABSENT_MS          limits.absent_ms
#define LIMIT_ABSENT_GRACE_MS    limits.absent_grace_ms
#define LIMIT_ADDRESS_RETRY_MS   limits.address_retry_ms
#define LIMIT_RELOAD_NAMES_MS    limits.reload_names_ms
#define LIMIT_CHECK_NAMES_MS     limits.check_names_ms
#define LIMIT_ON_LOGIN_LINGER_MS limits.on_login_linger_ms
#else
/* Nothing can be shortened. */
static inline int limits_from_environment(char *problem, size_t problem_size)
{
    (void)problem, (void)problem_size;
    return 0;
}
#endif
