"""The tables: which suites there are, which rows they fill, and which targets a row has.

To add a row, add a Row; to add a load, add it to a Suite. Nothing else has to change: rounds, medians,
ratios, targets, JSON, Markdown and plots all follow from these tables.
"""

from dataclasses import dataclass, replace
from collections.abc import Callable

import flood
import loads
import logins
import netns
from peers import (
    AEAD, DIRECT, HEADED, NOISE, OURS, OURS_BALANCE, OURS_HEADED, OURS_ONE, OURS_ROUTED, OURS_SODIUM,
    OURS_STATIC, OURS_UNCONFINED, PEERS_BY_NAME, TCP, TLS, WEBSOCKET,
)


@dataclass(frozen=True)
class Reference:
    """A figure that one peer reaches before the first round; all loads get it as run.reference."""
    peer: str
    load: Callable
    metric: str
    fallback: float                  # the figure if that peer is missing


@dataclass(frozen=True)
class Suite:
    name: str
    title: str
    loads: tuple                     # (name, function(Run) -> figures)
    service: Callable                # starts the service behind the tunnel
    programs: tuple                  # programs that the load needs on PATH
    place: Callable = netns.Loopback
    default: bool = True
    namespaces: bool = False         # needs network namespaces, and so root
    shaped: bool = False             # their link has a rate
    relay: bool = False              # with a delay relay in front of the control port
    threads: int | None = None       # workers of our server and client, and of rathole's; None = default
    nodes: int = 1                   # servers, all of which the client serves
    services: int = 0                # so many, each of which listens from its login on; 0 = one
    descriptors: int = 0             # that each of its processes may need
    rounds_max: int | None = None
    skip_peers: tuple = ()
    transport: str = TCP             # of the tunnel; peers that lack it are left out
    logins: int = 0                  # services whose clients the load starts
    beside: tuple = ()               # further services of one more local port: (name, line of the server's)
    peers: tuple = ()                # only these; () = all
    bounds: tuple = ()               # with these of the peers that are what the kernel alone costs
    variants: tuple = ()             # and with these variants of our program
    udp: bool = False                # a UDP service; the load is bench/udp_load.c
    reference: Reference | None = None
    axis: str = ""                   # what x is in its rows that have one: "connections"
    varies: Callable | None = None   # x -> what differs in the tunnel of that load, which has one of its own


@dataclass(frozen=True)
class Target:
    """A bound for our figure: as a ratio to a peer's, or (peer None) by itself.

    subject: the peer whose figure it is, if it is not the row's subject.
    beside: a peer whose figure is taken off ours first."""
    op: str
    bound: float
    peer: str | None = None
    subject: str | None = None
    beside: str | None = None

    def reached(self, value):
        return value >= self.bound if self.op == ">=" else value <= self.bound

    def text(self, unit):
        text = f"{self.op} " + (f"{self.beside} + " if self.beside else "")
        text += f"{self.bound:.4g} " + (f"x {self.peer}" if self.peer else unit)
        return text + (f" ({self.subject})" if self.subject else "")


@dataclass(frozen=True)
class Row:
    suite: str
    load: str
    metric: str
    title: str
    unit: str
    better: str                      # "more" or "less"
    targets: tuple = ()
    digits: int = 2
    ends: bool = False               # also shows the figures METRIC_server and METRIC_client
    subject: str = OURS              # the peer whose ratio to the others is shown
    x: float | None = None           # its place on the axis of its suite, if it is a point of a curve
    guarded: bool = True             # bench/guard compares it, if it is a cost: the work is the same for all

    @property
    def is_cost(self):
        """Whether it is processor time per unit of work."""
        return self.metric.endswith("_cpu_us") or (
            self.metric.startswith("cpu_") and "_per_" in self.metric)


def at_least(bound, peer=None, subject=None):
    return Target(">=", bound, peer, subject)


def at_most(bound, peer=None, subject=None, beside=None):
    return Target("<=", bound, peer, subject, beside)


def parts(suite):
    """The suite once for each tunnel that it needs: for all of its loads, or for each of them."""
    if not suite.varies:
        return [suite]
    return [replace(suite, loads=((name, load),), **suite.varies(int(name))) for name, load in suite.loads]


def points(xs, load_of):
    """The loads of a curve."""
    return tuple((str(x), load_of(x)) for x in xs)


def curve(suite, xs, metric, title, unit, better, **more):
    """A figure along the axis of its suite, whose loads have the names of the xs."""
    return tuple(Row(suite, str(x), metric, title, unit, better, x=x, **more) for x in xs)


