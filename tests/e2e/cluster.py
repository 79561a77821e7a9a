"""A cluster in network namespaces: servers behind a real HAProxy, clients that ask a real dnsmasq.

    visitors ── balancer ── node1 ══╗        ╔══ client1 ── its local service
    (cluster_load) (HAProxy) node2 ═╬ switch ╬══ client2 ── its local service
                             node3 ═╝        ╚══ names (dnsmasq)

Each word but `switch`, which has the bridge, is a network namespace with one interface. HAProxy sends the
visitor's address to a node (send-proxy-v2), the node sends it on to the local service, and HAProxy asks
each node's /readyz. The clients find the nodes under one name, and have a control channel to each.

A Cluster starts and stops programs; a Load is what visitors do meanwhile, and the Outcome is what all of
them have seen. What happens to a cluster under load is in cluster_scenarios.py.
"""

import collections
import csv
import io
import json
import pathlib
import re
import shutil
import socket
import sys
import time
import urllib.request

import dns
import spaces
import upgrades
from cluster_load import OK, Request, Visit
from harness import BINARIES, OURS, TOKEN, Process, is_listening, render, wait_until, within
from spaces import Spaces

NODES = ("node1", "node2", "node3")
CLIENTS = ("client1", "client2")
NAME, SERVICE = "nodes.test", "web"
ADDRESSES = {"visitors": "10.78.0.1", "balancer": "10.78.0.2", "names": "10.78.0.3",
             "node1": "10.78.0.11", "node2": "10.78.0.12", "node3": "10.78.0.13",
             "client1": "10.78.0.21", "client2": "10.78.0.22"}
SOURCES = "10.78.64.0/24"  # the visitors' own addresses
CONTROL_PORT, SERVICE_PORT, STATUS_PORT, LOCAL_PORT, STATS_PORT = 2333, 8080, 9100, 7000, 9999

CHECK_S = 0.3          # between two of the balancer's checks
DRAIN_DELAY_S = 1      # longer than the balancer needs to notice
RESOLVE_S = 1          # between two look-ups of a client
CONNECT_TIMEOUT_S = 2  # of a client

HAPROXY = """
global
    nbthread 1  # with several, lines of the log may be lost
    maxconn 8000
    log stdout format raw local0
    stats socket ipv4@{stats} level user
defaults
    mode tcp
    log global
    timeout connect 2s
    timeout client 120s
    timeout server 120s
    timeout check 2s
frontend front
    bind {front}
    log-format "visitor %ci:%cp via %s, %rc retries, %ts"
    default_backend nodes
backend nodes
    balance roundrobin
    # A connection that a node refuses goes to another one. (retry-on is for HTTP: here only connecting
    # is ever tried again.)
    retries 3
    option redispatch 1
    option httpchk
    http-check send meth GET uri /readyz
    default-server send-proxy-v2 check port {status_port} inter {check_ms}ms fall 1 rise 1
"""


def why_not():
    """Why there can be no cluster here, or None."""
    return spaces.why_not("haproxy", "dnsmasq")


