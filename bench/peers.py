"""The table of peers: what each needs on PATH, its version, and how to start its two ends.

To add a peer (or a variant of one) add a row to PEERS: one Peer with a function
that turns a Plan into the configuration files and command lines of the two ends.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from collections.abc import Callable

import procs

TOKEN = "bench-token"
POOL = 8
BORE_CONTROL_PORT = 7835  # fixed in bore's source
OURS = "ours"
OURS_SODIUM = "ours-sodium"  # the same program, built without libcrypto
OURS_HEADED = "ours-headed"  # the same program with proxy_protocol = v2
OURS_ONE = "ours-1"  # with threads = 1
OURS_STATIC = "ours-static"  # the same program, linked statically
OURS_UNCONFINED = "ours-unconfined"  # with sandbox = off
OURS_ROUTED = "ours-routed"  # its service has its address by the host of the request
OURS_BALANCE = "ours-balance"  # with clients = balance, and two clients
DIRECT = "none"
BARE = "bare"  # the program of this directory that is the kernel's cost alone
AEAD = "aead"
TCP, NOISE, TLS, WEBSOCKET = "tcp", "noise", "tls", "websocket"
HEADED = "headed"  # plain TCP; a service for ours-headed expects PROXY headers at HEADED_HOST
HEADED_HOST = "127.0.0.2"
# A published key pair (RFC 7748, section 6.1): a benchmark needs no secret.
NOISE_PRIVATE_KEY = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
NOISE_PUBLIC_KEY = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
TLS_NAME = "bench.example"
TLS_PASSWORD = "bench"
AEAD_MARGIN_S = 20
QUIET = {"RUST_LOG": "error"}
UP_LIMIT_S = 15.0  # from the client's start


@dataclass
class Plan:
    """The addresses of one tunnel. The client dials `dial`: `control`, or the relay in front of it.

    logins: further services of the server that have no client yet, by name.
    beside: further services of both ends: {name: (visitor's address, service, line of its section at the
    server)}. many: the services are counted and timed, so each listens from its login on, as rathole's do.
    others: the control addresses of further nodes, which the client dials too."""

    directory: str
    control: tuple
    dial: tuple
    visitor: tuple
    service: tuple
    threads: int | None = None
    transport: str = TCP
    logins: dict = field(default_factory=dict)
    kind: str = "tcp"  # or "udp"
    beside: dict = field(default_factory=dict)
    many: bool = False
    others: tuple = ()

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as config:
            config.write(text)
        return path


@dataclass
class Peer:
    name: str
    title: str
    programs: tuple  # all of them must be on PATH
    commands: Callable | None = None  # (Peer, Plan) -> (server argv, client argv)
    version: tuple = ("--version",)
    control_port: int | None = None  # if the program supports only one
    udp: bool = False  # supports UDP services too
    clients: int = 1  # so many processes, which have the same configuration
    chain: bool = False  # two forward proxies: the "server" dials, the "client" listens
    transports: tuple = (TCP,)
    compiled: bool = False  # bench/run compiles its program, which is of this directory
    bound: bool = False  # what the kernel or the cipher alone costs; only in suites that name it
    variant: bool = False  # our program, set up or built in another way; only in suites that name it
    alone: Callable | None = None  # (Peer, seconds) -> figures, of a program that joins nothing
    paths: dict = field(default_factory=dict)

    def available(self, binaries):
        """binaries: {program: path or None} for programs that are not looked up on PATH."""
        if self.compiled:
            return compiler() is not None
        for program in self.programs:
            path = binaries[program] if program in binaries else shutil.which(program)
            if not path or not os.access(path, os.X_OK):
                return False
            self.paths[program] = path
        return True

    def version_text(self):
        if not self.programs or self.bound:
            return ""
        program = self.paths[self.programs[0]]
        try:
            done = subprocess.run(
                [program, *self.version], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        text = done.stdout + done.stderr
        found = re.search(r"[Vv]ersion:? +(\d+\.\S+)", text) or re.search(r"(\d+\.\d\S*)", text)
        return found.group(1) if found else text.strip()[:60] or "unknown"

    def digest(self):
        """Of its program's file: two builds may have the same version."""
        if not self.programs or self.programs[0] not in self.paths:
            return ""
        with open(self.paths[self.programs[0]], "rb") as program:
            return hashlib.file_digest(program, "sha256").hexdigest()[:16]