IPERF = {"service": loads.start_iperf_server, "programs": ("iperf3",)}
HTTP = {"service": loads.start_nginx, "programs": ("wrk", "nginx")}
NGINX = {"service": loads.start_nginx, "programs": ("nginx",)}
TLS_IPERF = {**IPERF, "programs": ("iperf3", "openssl"), "transport": TLS}
UDP = {"service": loads.start_udp_echo, "programs": (), "udp": True,
       "bounds": ("bare-udp", "bare-udp-segments")}
# What is encrypted has to be in the process, so the other part of its bound copies.
NOISE_BOUNDS = ("bare-copy", AEAD)
# In few suites, because each takes as long as a peer.
VARIANTS = (OURS_ONE, OURS_STATIC, OURS_UNCONFINED)
UDP_ONEWAY_REFERENCE = Reference("rathole", loads.udp_oneway_max(1200), "rate", 20000)
UDP_LOAD_REFERENCE = Reference("rathole", loads.udp_closed(1200, 256), "rps", 30000)
FIXED_GBPS = 3.2
LINK_MBIT = 500
CONNECTIONS, CONNECTIONS_RATE = (10, 100, 1000, 9000), 3000
SERVICES = (1, 10, 100, 1000)
WORKERS = (1, 2, 4)
NODES, NODES_CONNECTIONS = (1, 2, 4, 8), 64
SPARE_DESCRIPTORS = 1500
SCALE = {"peers": (OURS, "rathole"), "default": False}
DELAYED_RATE = 640  # half of what 64 connections can have answered with a round trip of 50 ms
NOISE_FIXED_GBPS = 2.0