class Cluster(Spaces):
    """options: {"server" or "client": {key: value}}; limits: as in harness.Tunnel. kept(process, name) is
    told of each process."""

    def __init__(self, workdir, options=None, limits=None, threads=1, kept=None):
        self.workdir = pathlib.Path(workdir)
        self.options, self.limits, self.threads = options or {}, limits, threads
        self.kept = kept or (lambda process, name: process)
        self.started = []
        super().__init__(["switch", *ADDRESSES])
        self.run("switch", "ip", "link", "add", "bridge", "type", "bridge")
        self.run("switch", "ip", "link", "set", "bridge", "up")
        for space, address in ADDRESSES.items():
            self.link(space, "eth0", "switch", f"to_{space}")
            self.run("switch", "ip", "link", "set", f"to_{space}", "master", "bridge")
            self.run(space, "ip", "address", "add", f"{address}/16", "dev", "eth0")
            self._spare_ports(space)
        self.run("visitors", "ip", "route", "add", "local", SOURCES, "dev", "lo")
        self.files = dns.resolver_files(self.workdir, ADDRESSES["names"], options="timeout:1 attempts:2")
        self.hosts = self.workdir / "names"

    def _spare_ports(self, space):
        """A thousand connections a second, each of which keeps its port for a minute after its end."""
        with self.inside(space):
            ipv4 = pathlib.Path("/proc/sys/net/ipv4")
            (ipv4 / "ip_local_port_range").write_text("12000 65000")
            (ipv4 / "tcp_tw_reuse").write_text("1")

    # --- the programs ---

    def spawn(self, space, name, argv, **options):
        program = shutil.which(str(argv[0]), path=spaces.PATH) or argv[0]
        process = Process(self.command(space, program, *argv[1:]), self.workdir / f"{name}.log", **options)
        process.name = name
        self.started.append(process)
        return self.kept(process, name)

    def _spawn_ours(self, name, role, text):
        path = self.workdir / f"{name}.ini"
        path.write_text(text)
        path.chmod(0o600)
        process = self.spawn(name, name, [BINARIES[OURS], f"--{role}", path], limits=self.limits,
                             files=self.files)
        setattr(self, name, process)
        return process

    def start_node(self, name):
        options = {"bind_addr": f"0.0.0.0:{CONTROL_PORT}", "default_token": TOKEN, "threads": self.threads,
                   "drain_delay": DRAIN_DELAY_S, **self.options.get("server", {})}
        service = {"bind_addr": f"0.0.0.0:{SERVICE_PORT}", "clients": "balance", "proxy_protocol": "v2",
                   "accept_proxy_protocol": ADDRESSES["balancer"]}
        text = render(OURS, "server", options, {SERVICE: service})
        text += f"\n[status]\nbind_addr = {ADDRESSES[name]}:{STATUS_PORT}\n"
        return self._spawn_ours(name, "server", text)

    def start_client(self, name):
        options = {"remote_addr": f"{NAME}:{CONTROL_PORT}", "default_token": TOKEN, "servers": "all",
                   "threads": self.threads, "resolve_interval": RESOLVE_S, "retry_interval": 1,
                   "connect_timeout": CONNECT_TIMEOUT_S, **self.options.get("client", {})}
        return self._spawn_ours(name, "client", render(OURS, "client", options, {
            SERVICE: {"local_addr": f"127.0.0.1:{LOCAL_PORT}"}}))

    def upgrade(self, name):
        """Returns the old process, whose open connections go on."""
        return upgrades.upgrade(self, name)[0]

    def _start_names(self):
        self.names = self.spawn("names", "names", [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            f"--addn-hosts={self.hosts}", "--local=/test/", "--local-ttl=1", "--user=root", "--pid-file=",
            "--bind-interfaces", f"--listen-address={ADDRESSES['names']}", "--log-queries",
            "--log-facility=-"])
        self.names.wait_log("started, version", within(10))

    def publish(self, nodes):
        """The name has the addresses of these nodes from now on."""
        new = self.hosts.with_suffix(".new")
        new.write_text("".join(f"{ADDRESSES[node]} {NAME}\n" for node in nodes))
        new.chmod(0o644)
        new.rename(self.hosts)
        if hasattr(self, "names"):
            since = len(self.names.log())
            self.names.signal(1)  # SIGHUP
            self.names.wait_log(f"read {re.escape(str(self.hosts))}", within(5), since)

    def _start_balancer(self):
        path = self.workdir / "haproxy.cfg"
        path.write_text(HAPROXY.format(
            stats=f"{ADDRESSES['balancer']}:{STATS_PORT}", front=f"{ADDRESSES['balancer']}:{SERVICE_PORT}",
            status_port=STATUS_PORT, check_ms=round(CHECK_S * 1000)) + "".join(
            f"    server {node} {ADDRESSES[node]}:{SERVICE_PORT}\n" for node in NODES))
        self.balancer = self.spawn("balancer", "balancer", ["haproxy", "-db", "-f", path])
        self.wait_balanced()

    def start(self):
        """Call it from the main thread: see Process."""
        self.publish(NODES)
        self._start_names()
        for node in NODES:
            self.start_node(node)
        for client in CLIENTS:
            self.start_client(client)
        for node in NODES:
            self.wait_sessions(node, len(CLIENTS))
        self._start_balancer()
        return self

    def close(self):
        """Stops the programs. Returns complaints about how they ended as text; empty if there are none."""
        complaints = []
        for process in reversed(self.started):
            process.begin_stop()
        for process in reversed(self.started):
            try:
                process.stop()
            except AssertionError as error:
                complaints.append(f"{process.name}: {error}")
            if BINARIES[OURS] in process.argv or str(BINARIES[OURS]) in process.argv:
                complaints += [f"{process.name}: {verdict}"] if (verdict := process.verdict()) else []
        self.release()
        return "; ".join(complaints)

    # --- what they say ---

    def sessions(self, node):
        """The number of clients that are logged in at a node; None if it does not answer."""
        try:
            with self.inside(node), urllib.request.urlopen(
                    f"http://{ADDRESSES[node]}:{STATUS_PORT}/status", timeout=2) as answer:
                return json.load(answer)["services"][0]["clients"]
        except OSError:
            return None

    def wait_sessions(self, node, count, timeout=15):
        wait_until(lambda: self.sessions(node) == count, within(timeout),
                   lambda: f"{count} sessions of {node}: {self.sessions(node)}")

    def _stats(self):
        with self.inside("balancer"):
            sock = socket.create_connection((ADDRESSES["balancer"], STATS_PORT), timeout=5)
        with sock:
            sock.sendall(b"show stat\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
        return {row["svname"]: row for row in rows if row["svname"] in NODES}

    def balanced(self):
        """The nodes that the balancer sends visitors to."""
        try:
            return {name for name, row in self._stats().items() if row["status"].startswith("UP")}
        except OSError:
            return set()

    def wait_balanced(self, nodes=NODES, timeout=15):
        def is_so():
            assert self.balancer.alive(), self.balancer.log()
            return self.balanced() == set(nodes)

        wait_until(is_so, within(timeout),
                   lambda: f"the balancer's nodes are {sorted(self.balanced())}, not {sorted(nodes)}")

    # --- the path ---

    def cut(self, node, other):
        """Drops all packets between a node and another namespace, without a word to either."""
        address = ADDRESSES[other]
        self.filter(node, [f"input ip saddr {address} drop", f"output ip daddr {address} drop"])

    def heal(self, node):
        self.filter(node, [])


class Outcome:
    """What visitors and services have seen. routes: {a visitor's source: the node that it was sent to}."""

    def __init__(self, visits, requests, routes, broken, seconds):
        self.visits, self.requests, self.routes = visits, requests, routes
        self.broken, self.seconds = broken, seconds
        self.failed = [visit for visit in visits if visit.outcome != OK]
        self.taken = collections.defaultdict(list)  # a visitor's id: [(service, request)]
        for service, its_requests in requests.items():
            for request in its_requests:
                self.taken[request.id].append((service, request))

    def node_of(self, visit):
        return self.routes.get(visit.source)

    def services_of(self, visit):
        return [service for service, _ in self.taken[visit.id]]

    def complaints(self):
        """Whatever was not delivered exactly once, or without the visitor's address."""
        found = [f"{service}: {line}" for service, lines in self.broken.items() for line in lines]
        by_id = {visit.id: visit for visit in self.visits}
        for number, takers in self.taken.items():
            if len(takers) > 1:
                found.append(f"visitor {number} was delivered {len(takers)} times: {takers}")
            if number not in by_id:
                found.append(f"nobody sent the request {number}: {takers}")
            elif by_id[number].source != takers[0][1].source:
                found.append(f"{by_id[number]} had another address at {takers[0]}")
        for visit in self.visits:
            if visit.outcome == OK and visit.by not in self.services_of(visit):
                found.append(f"{visit} was not answered by {self.taken[visit.id]}")
        return found

    def latencies_ms(self):
        """Sorted, of the visitors served, without the time that the service held them."""
        return sorted((visit.ended - visit.begun) * 1000 - visit.hold_ms
                      for visit in self.visits if visit.outcome == OK)

    def figures(self):
        times = self.latencies_ms()
        quantiles = {name: round(times[min(len(times) - 1, int(len(times) * part))], 1) if times else None
                     for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))}
        share = collections.Counter(map(self.node_of, self.visits))
        return {"visitors": len(self.visits), "rate": round(len(self.visits) / self.seconds),
                "outcomes": dict(collections.Counter(visit.outcome for visit in self.visits)),
                "latency_ms": quantiles,
                "by_node": {node: share[node] for node in NODES},
                "by_client": {name: len(requests) for name, requests in self.requests.items()}}