def compiler():
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def environment(threads):
    """Of both ends. Our program has its number of workers in its configuration, rathole has it from here."""
    return QUIET | ({"TOKIO_WORKER_THREADS": str(threads)} if threads else {})


def join(address):
    return f"{address[0]}:{address[1]}"


def identity(directory):
    """(certificate, PKCS#12 file) of a server named TLS_NAME, made once for each directory: P-256, signed by
    itself, so that the certificate is the client's trusted root."""
    paths = [os.path.join(directory, f"tls.{suffix}") for suffix in ("crt", "key", "p12")]
    certificate, key, both = paths
    if not os.path.exists(both):
        for arguments in (
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "30", "-subj", f"/CN={TLS_NAME}", "-addext", f"subjectAltName=DNS:{TLS_NAME}",
             "-keyout", key, "-out", certificate],
            ["pkcs12", "-export", "-in", certificate, "-inkey", key, "-passout",
             f"pass:{TLS_PASSWORD}", "-out", both],
        ):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
    return certificate, both


def rathole_transport(plan, server):
    """The lines of the table `transport` in either half."""
    role = "server" if server else "client"
    if plan.transport in (TCP, HEADED):
        return []
    lines = [f"[{role}.transport]", f'type = "{plan.transport}"', f"[{role}.transport.{plan.transport}]"]
    if plan.transport == NOISE:
        return lines + [f'local_private_key = "{NOISE_PRIVATE_KEY}"' if server
                        else f'remote_public_key = "{NOISE_PUBLIC_KEY}"']
    if plan.transport == WEBSOCKET:
        return [*lines, "tls = false"]
    certificate, both = identity(plan.directory)
    if server:
        return lines + [f'pkcs12 = "{both}"', f'pkcs12_password = "{TLS_PASSWORD}"']
    return lines + [f'trusted_root = "{certificate}"', f'hostname = "{TLS_NAME}"']


def rathole_file(plan, name, role, services, options=(), of_service=()):
    """A configuration file for rathole and for our program. services: {name: address}; of_service: lines of
    each service at the server"""
    server = role == "server"
    lines = [f"[{role}]", f'default_token = "{TOKEN}"']
    lines += [f'bind_addr = "{join(plan.control)}"' if server
              else f'remote_addr = "{", ".join(map(join, (plan.dial, *plan.others)))}"', *options]
    lines += ['servers = "all"'] if plan.others and not server else []
    lines += rathole_transport(plan, server)
    further = dict.fromkeys(services, "")
    for service, (visitor, local, line) in plan.beside.items() if "bench" in services else ():
        services = services | {service: visitor if server else local}
        further[service] = line
    for service, address in services.items():
        key = "bind_addr" if server else "local_addr"
        lines += [f"[{role}.services.{service}]", f'type = "{plan.kind}"',
                  f'{key} = "{join(address)}"']
        lines += [*of_service, further[service]] if server else []
    return plan.write(f"{name}.toml", "\n".join(lines) + "\n")


def rathole_ends(peer, plan, options=(), of_service=()):
    program = peer.paths[peer.programs[0]]
    visited = {"bench": plan.visitor, **plan.logins}
    server = rathole_file(plan, f"{peer.name}-server", "server", visited, options, of_service)
    client = rathole_file(plan, f"{peer.name}-client", "client", {"bench": plan.service}, options)
    return [program, "--server", server], [program, "--client", client]


def ours(peer, plan, options=(), of_service=()):
    threads = [f"threads = {plan.threads}"] if plan.threads else []
    of_service = [*of_service, *['bind = "on_login"'] * plan.many]
    return rathole_ends(peer, plan, ['log_level = "error"', *threads, *options], of_service)