SUITES = (
    Suite("tcp-bulk", "TCP bulk, saturated, loopback",
          (("1", loads.bulk(1)), ("8", loads.bulk(8))), bounds=("bare-splice",), variants=VARIANTS,
          **IPERF),
    Suite("tcp-fixed", f"TCP bulk at {FIXED_GBPS} Gbit/s, loopback",
          (("8", loads.bulk(8, FIXED_GBPS)),),
          skip_peers=(DIRECT,), bounds=("bare-splice",), variants=VARIANTS, **IPERF),
    Suite("limits", "Limits of the bandwidth, loopback", (("limits", loads.limits),),
          beside=(("limited100M", 'connection_bandwidth = "100M"'),
                  ("limited1G", 'connection_bandwidth = "1G"')), peers=(OURS,), **IPERF),
    Suite("veth-1500", "TCP bulk between namespaces, 1500-byte segments", (("8", loads.bulk(8)),),
          place=lambda: netns.Namespaces(offload=False), namespaces=True, bounds=("bare-splice",),
          **IPERF),
    Suite("veth-offload", "TCP bulk between namespaces, segmentation offload",
          (("8", loads.bulk(8)),),
          place=lambda: netns.Namespaces(offload=True), namespaces=True, bounds=("bare-splice",),
          **IPERF),
    Suite("link-500", f"A link of {LINK_MBIT} Mbit/s full of TCP bulk, and HTTP beside it",
          (("8", loads.bulk_beside_http(8)),), beside=(("http", ""),), peers=(OURS, "rathole"),
          place=lambda: netns.Namespaces(offload=True, rate=f"{LINK_MBIT}mbit"), namespaces=True, shaped=True,
          service=loads.start_iperf_server, programs=("iperf3", "wrk", "nginx")),
    Suite("http-keepalive", "HTTP, 64 connections kept alive", (("64", loads.http(64)),),
          bounds=("bare-copy",), variants=VARIANTS, **HTTP),
    Suite("http-close", "HTTP, 64 connections, one request each",
          (("64", loads.http(64, keep_alive=False)),), bounds=("bare-copy",), variants=VARIANTS, **HTTP),
    Suite("headed-close", "HTTP, 64 connections, one request each, with a PROXY header",
          (("64", loads.http(64, keep_alive=False)),), transport=HEADED,
          **{**HTTP, "service": loads.start_nginx_headed}),
    Suite("balance-close", "HTTP, 64 connections, one request each, two clients of one service",
          (("64", loads.http(64, keep_alive=False)),), peers=(OURS, OURS_BALANCE), variants=(OURS_BALANCE,),
          **HTTP),
    Suite("routed-close", "HTTP, 64 connections, one request each, to a service by its host",
          (("64", loads.http(64, keep_alive=False)),), peers=(OURS, OURS_ROUTED), variants=(OURS_ROUTED,),
          **HTTP),
    Suite("http-1", "HTTP, one connection, one request at a time", (("1", loads.http(1)),),
          bounds=("bare-copy",), **HTTP),
    Suite("busy-http", "HTTP beside a process that computes on each core",
          (("1", loads.beside_busy(loads.http(1))), ("64", loads.beside_busy(loads.http(64)))), **HTTP),
    Suite("idle", "Memory of idle connections", (("idle", loads.idle),), threads=2, rounds_max=1,
          skip_peers=(DIRECT,), **NGINX),
    Suite("burst", "Visitors arriving at once, link with a round trip",
          (("burst", loads.burst),), relay=True, **NGINX),
    Suite("delayed-http", "HTTP, 64 connections kept alive, link with a round trip",
          (("64", loads.in_round_trips(loads.paced(64, DELAYED_RATE))),), relay=True,
          peers=(OURS, "rathole", "haproxy", DIRECT), **NGINX),
    Suite("noise-bulk", "TCP bulk over Noise NK, saturated, loopback", (("8", loads.bulk(8)),),
          transport=NOISE, bounds=NOISE_BOUNDS, **IPERF),
    Suite("noise-fixed", f"TCP bulk over Noise NK at {NOISE_FIXED_GBPS:.0f} Gbit/s, loopback",
          (("8", loads.bulk(8, NOISE_FIXED_GBPS)),), transport=NOISE, bounds=NOISE_BOUNDS,
          variants=VARIANTS, **IPERF),
    Suite("noise-keepalive", "HTTP over Noise NK, 64 connections kept alive",
          (("64", loads.http(64)),), transport=NOISE, **HTTP),
    Suite("noise-close", "HTTP over Noise NK, 64 connections, one request each",
          (("64", loads.http(64, keep_alive=False)),), transport=NOISE, **HTTP),
    Suite("noise-idle", "Memory of idle connections, Noise NK", (("idle", loads.idle),), threads=2,
          rounds_max=1, transport=NOISE, **NGINX),
    Suite("noise-flood", f"{flood.RATE} garbage handshakes a second beside bulk, Noise NK",
          (("flood", flood.beside_bulk),), transport=NOISE, logins=flood.LOGINS, **IPERF),
    Suite("tls-bulk", "TCP bulk over TLS, saturated, loopback", (("8", loads.bulk(8)),),
          **TLS_IPERF),
    Suite("tls-fixed", f"TCP bulk over TLS at {NOISE_FIXED_GBPS:.0f} Gbit/s, loopback",
          (("8", loads.bulk(8, NOISE_FIXED_GBPS)),), **TLS_IPERF),
    Suite("tls-close", "HTTP over TLS, 64 connections, one request each",
          (("64", loads.http(64, keep_alive=False)),), transport=TLS, **HTTP),
    Suite("tls-idle", "Memory of idle connections, TLS", (("idle", loads.idle),), threads=2,
          rounds_max=1, transport=TLS, **NGINX),
    Suite("tls-flood", f"{flood.RATE} garbage handshakes a second beside bulk, TLS",
          (("flood", flood.beside_bulk),), logins=flood.LOGINS, **TLS_IPERF),
    Suite("websocket-bulk", "TCP bulk over WebSocket, saturated, loopback", (("8", loads.bulk(8)),),
          transport=WEBSOCKET, **IPERF),
    Suite("websocket-keepalive", "HTTP over WebSocket, 64 connections kept alive",
          (("64", loads.http(64)),), transport=WEBSOCKET, **HTTP),
    Suite("websocket-idle", "Memory of idle connections, WebSocket", (("idle", loads.idle),),
          threads=2, rounds_max=1, transport=WEBSOCKET, **NGINX),
    Suite("udp-rtt-64", "UDP round trips, 64 bytes",
          (("1", loads.udp_closed(64, 1)), ("256", loads.udp_closed(64, 256))), variants=VARIANTS, **UDP),
    Suite("udp-rtt-1200", "UDP round trips, 1200 bytes",
          (("1", loads.udp_closed(1200, 1)), ("256", loads.udp_closed(1200, 256))), **UDP),
    Suite("udp-oneway-1200", "UDP in one direction, 1200 bytes",
          (("max", loads.udp_oneway_max(1200)), ("fixed", loads.udp_oneway_fixed(1200)),
           ("1 ms", loads.udp_oneway_fixed(1200, tick_us=1000))),
          reference=UDP_ONEWAY_REFERENCE, variants=VARIANTS,
          **{**UDP, "service": loads.start_nothing}),
    Suite("udp-latency-1200", "UDP round trips, 1200 bytes, at half of rathole's highest rate",
          (("half", loads.udp_open(1200, 0.5)),), reference=UDP_LOAD_REFERENCE, **UDP),
    Suite("udp-visitors", "10 000 UDP visitors, 20 000 datagrams of 200 bytes a second",
          (("visitors", loads.udp_visitors),), **UDP),
    Suite("noise-udp-rtt-64", "UDP round trips over Noise NK, 64 bytes",
          (("1", loads.udp_closed(64, 1)), ("256", loads.udp_closed(64, 256))), transport=NOISE,
          **UDP),
    Suite("noise-udp-rtt-1200", "UDP round trips over Noise NK, 1200 bytes",
          (("1", loads.udp_closed(1200, 1)), ("256", loads.udp_closed(1200, 256))),
          transport=NOISE, **UDP),
    Suite("noise-udp-oneway-1200", "UDP in one direction over Noise NK, 1200 bytes",
          (("max", loads.udp_oneway_max(1200)), ("fixed", loads.udp_oneway_fixed(1200))),
          transport=NOISE, reference=UDP_ONEWAY_REFERENCE,
          **{**UDP, "service": loads.start_nothing}),
    Suite("logins", f"{logins.CLIENTS} clients with {logins.SERVICES} services each log in at once",
          (("all", logins.herd()), ("one", logins.herd(one_address=True, clients=100))),
          peers=(OURS, "rathole"), rounds_max=1, **NGINX),
    Suite("noise-logins", "The same over Noise NK", (("all", logins.herd()),), peers=(OURS, "rathole"),
          rounds_max=1, transport=NOISE, **NGINX),
    Suite("tls-logins", "The same over TLS", (("all", logins.herd()),), peers=(OURS, "rathole"),
          rounds_max=1, transport=TLS, **{**NGINX, "programs": ("nginx", "openssl")}),
    Suite("scale-connections", f"{CONNECTIONS_RATE} requests a second over more and more connections",
          points(CONNECTIONS, lambda count: loads.paced(count, CONNECTIONS_RATE)), axis="connections",
          varies=lambda count: {"descriptors": 2 * count + SPARE_DESCRIPTORS}, **SCALE, **NGINX),
    Suite("scale-services", "More and more services, and new connections to one of them",
          points(SERVICES, lambda _: loads.one_of_many), axis="services",
          # Of each the control channel, 8 waiting data channels, and listeners.
          varies=lambda count: {"services": count, "descriptors": 11 * count + SPARE_DESCRIPTORS},
          **SCALE, **HTTP),
    Suite("scale-workers", "TCP bulk, 8 streams, with more and more workers at each end",
          points(WORKERS, lambda _: loads.bulk(8)), axis="workers", varies=lambda count: {"threads": count},
          **SCALE, **IPERF),
    Suite("scale-workers-http", "HTTP, 64 connections kept alive, with more and more workers at each end",
          points(WORKERS, lambda _: loads.http(64)), axis="workers", varies=lambda count: {"threads": count},
          **SCALE, **HTTP),
    Suite("scale-nodes", f"{CONNECTIONS_RATE} requests a second through more and more nodes of one client",
          points(NODES, lambda _: loads.paced(NODES_CONNECTIONS, CONNECTIONS_RATE)), axis="nodes",
          varies=lambda count: {"nodes": count}, **{**SCALE, "peers": (OURS,)}, **NGINX),
    Suite("syscalls", "System calls (strace -c -f)",
          (("bulk", loads.syscalls("bulk")),), default=False, rounds_max=1, skip_peers=(DIRECT,),
          service=loads.start_iperf_server, programs=("iperf3", "strace")),
    Suite("syscalls-http", "System calls, HTTP kept alive (strace -c -f)",
          (("http", loads.syscalls("http")),), default=False, rounds_max=1, skip_peers=(DIRECT,),
          service=loads.start_nginx, programs=("wrk", "nginx", "strace")),
)