class Load:
    """Visitors who come at a steady rate, and the local services, until finish()."""

    def __init__(self, cluster, rate, patience=30):
        self.cluster, self.patience = cluster, within(patience)
        program = [sys.executable, pathlib.Path(__file__).with_name("cluster_load.py")]
        self.log_start = len(cluster.balancer.log())
        self.services, self.outs = {}, {}
        for client in CLIENTS:
            self.outs[client] = cluster.workdir / f"{client}-service.json"
            self.services[client] = cluster.spawn(client, f"{client}-service", [
                *program, "serve", LOCAL_PORT, "--name", client, "--out", self.outs[client]])
        for client in CLIENTS:
            with cluster.inside(client):
                wait_until(lambda: is_listening(LOCAL_PORT), within(10), f"the service of {client}")
        self.outs["visitors"] = cluster.workdir / "visitors.json"
        self.visitors = cluster.spawn("visitors", "visitors", [
            *program, "visit", ADDRESSES["balancer"], SERVICE_PORT, "--rate", rate, "--sources", SOURCES,
            "--patience", self.patience, "--out", self.outs["visitors"]])
        self.begun_at = time.monotonic()

    def progress(self):
        """{"begun": count, an outcome: count, ...}, a moment ago."""
        lines = self.visitors.log().splitlines()
        return json.loads(lines[-1]) if lines else {"begun": 0}

    def _end(self, process, name):
        assert process.alive(), f"{process.name} has ended: {process.log()[-2000:]}"
        process.signal(15)
        process.expected_death = process.is_asked_to_stop = True
        code = process.wait(self.patience + within(15))
        assert code == 0, f"{process.name}: exit {code}: {process.log()[-2000:]}"
        return json.loads(self.outs[name].read_text())

    def finish(self):
        saw = self._end(self.visitors, "visitors")
        visits = [Visit(*each) for each in saw["visits"]]
        time.sleep(0.2)  # what nobody waits for any more may still be on its way
        heard = {client: self._end(process, client) for client, process in self.services.items()}
        # HAProxy writes a visitor's line after its end.
        wanted = sum(visit.outcome == OK for visit in visits)
        wait_until(lambda: len(self._routes()) >= wanted, within(10), "the balancer's log")
        return Outcome(visits, {client: [Request(*each) for each in each_heard["requests"]]
                                for client, each_heard in heard.items()},
                       self._routes(), {client: each["broken"] for client, each in heard.items()},
                       saw["seconds"])

    def balancer_said(self):
        """Which nodes it took out and put back, and why."""
        return re.findall(r"Server nodes/(.*?)\. \d+ active", self.cluster.balancer.log()[self.log_start:])

    def _routes(self):
        return dict(re.findall(r"^visitor (\S+) via (\w+),", self.cluster.balancer.log()[self.log_start:],
                               re.M))