def ours_with(options=(), of_service=()):
    """options: lines of both halves of the configuration. of_service: of the server's services"""
    return lambda peer, plan: ours(peer, plan, options, of_service)


def ours_headed(peer, plan):
    plan.service = (HEADED_HOST, plan.service[1])
    return ours(peer, plan, of_service=['proxy_protocol = "v2"'])


def rathole(peer, plan):
    return rathole_ends(peer, plan)


def login(peer, plan, service):
    """The command line of one more client, for one of plan.logins. It has no local service."""
    path = rathole_file(plan, f"{peer.name}-{service}", "client", {service: ("127.0.0.1", 1)})
    return [peer.paths[peer.programs[0]], "--client", path]


def frp(tls, mux):
    def commands(peer, plan):
        common = (
            f'log.level = "error"\nauth.token = "{TOKEN}"\ntransport.tcpMux = {str(mux).lower()}\n'
        )
        server = plan.write(
            "frps.toml",
            f"""bindAddr = "{plan.control[0]}"
bindPort = {plan.control[1]}
proxyBindAddr = "{plan.visitor[0]}"
transport.maxPoolCount = {POOL}
{common}""",
        )
        client = plan.write(
            "frpc.toml",
            f"""serverAddr = "{plan.dial[0]}"
serverPort = {plan.dial[1]}
transport.poolCount = {POOL}
transport.tls.enable = {str(tls).lower()}
{common}
[[proxies]]
name = "bench"
type = "{plan.kind}"
localIP = "{plan.service[0]}"
localPort = {plan.service[1]}
remotePort = {plan.visitor[1]}
""",
        )
        return [peer.paths["frps"], "-c", server], [peer.paths["frpc"], "-c", client]

    return commands


def haproxy(splice):
    def end(plan, name, bind, target):
        options = "option splice-request\n  option splice-response" if splice else ""
        return plan.write(
            name,
            f"""global
  maxconn 8000
  maxpipes 500
  {"" if splice else "nosplice"}
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  {options}
listen bench
  bind {join(bind)}
  server next {join(target)}
""",
        )

    def commands(peer, plan):
        program = peer.paths["haproxy"]
        server = end(plan, "haproxy-server.cfg", plan.visitor, plan.dial)
        client = end(plan, "haproxy-client.cfg", plan.control, plan.service)
        return [program, "-q", "-db", "-f", server], [program, "-q", "-db", "-f", client]

    return commands


def bare(mode):
    def commands(peer, plan):
        def end(role, here, onward):
            return [peer.paths[BARE], mode, role, here[0], str(here[1]), onward[0], str(onward[1])]

        return end("server", plan.visitor, plan.dial), end("client", plan.control, plan.service)

    return commands


def aead(peer, seconds):
    """What the program's cipher costs at the size of its own Noise frames: sealed once, opened once."""
    output = procs.run([peer.paths[AEAD], str(seconds)], seconds + AEAD_MARGIN_S)
    try:
        return {"cpu_s_per_gb": json.loads(output)["chosen"]["s_per_gb"]}
    except (ValueError, KeyError) as error:
        raise procs.BenchError(f"aead: no result: {output[-300:]}") from error


def bore(peer, plan):
    program = peer.paths["bore"]
    return (
        [program, "server", "--bind-addr", plan.control[0], "--bind-tunnels", plan.visitor[0]],
        [
            program,
            "local",
            str(plan.service[1]),
            "--local-host",
            plan.service[0],
            "--to",
            plan.dial[0],
            "--port",
            str(plan.visitor[1]),
        ],
    )


def chisel(peer, plan):
    program = peer.paths["chisel"]
    host, port = plan.control
    remote = f"R:{join(plan.visitor)}:{join(plan.service)}" + ("/udp" if plan.kind == "udp" else "")
    return (
        [program, "server", "--host", host, "--port", str(port), "--reverse"],
        [program, "client", join(plan.dial), remote],
    )