UDP_DISTANCE = (at_most(1.5, "bare-udp"), at_most(1.5, "bare-udp-segments"))


def udp_rtt_rows(suite, cpu_targets=()):
    return (
        Row(suite, "256", "rps", "256 in flight", "1/s", "more", (at_least(6, "rathole"),),
            digits=0),
        Row(suite, "256", "p50_us", "256 in flight, p50", "us", "less", digits=0),
        Row(suite, "256", "p99_us", "256 in flight, p99", "us", "less", digits=0),
        Row(suite, "256", "cpu_us_per_round_trip", "256 in flight, CPU", "us/round trip", "less",
            cpu_targets, digits=1, ends=True),
        Row(suite, "1", "rps", "1 in flight", "1/s", "more", digits=0),
        Row(suite, "1", "p50_us", "1 in flight, median", "us", "less", (at_most(1.1, "rathole"),),
            digits=1),
        Row(suite, "1", "p99_us", "1 in flight, p99", "us", "less", digits=1),
        Row(suite, "1", "cpu_us_per_round_trip", "1 in flight, CPU", "us/round trip", "less", digits=1,
            ends=True),
    )


def udp_oneway_rows(suite, targets=()):
    return (
        Row(suite, "max", "rate", "highest rate without loss", "1/s", "more", digits=0),
        Row(suite, "max", "cpu_us_per_datagram", "CPU at it", "us/datagram", "less", ends=True,
            guarded=False),  # each at a rate of its own
        Row(suite, "fixed", "rate", "fixed rate (the highest of rathole)", "1/s", "more",
            digits=0),
        Row(suite, "fixed", "cpu_us_per_datagram", "CPU at the fixed rate", "us/datagram", "less",
            targets, ends=True),
        Row(suite, "fixed", "lost", "lost at the fixed rate", "share", "less", digits=4),
    )