PEERS = (
    Peer(OURS, "rathole-uring", (OURS,), ours, udp=True,
         transports=(TCP, NOISE, TLS, WEBSOCKET, HEADED)),
    Peer(OURS_HEADED, "rathole-uring, PROXY v2", (OURS,), ours_headed, transports=(HEADED,)),
    Peer(OURS_ONE, "rathole-uring, 1 thread", (OURS,), ours_with(["threads = 1"]), udp=True,
         transports=(TCP, NOISE), variant=True),
    Peer(OURS_STATIC, "rathole-uring, static", (OURS_STATIC,), ours, udp=True, transports=(TCP, NOISE),
         variant=True),
    Peer(OURS_UNCONFINED, "rathole-uring, sandbox = off", (OURS,), ours_with(['sandbox = "off"']), udp=True,
         transports=(TCP, NOISE), variant=True),
    Peer(OURS_ROUTED, "rathole-uring, by host", (OURS,),
         ours_with(of_service=['host = "127.0.0.1, *.example.com"']), variant=True),
    Peer(OURS_BALANCE, "rathole-uring, 2 clients", (OURS,),
         ours_with(of_service=['clients = "balance"']), clients=2, variant=True),
    Peer(
        OURS_SODIUM,
        "rathole-uring, without libcrypto",
        (OURS_SODIUM,),
        ours,
        udp=True,
        transports=(NOISE,),
    ),
    Peer("rathole", "rathole", ("rathole",), rathole, udp=True,
         transports=(TCP, NOISE, TLS, WEBSOCKET)),
    Peer(
        "frp-plain",
        "frp, no TLS, no mux",
        ("frps", "frpc"),
        frp(tls=False, mux=False),
        udp=True,
    ),
    Peer("frp", "frp, defaults (TLS, mux)", ("frps", "frpc"), frp(tls=True, mux=True), udp=True),
    Peer("frp-tls", "frp, TLS, no mux", ("frps", "frpc"), frp(tls=True, mux=False),
         transports=(TCP, TLS)),
    Peer(
        "haproxy",
        "HAProxy chain, splice",
        ("haproxy",),
        haproxy(splice=True),
        version=("-v",),
        chain=True,
    ),
    Peer(
        "haproxy-copy",
        "HAProxy chain, copy",
        ("haproxy",),
        haproxy(splice=False),
        version=("-v",),
        chain=True,
    ),
    Peer("bare-splice", "the kernel alone, splice", (BARE,), bare("splice"), chain=True, compiled=True,
         bound=True),
    Peer("bare-copy", "the kernel alone, recv and send", (BARE,), bare("copy"), chain=True,
         transports=(TCP, NOISE), compiled=True, bound=True),
    Peer("bare-udp", "the kernel alone, recvmmsg and sendmmsg", (BARE,), bare("udp"), udp=True, chain=True,
         compiled=True, bound=True),
    Peer("bare-udp-segments", "the same, with UDP_SEGMENT and UDP_GRO", (BARE,), bare("udp-segments"),
         udp=True, chain=True, compiled=True, bound=True),
    Peer(AEAD, "the AEAD alone", (AEAD,), transports=(NOISE,), bound=True, alone=aead),
    Peer("bore", "bore", ("bore",), bore, control_port=BORE_CONTROL_PORT),
    Peer("chisel", "chisel", ("chisel",), chisel, udp=True),
    Peer(DIRECT, "no tunnel", (), udp=True),
)

PEERS_BY_NAME = {peer.name: peer for peer in PEERS}


class Tunnel:
    """The server and the client of one peer, up and ready. Without a tunnel the visitor connects to
    the service itself, or to the relay in front of it."""

    def __init__(self, supervisor, peer, place, service_port, suite, relay=None):
        self.supervisor, self.peer, self.place = supervisor, peer, place
        self.server, self.others, self.clients = None, [], []
        self.relay_process = None
        kind = "udp" if suite.udp else "tcp"
        control_port = peer.control_port or procs.free_port()
        control = (place.control_host(peer), control_port)
        dial = control
        if relay:
            # bore dials a fixed port: its relay gets the same port on another loopback address.
            dial = ("127.0.0.2", control_port if peer.control_port else procs.free_port())
        service = self.service = (place.service_host(peer), service_port)
        if peer.name == DIRECT:
            self.visitor = dial if relay else service
            self.visitors = [self.visitor]
            if relay:
                self.relay_process = relay(dial, service)
            return
        ports = procs.free_ports(2 * suite.nodes - 1)
        self.visitor, *others = self.visitors = [
            (place.visitor_host, port) for port in ports[:suite.nodes]]
        controls = [(control[0], port) for port in ports[suite.nodes:]]
        # A service of their own: an iperf3 server has one visitor at a time.
        self.service_beside = (place.service_host(peer), procs.free_port())
        self.beside = {
            name: ((place.visitor_host, procs.free_port()), self.service_beside, line)
            for name, line in suite.beside
        }
        self.beside |= {
            f"many{port}": ((place.visitor_host, port), service, "")
            for port in procs.free_ports(max(0, suite.services - 1))
        }
        self.plan = plan = Plan(
            supervisor.directory,
            control,
            dial,
            self.visitor,
            service,
            suite.threads,
            suite.transport,
            {f"login{n}": (place.visitor_host, procs.free_port()) for n in range(suite.logins)},
            kind,
            self.beside,
            suite.services > 0 or suite.nodes > 1,
            tuple(controls),
        )
        server_argv, client_argv = peer.commands(peer, plan)
        if relay:
            self.relay_process = relay(dial, control)
        env = environment(suite.threads)
        began = time.monotonic()
        self.server = supervisor.spawn(f"{peer.name}-server", server_argv, place.server_space, env)
        if not peer.chain:
            procs.wait_listening(self.server, control_port)
        for number, (address, visitor) in enumerate(zip(controls, others), 2):
            self.others.append(self.start_node(number, address, visitor, env))
        for number in range(peer.clients):
            name = f"{peer.name}-client" + (str(number + 1) if number else "")
            self.clients.append(supervisor.spawn(name, client_argv, place.client_space, env))
        if peer.chain:
            procs.wait_listening(
                self.clients[0], control_port, watch=(self.server,), udp=kind == "udp"
            )
        visited = {self.visitor[1], *(visitor[1] for visitor, _, _ in self.beside.values())}
        procs.wait_listening(
            self.server, visited, limit_s=UP_LIMIT_S, watch=self.clients, udp=kind == "udp"
        )
        for node, visitor in zip(self.others, others):
            procs.wait_listening(node, visitor[1], limit_s=UP_LIMIT_S, watch=self.clients)
        self.ready_s = time.monotonic() - began

    def start_node(self, number, control, visitor, env):
        """One more server, with the same service at an address of its own."""
        directory = os.path.join(self.plan.directory, f"node{number}")
        os.makedirs(directory, exist_ok=True)
        plan = replace(self.plan, directory=directory, control=control, visitor=visitor)
        argv, _ = self.peer.commands(self.peer, plan)
        node = self.supervisor.spawn(f"{self.peer.name}-node{number}", argv, self.place.server_space, env)
        procs.wait_listening(node, control[1])
        return node

    def log_in(self, service):
        """Start one more client, for a service of plan.logins."""
        argv = login(self.peer, self.plan, service)
        return self.supervisor.spawn(
            f"{self.peer.name}-{service}", argv, self.place.client_space, QUIET
        )

    def ends(self):
        """The server and the client; of several nodes or clients the first one, they are alike."""
        return [self.server, self.clients[0]] if self.server else []

    def cpu(self):
        """Of all nodes, and of all clients."""
        if not self.server:
            return []
        return [sum(map(procs.cpu_seconds, end)) for end in ([self.server, *self.others], self.clients)]

    def check(self):
        for process in [self.server, *self.others, *self.clients] if self.server else []:
            procs.require_alive(process)

    def stop(self):
        children = [c for c in (self.relay_process, self.server, *self.others, *self.clients) if c]
        if children:
            self.supervisor.stop(*children)