def busy_rows(load, title):
    return (
        Row("busy-http", load, "rps", title, "1/s", "more", (at_least(1.0, "rathole"),), digits=0),
        Row("busy-http", load, "p50_ms", f"{title}, p50", "ms", "less", digits=3),
        Row("busy-http", load, "p99_ms", f"{title}, p99", "ms", "less", (at_most(1.1, "rathole"),)),
        Row("busy-http", load, "cpu_us_per_request", f"{title}, CPU", "us/request", "less", digits=1,
            ends=True),
    )


LOGINS_TARGETS, NONE_PUT_OUT = (at_most(15),), (at_most(0),)


def logins_rows(suite, load="all", targets=LOGINS_TARGETS, put_out=NONE_PUT_OUT):
    title = "" if load == "all" else ", 100 clients at one address"
    return (
        Row(suite, load, "cold_s", f"all in after a cold start{title}", "s", "less", targets),
        Row(suite, load, "cold_put_out", f"put out meanwhile{title}", "logins", "less", put_out, digits=0),
        Row(suite, load, "cold_cpu_us", f"CPU of the server{title}", "us/login", "less", digits=0),
        Row(suite, load, "back_s", f"all back after the server's restart{title}", "s", "less", targets),
        Row(suite, load, "back_put_out", f"put out meanwhile, restart{title}", "logins", "less", put_out,
            digits=0),
        Row(suite, load, "back_cpu_us", f"CPU of the server, restart{title}", "us/login", "less", digits=0),
        Row(suite, load, "kb_per_login", f"memory of the server{title}", "KiB/service", "less", digits=1),
    )


ROWS = (
    Row("tcp-bulk", "1", "gbps", "1 stream", "Gbit/s", "more"),
    Row("tcp-bulk", "1", "cpu_s_per_gb", "1 stream, CPU", "s/GB", "less", digits=3, ends=True),
    Row("tcp-bulk", "8", "gbps", "8 streams", "Gbit/s", "more",
        (at_least(1.2, "rathole"), at_least(1.1, "frp-plain"), at_least(1.1, "haproxy"))),
    Row("tcp-bulk", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less", digits=3, ends=True),
    Row("tcp-fixed", "8", "cpu_s_per_gb", "8 streams at 400 Mbit/s, CPU", "s/GB", "less",
        (at_most(0.33, "rathole"), at_most(0.7, "haproxy"), at_most(1.1, "bare-splice")), digits=3,
        ends=True),
    Row("tcp-fixed", "8", "gbps", "rate reached", "Gbit/s", "more"),
    Row("limits", "limits", "short_pct", "1 stream at 100M: short of the limit", "%", "less",
        (at_most(3),)),
    Row("limits", "limits", "over_pct", "1 stream at 100M: over the limit", "%", "less",
        (at_most(3),)),
    Row("limits", "limits", "beside_ratio", "1 stream without limit beside it, of its rate alone", "x",
        "more", (at_least(0.95),)),
    Row("limits", "limits", "cpu_ratio", "1 stream at 1G: CPU per GB, of an unlimited one at that rate",
        "x", "less", (at_most(1.2),)),
    Row("limits", "limits", "cpu_s_per_gb", "CPU at 1G", "s/GB", "less", digits=3, ends=True),
    *logins_rows("logins"),
    *logins_rows("logins", "one", (), ()),
    *logins_rows("noise-logins"),
    *logins_rows("tls-logins"),
    Row("veth-1500", "8", "gbps", "8 streams", "Gbit/s", "more",
        (at_least(1.25, "rathole"), at_least(1.1, "frp-plain"))),
    Row("veth-1500", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less",
        (at_most(0.5, "rathole"),), digits=3, ends=True),
    Row("veth-offload", "8", "gbps", "8 streams", "Gbit/s", "more",
        (at_least(1.25, "rathole"), at_least(1.05, "frp-plain"))),
    Row("veth-offload", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less",
        (at_most(0.5, "rathole"),), digits=3, ends=True),
    Row("link-500", "8", "gbps", "8 streams", "Gbit/s", "more"),
    Row("link-500", "8", "cpu_s_per_gb", "8 streams, CPU, with the HTTP connection's", "s/GB", "less",
        digits=3, ends=True),
    Row("link-500", "8", "p50_ms", "one HTTP connection beside it, p50", "ms", "less"),
    Row("link-500", "8", "p99_ms", "one HTTP connection beside it, p99", "ms", "less"),
    Row("http-keepalive", "64", "rps", "requests", "1/s", "more",
        (at_least(1.35, "rathole"), at_least(2.8, "frp")), digits=0),
    Row("http-keepalive", "64", "p50_ms", "p50", "ms", "less"),
    Row("http-keepalive", "64", "p99_ms", "p99", "ms", "less", (at_most(0.6, "rathole"),)),
    Row("http-keepalive", "64", "cpu_us_per_request", "CPU", "us/request", "less",
        (at_most(0.75, "rathole"), at_most(0.95, "haproxy"), at_most(1.1, "bare-copy")), digits=1, ends=True),
    Row("http-close", "64", "rps", "new connections", "1/s", "more",
        (at_least(1.4, "rathole"), at_least(1.0, "haproxy"), at_least(3.5, "frp")), digits=0),
    Row("http-close", "64", "p50_ms", "p50", "ms", "less"),
    Row("http-close", "64", "p99_ms", "p99", "ms", "less"),
    Row("http-close", "64", "cpu_us_per_request", "CPU", "us/request", "less", (at_most(0.72, "rathole"),),
        digits=1, ends=True),
    Row("headed-close", "64", "rps", "new connections", "1/s", "more", (at_least(0.98, OURS),), digits=0,
        subject=OURS_HEADED),
    Row("headed-close", "64", "cpu_us_per_request", "CPU", "us/request", "less", (at_most(1.02, OURS),),
        digits=1, ends=True, subject=OURS_HEADED),
    Row("balance-close", "64", "rps", "new connections", "1/s", "more", digits=0, subject=OURS_BALANCE),
    Row("balance-close", "64", "p99_ms", "p99", "ms", "less", subject=OURS_BALANCE),
    Row("balance-close", "64", "cpu_us_per_request", "CPU of the server and both clients", "us/request",
        "less", digits=1, ends=True, subject=OURS_BALANCE),
    Row("routed-close", "64", "rps", "new connections", "1/s", "more", (at_least(0.95, OURS),), digits=0,
        subject=OURS_ROUTED),
    Row("routed-close", "64", "p99_ms", "p99", "ms", "less", subject=OURS_ROUTED),
    Row("routed-close", "64", "cpu_us_per_request", "CPU", "us/request", "less", digits=1, ends=True,
        subject=OURS_ROUTED),
    Row("http-1", "1", "p50_ms", "median", "ms", "less", (at_most(1.05, "haproxy"),), digits=3),
    Row("http-1", "1", "cpu_us_per_request", "CPU", "us/request", "less", digits=1, ends=True),
    *busy_rows("1", "1 connection"),
    *busy_rows("64", "64 connections"),
    Row("idle", "idle", "kb_per_connection", "per connection, the larger end", "KiB", "less",
        (at_most(1.0), at_most(1 / 15, "rathole")), ends=True),
    Row("idle", "idle", "base_kb", "idle process, 2 workers, the larger end", "KiB", "less",
        (at_most(4096),), digits=0, ends=True),
    Row("burst", "burst", "first_max_rtt", "first burst, last visitor", "RTT", "less",
        (at_most(3.2),)),
    Row("burst", "burst", "first_median_rtt", "first burst, median", "RTT", "less"),
    Row("burst", "burst", "second_max_rtt", "second burst, last visitor", "RTT", "less",
        (at_most(1.2),)),
    Row("burst", "burst", "second_median_rtt", "second burst, median", "RTT", "less"),
    Row("burst", "burst", "cpu_us_per_visitor", "CPU of both bursts", "us/visitor", "less", digits=0,
        ends=True),
    Row("delayed-http", "64", "p50_rtt", "p50", "RTT", "less", (at_most(1.05),)),
    Row("delayed-http", "64", "p99_rtt", "p99", "RTT", "less"),
    Row("delayed-http", "64", "cpu_us_per_request", "CPU", "us/request", "less", digits=1, ends=True),
    Row("noise-bulk", "8", "gbps", "8 streams", "Gbit/s", "more",
        (at_least(2.5, "rathole"), at_least(1.4, "rathole", OURS_SODIUM))),
    Row("noise-bulk", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less", digits=3, ends=True),
    Row("noise-fixed", "8", "cpu_s_per_gb", "8 streams at 250 Mbit/s, CPU", "s/GB", "less",
        (at_most(0.45, "rathole"), at_most(0.65, "rathole", OURS_SODIUM),
         at_most(1.2, "bare-copy", beside=AEAD)), digits=3, ends=True),
    Row("noise-fixed", "8", "gbps", "rate reached", "Gbit/s", "more"),
    Row("noise-keepalive", "64", "rps", "requests", "1/s", "more", digits=0),
    Row("noise-keepalive", "64", "p50_ms", "p50", "ms", "less"),
    Row("noise-keepalive", "64", "p99_ms", "p99", "ms", "less"),
    Row("noise-keepalive", "64", "cpu_us_per_request", "CPU", "us/request", "less",
        digits=1, ends=True),
    Row("noise-close", "64", "rps", "new connections", "1/s", "more", (at_least(1.5, "rathole"),),
        digits=0),
    Row("noise-close", "64", "p99_ms", "p99", "ms", "less"),
    Row("noise-close", "64", "cpu_us_per_request", "CPU", "us/request", "less", digits=1,
        ends=True),
    Row("noise-idle", "idle", "kb_per_connection", "per connection, the larger end", "KiB", "less",
        (at_most(2.0), at_most(1 / 60, "rathole")), ends=True),
    Row("noise-idle", "idle", "base_kb", "idle process, 2 workers, the larger end", "KiB", "less",
        (at_most(8192), at_most(4096, None, OURS_SODIUM)), digits=0, ends=True),
    Row("noise-flood", "flood", "kept", "bulk rate kept", "of the quiet one", "more",
        (at_least(0.8),)),
    Row("noise-flood", "flood", "login_max_s", f"slowest of {flood.LOGINS} logins meanwhile", "s",
        "less", (at_most(1.0),), digits=3),
    Row("noise-flood", "flood", "flood_per_s", "handshakes offered", "1/s", "more", digits=0),
    Row("noise-flood", "flood", "cpu_s_per_gb", "CPU per GB meanwhile, handshakes included", "s/GB", "less",
        digits=3, ends=True),
    Row("tls-bulk", "8", "gbps", "8 streams", "Gbit/s", "more",
        (at_least(2.0, "rathole"), at_least(1.3, "frp-tls"))),
    Row("tls-bulk", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less", digits=3, ends=True),
    Row("tls-fixed", "8", "cpu_s_per_gb", "8 streams at 250 Mbit/s, CPU", "s/GB", "less",
        (at_most(0.5, "rathole"),), digits=3, ends=True),
    Row("tls-fixed", "8", "gbps", "rate reached", "Gbit/s", "more"),
    Row("tls-close", "64", "rps", "new connections", "1/s", "more", (at_least(2.0, "rathole"),),
        digits=0),
    Row("tls-close", "64", "p99_ms", "p99", "ms", "less"),
    Row("tls-close", "64", "cpu_us_per_request", "CPU", "us/request", "less", digits=1, ends=True),
    Row("tls-idle", "idle", "kb_per_connection", "per connection, the larger end", "KiB", "less",
        (at_most(24.0),), ends=True),
    Row("tls-flood", "flood", "kept", "bulk rate kept", "of the quiet one", "more",
        (at_least(0.8),)),
    Row("tls-flood", "flood", "kept_of_rest", "bulk rate kept, without the flood's own share",
        "of the quiet one", "more"),
    Row("tls-flood", "flood", "login_max_s", f"slowest of {flood.LOGINS} logins meanwhile", "s",
        "less", (at_most(1.0),), digits=3),
    Row("tls-flood", "flood", "flood_per_s", "handshakes offered", "1/s", "more", digits=0),
    Row("tls-flood", "flood", "cpu_s_per_gb", "CPU per GB meanwhile, handshakes included", "s/GB", "less",
        digits=3, ends=True),
    Row("websocket-bulk", "8", "gbps", "8 streams", "Gbit/s", "more", (at_least(1.5, "rathole"),)),
    Row("websocket-bulk", "8", "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less", digits=3, ends=True),
    Row("websocket-keepalive", "64", "rps", "requests", "1/s", "more", (at_least(1.2, "rathole"),),
        digits=0),
    Row("websocket-keepalive", "64", "p99_ms", "p99", "ms", "less"),
    Row("websocket-keepalive", "64", "cpu_us_per_request", "CPU", "us/request", "less", digits=1,
        ends=True),
    Row("websocket-idle", "idle", "kb_per_connection", "per connection, the larger end", "KiB", "less",
        (at_most(1.0),), ends=True),
    *udp_rtt_rows("udp-rtt-64", UDP_DISTANCE),
    *udp_rtt_rows("udp-rtt-1200", UDP_DISTANCE),
    *udp_oneway_rows("udp-oneway-1200", targets=(at_most(0.25, "rathole"), *UDP_DISTANCE)),
    Row("udp-oneway-1200", "1 ms", "cpu_us_per_datagram", "CPU, sent once per ms", "us/datagram",
        "less", (at_most(0.25, "rathole"),), ends=True),
    Row("udp-oneway-1200", "1 ms", "lost", "lost, sent once per ms", "share", "less", digits=4),
    *udp_rtt_rows("noise-udp-rtt-64"),
    *udp_rtt_rows("noise-udp-rtt-1200"),
    *udp_oneway_rows("noise-udp-oneway-1200"),
    Row("udp-latency-1200", "half", "rate", "rate", "1/s", "more", digits=0),
    Row("udp-latency-1200", "half", "p50_us", "p50", "us", "less", digits=0),
    Row("udp-latency-1200", "half", "p99_us", "p99", "us", "less", digits=0),
    Row("udp-latency-1200", "half", "lost", "lost", "share", "less", digits=4),
    Row("udp-latency-1200", "half", "cpu_us_per_round_trip", "CPU", "us/round trip", "less", digits=1,
        ends=True),
    Row("udp-visitors", "visitors", "lost_datagrams", "lost", "datagrams", "less", (at_most(0),),
        digits=0),
    Row("udp-visitors", "visitors", "kb_per_visitor_server", "memory of a visitor, server", "KiB",
        "less", (at_most(0.5),)),
    Row("udp-visitors", "visitors", "kb_per_visitor_client", "memory of a visitor, client", "KiB",
        "less"),
    Row("udp-visitors", "visitors", "fds_per_visitor_client", "sockets of a visitor, client", "",
        "less", (at_most(1.0),)),
    Row("udp-visitors", "visitors", "p99_us", "p99", "us", "less", digits=0),
    Row("udp-visitors", "visitors", "cpu_us_per_round_trip", "CPU", "us/round trip", "less", digits=1,
        ends=True),
    *curve("scale-connections", CONNECTIONS, "cpu_us_per_request", "CPU", "us/request", "less", digits=1,
           ends=True),
    *curve("scale-connections", CONNECTIONS, "p99_ms", "p99", "ms", "less"),
    *curve("scale-connections", CONNECTIONS, "kb_per_connection", "memory per connection, the larger end",
           "KiB", "less", ends=True),
    *curve("scale-services", SERVICES, "ready_s", "from the start of both ends until all services listen",
           "s", "less"),
    *curve("scale-services", SERVICES, "rss_mib", "memory of a process, the larger end", "MiB", "less",
           digits=2, ends=True),
    *curve("scale-services", SERVICES, "cpu_us_per_request", "CPU of a new connection", "us/request", "less",
           digits=1, ends=True),
    *curve("scale-workers", WORKERS, "gbps", "8 streams", "Gbit/s", "more"),
    *curve("scale-workers", WORKERS, "cpu_s_per_gb", "8 streams, CPU", "s/GB", "less", digits=3, ends=True),
    *curve("scale-workers-http", WORKERS, "rps", "requests", "1/s", "more", digits=0),
    *curve("scale-workers-http", WORKERS, "cpu_us_per_request", "CPU", "us/request", "less", digits=1,
           ends=True),
    *curve("scale-nodes", NODES, "cpu_us_per_request", "CPU of all nodes and the client", "us/request",
           "less", digits=1, ends=True),
    *curve("scale-nodes", NODES, "p99_ms", "p99", "ms", "less"),
    *curve("scale-nodes", NODES, "base_kb", "idle process, the larger end", "KiB", "less", digits=0,
           ends=True),
    Row("syscalls", "bulk", "calls", "calls per MB, the larger end", "1/MB", "less", ends=True),
    Row("syscalls", "bulk", "other_share",
        "share that is neither splice nor io_uring_enter", "", "less",
        (at_most(0.05),), digits=3, ends=True),
    Row("syscalls", "bulk", "uring_workers",
        "io-wq threads (IORING_OP_SPLICE needs them)", "", "less",
        (at_most(0),), digits=0),
    Row("syscalls-http", "http", "calls", "calls per request, the larger end", "1/request", "less",
        ends=True),
)

SUITES_BY_NAME = {suite.name: suite for suite in SUITES}


def peers_for(suite, names):
    return [
        name
        for name in names
        if name not in suite.skip_peers
        and (not suite.peers or name in suite.peers)
        and (not PEERS_BY_NAME[name].bound or name in suite.bounds)
        and (not PEERS_BY_NAME[name].variant or name in suite.variants)
        and suite.transport in PEERS_BY_NAME[name].transports
        and (PEERS_BY_NAME[name].udp or not suite.udp)
    ]

