"""The loads: each takes a Run (a running tunnel and the length of the measurement) and returns
figures."""

import contextlib
import itertools
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import procs
from peers import HEADED_HOST
from procs import BenchError

GB = 1e9
MB = 1e6
IPERF_MARGIN_S = 20
WRK_MARGIN_S = 15
IDLE_BATCH = 32
IDLE_BATCH_LIMIT_S = 10.0
IDLE_PAUSE_S = 0.02
IDLE_SETTLE_S = 1.5
ANSWER_LIMIT_S = 10.0
PACED_SHORT = 0.97  # below this share of the wanted rate a note says so
BURST_LIMIT_S = 20.0
POOL_FILL_S = 2.0
STRACE_ATTACH_S = 1.0
UDP_MARGIN_S = 20
UDP_SOCKETS = 16
UDP_VISITORS = 10000
UDP_VISITORS_RATE = 20000
UDP_VISITORS_SIZE = 200
UDP_VISITORS_SETTLE_S = 1.0
UDP_TICK_US = 50
UDP_FIRST_RATE = 10000
UDP_HALVINGS = 3
UDP_STEP_DOWN = 0.9
UDP_STEPS_S = 4  # a step of the search for a rate takes this part of a run's length
UDP_LOSS_MAX = 0.001  # counts as no loss: the scheduler alone loses that much at times
UDP_PERCENTILES = ("p50_us", "p90_us", "p99_us", "max_us")
UDP_RATE_SHORT = 0.97  # below this share of the wanted rate the generator is at its limit
EXPECTED_BULK_CALLS = {"splice", "io_uring_enter"}

REQUEST_KEEP = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
REQUEST_CLOSE = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
BODY = b"hello world\n"

WRK_SCRIPT = """
done = function(summary, latency, requests)
  local figures = {
    requests = summary.requests, us = summary.duration,
    p50 = latency:percentile(50), p90 = latency:percentile(90), p99 = latency:percentile(99),
    max = latency.max,
  }
  for name, count in pairs(summary.errors) do figures["errors_" .. name] = count end
  local parts = {}
  for name, value in pairs(figures) do
    parts[#parts + 1] = string.format('"%s":%d', name, value)
  end
  io.write("JSON {" .. table.concat(parts, ",") .. "}\\n")
end
"""

NGINX = """daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile {nofile};
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  server {{
    listen {host}:{port} backlog=4096;{also}
    location / {{ default_type text/plain; return 200 "hello world\\n"; }}
  }}
}}
"""


@dataclass
class Run:
    supervisor: procs.Supervisor
    place: object
    tunnel: object
    seconds: int
    rtt_ms: float = 50.0
    visitors: int = 64
    burst_gap_s: float = 3.0
    connections: int = 4000
    udp_program: str | None = None
    reference: float | None = None  # the figure of the suite's reference peer
    notes: list = field(default_factory=list)


# Services behind the tunnel


def start_iperf_server(supervisor, place, host, port):
    child = supervisor.spawn(
        "iperf3-server", ["iperf3", "-s", "-B", host, "-p", str(port)], place.service_space
    )
    procs.wait_listening(child, port)
    return child


def start_nginx(supervisor, place, host, port, also=""):
    path = os.path.join(supervisor.directory, "nginx.conf")
    nofile = raise_file_limit()
    with open(path, "w") as config:
        config.write(
            NGINX.format(directory=supervisor.directory, host=host, port=port, nofile=nofile, also=also)
        )
    argv = ["nginx", "-e", "stderr", "-c", path, "-p", supervisor.directory]
    child = supervisor.spawn("nginx", argv, place.service_space)
    procs.wait_listening(child, port)
    return child


def start_nginx_headed(supervisor, place, host, port):
    """With a second address, where PROXY headers are expected."""
    return start_nginx(supervisor, place, host, port,
                       f"\n    listen {HEADED_HOST}:{port} backlog=4096 proxy_protocol;")


def raise_file_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# TCP bulk


def bulk(streams, gbps=None):
    """iperf3 from the visitor's side: saturated, or all streams together at `gbps`."""

    def load(run):
        moved, elapsed, cpu = _iperf(run, streams, gbps)
        rate = moved * 8 / elapsed / 1e9
        if gbps and rate < 0.97 * gbps:
            run.notes.append(f"only {rate:.2f} of {gbps} Gbit/s")
        figures = {"gbps": rate}
        figures.update(_per_unit(cpu, moved / GB, "cpu_s_per_gb"))
        return figures

    return load


def limits(run):
    """Services with connection_bandwidth = 100M and 1G, and one without a limit beside them."""
    start_iperf_server(run.supervisor, run.place, *run.tunnel.service_beside)
    at_100m, at_1g = (run.tunnel.beside[name][0] for name in ("limited100M", "limited1G"))
    moved, elapsed, _ = _iperf(run, 1, visitor=at_100m)
    off_pct = (moved * 8 / elapsed / 1e8 - 1) * 100
    moved, elapsed, cpu = _iperf(run, 1, visitor=at_1g)
    figures = {"gbps": moved * 8 / elapsed / 1e9, **_per_unit(cpu, moved / GB, "cpu_s_per_gb")}
    moved, _, cpu = _iperf(run, 1, figures["gbps"])
    figures["cpu_ratio"] = figures["cpu_s_per_gb"] / (sum(cpu) / (moved / GB))
    alone, elapsed, _ = _iperf(run, 1)
    alone /= elapsed
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(_iperf, run, 1, None, at_100m)
        moved, elapsed, _ = _iperf(run, 1)
        beside.result()
    return {**figures, "short_pct": max(0, -off_pct), "over_pct": max(0, off_pct),
            "beside_ratio": moved / elapsed / alone}


def bulk_beside_http(streams):
    """A link that iperf3 fills, and what one HTTP connection of another service waits meanwhile."""

    def load(run):
        start_nginx(run.supervisor, run.place, *run.tunnel.service_beside)
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(_wrk, run, 1, True, run.tunnel.beside["http"][0])
            moved, elapsed, cpu = _iperf(run, streams)
            result, _ = beside.result()
        return {"gbps": moved * 8 / elapsed / 1e9, **_per_unit(cpu, moved / GB, "cpu_s_per_gb"),
                **_wrk_percentiles(result)}

    return load


def _iperf(run, streams, gbps=None, visitor=None):
    host, port = visitor or run.tunnel.visitor
    argv = ["iperf3", "-c", host, "-p", str(port), "-P", str(streams), "-t", str(run.seconds), "-J"]
    if gbps:
        argv += ["-b", f"{gbps * 1000 / streams:.0f}M"]
    before = run.tunnel.cpu()
    output = procs.run(argv, run.seconds + IPERF_MARGIN_S, run.place.visitor_space)
    after = run.tunnel.cpu()
    try:
        received = json.loads(output)["end"]["sum_received"]
    except (ValueError, KeyError) as error:
        raise BenchError(f"iperf3: no result: {output[-300:]}") from error
    if not received["bytes"]:
        raise BenchError("iperf3: nothing arrived")
    return received["bytes"], received["seconds"], [b - a for a, b in zip(before, after)]


def _per_unit(cpu, units, name):
    """CPU of [server, client] per unit moved; nothing for a run without a tunnel."""
    if len(cpu) != 2:
        return {}
    return {
        name: sum(cpu) / units,
        f"{name}_server": cpu[0] / units,
        f"{name}_client": cpu[1] / units,
    }


# HTTP


def http(connections, keep_alive=True):
    def load(run):
        result, cpu = _wrk(run, connections, keep_alive)
        seconds = result["us"] / 1e6
        failed = {k: n for k, n in result.items() if k.startswith("errors_") and n}
        if failed:
            run.notes.append(f"wrk errors: {failed}")
        figures = {"rps": result["requests"] / seconds}
        figures.update(_wrk_percentiles(result))
        figures.update(_per_unit(cpu, result["requests"] / 1e6, "cpu_us_per_request"))
        return figures

    return load


def one_of_many(run):
    """New connections to one of the services; and what all of them took from the start on."""
    memory = [rss / 1024 for rss, _ in _memory(run)]
    figures = http(64, keep_alive=False)(run)
    figures |= {"ready_s": run.tunnel.ready_s, "rss_mib": max(memory)}
    return figures | {f"rss_mib_{name}": mib for name, mib in zip(("server", "client"), memory)}


def _wrk_percentiles(result):
    return {f"{p}_ms": result[p] / 1e3 for p in ("p50", "p90", "p99", "max")}


def _wrk(run, connections, keep_alive, visitor=None):
    script = os.path.join(run.supervisor.directory, "report.lua")
    with open(script, "w") as lua:
        lua.write(WRK_SCRIPT)
    host, port = visitor or run.tunnel.visitor
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{run.seconds}s", "--timeout", "5s", "-s", script]
    if not keep_alive:
        argv += ["-H", "Connection: close"]
    before = run.tunnel.cpu()
    argv.append(f"http://{host}:{port}/")
    output = procs.run(argv, run.seconds + WRK_MARGIN_S, run.place.visitor_space)
    after = run.tunnel.cpu()
    found = re.search(r"^JSON (.*)$", output, re.M)
    if not found:
        raise BenchError(f"wrk: no result: {output[-300:]}")
    result = json.loads(found.group(1))
    if not result["requests"]:
        raise BenchError(f"wrk: no request was answered: {result}")
    return result, [b - a for a, b in zip(before, after)]


# Connections that are held


def idle(run):
    """Open connections slowly with one request each, then read the memory of server and client."""
    base = _memory(run)
    with _held(run, run.connections):
        return _per_connection(base, _memory(run), run.connections)


def paced(connections, rate):
    """Requests at a fixed rate over so many connections, which were opened before."""

    def load(run):
        base = _memory(run)
        with _held(run, connections) as visitors:
            figures = _per_connection(base, _memory(run), connections)
            before = run.tunnel.cpu()
            try:
                times, elapsed = _pace(visitors, rate, run.seconds)
            except OSError as error:
                raise BenchError(f"visitor: {error}") from error
            cpu = [b - a for a, b in zip(before, run.tunnel.cpu())]
        if len(times) < PACED_SHORT * rate * run.seconds:
            run.notes.append(f"only {len(times) / elapsed:.0f} of {rate} requests a second")
        figures["rps"] = len(times) / elapsed
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
            figures[f"{name}_ms"] = times[min(int(len(times) * share), len(times) - 1)] * 1e3
        return figures | _per_unit(cpu, len(times) / 1e6, "cpu_us_per_request")

    return load


def in_round_trips(load):
    """With the percentiles in round trips of the link too."""

    def measured(run):
        figures = load(run)
        return figures | {f"{p}_rtt": figures[f"{p}_ms"] / run.rtt_ms for p in ("p50", "p99")}

    return measured


def beside_busy(load):
    """With a process that computes on each core: what wakes up does not find one idle."""

    def measured(run):
        argv = [sys.executable, "-c", "while True: pass"]
        busy = []
        try:
            for core in sorted(os.sched_getaffinity(0)):
                busy.append(run.supervisor.spawn(f"busy-{core}", argv))
                os.sched_setaffinity(busy[-1].pid, {core})
            return load(run)
        finally:
            for child in busy:
                run.supervisor.stop(child)

    return measured


@contextlib.contextmanager
def _held(run, count):
    held = []
    try:
        while len(held) < count:
            held += _open_batch(run, min(IDLE_BATCH, count - len(held)))
            time.sleep(IDLE_PAUSE_S)
        time.sleep(IDLE_SETTLE_S)
        run.tunnel.check()
        yield held
    finally:
        for visitor in held:
            visitor.close()


def _pace(visitors, rate, seconds):
    """Each request goes out on the connection that has been idle for longest. Returns (the sorted times from
    request to answer, the seconds of it all)."""
    poller, idle_ones = select.epoll(), deque(visitors)
    for visitor in visitors:
        poller.register(visitor, select.EPOLLIN)
    asked, sent, times = {}, 0, []
    began = time.monotonic()
    while True:
        now = time.monotonic()
        due = int(min(now - began, seconds) * rate)
        while sent < due and idle_ones:
            visitor = idle_ones.popleft()
            visitor.send(REQUEST_KEEP)
            asked[visitor.fileno()] = (visitor, time.monotonic(), b"")
            sent += 1
        if now - began >= seconds and not asked:
            return sorted(times), now - began
        if now - began > seconds + ANSWER_LIMIT_S:
            raise BenchError(f"{len(asked)} requests got no answer in {ANSWER_LIMIT_S} s")
        for fd, _ in poller.poll(1 / rate):
            if fd not in asked:
                raise BenchError("an idle connection was closed")
            visitor, at, got = asked.pop(fd)
            got += _received(visitor)
            if got.endswith(BODY):
                times.append(time.monotonic() - at)
                idle_ones.append(visitor)
            else:
                asked[fd] = (visitor, at, got)


def _received(visitor):
    chunk = visitor.recv(4096)
    if not chunk:
        raise BenchError("a connection was closed before its answer")
    return chunk


def _memory(run):
    return [procs.resident_kb(end) for end in run.tunnel.ends()]


def _per_connection(base, full, count):
    """What so many connections added to both ends; without a tunnel nothing."""
    figures = {"connections": count}
    for name, (base_rss, base_anon), (rss, anon) in zip(("server", "client"), base, full):
        figures[f"base_kb_{name}"] = base_rss
        figures[f"base_anonymous_kb_{name}"] = base_anon
        figures[f"kb_per_connection_{name}"] = (rss - base_rss) / count
        figures[f"anonymous_kb_per_connection_{name}"] = (anon - base_anon) / count
    for name in ("base_kb", "kb_per_connection") if base else ():
        figures[name] = max(figures[f"{name}_server"], figures[f"{name}_client"])
    return figures


def _open_batch(run, count):
    waiting, batch = {}, []
    poller = select.poll()
    for address in itertools.islice(itertools.cycle(run.tunnel.visitors), count):
        visitor = _visit(address, REQUEST_KEEP)
        batch.append(visitor)
        waiting[visitor.fileno()] = [visitor, b""]
        poller.register(visitor, select.POLLIN)
    deadline = time.monotonic() + IDLE_BATCH_LIMIT_S
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BenchError(f"{len(waiting)} of {count} connections got no answer")
        for fd, _ in poller.poll(left * 1000):
            visitor, got = waiting[fd]
            waiting[fd][1] = got + _received(visitor)
            if waiting[fd][1].endswith(BODY):
                poller.unregister(fd)
                del waiting[fd]
    return batch


def _visit(address, request):
    try:
        visitor = socket.create_connection(address, timeout=5.0)
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        visitor.sendall(request)
        visitor.setblocking(False)
    except OSError as error:
        raise BenchError(f"visitor: {error}") from error
    return visitor


# Bursts over a link with a round trip


def burst(run):
    """Two bursts of visitors: the time from connect to first byte, in round trips of the link."""
    time.sleep(POOL_FILL_S)
    figures, before = {}, run.tunnel.cpu()
    for number, name in enumerate(("first", "second")):
        if number:
            time.sleep(run.burst_gap_s)
        times = sorted(t * 1e3 / run.rtt_ms for t in _one_burst(run))
        figures[f"{name}_max_rtt"] = times[-1]
        figures[f"{name}_median_rtt"] = times[len(times) // 2]
        figures[f"{name}_min_rtt"] = times[0]
        figures[f"{name}_rtt"] = [round(t, 3) for t in times]
    cpu = [b - a for a, b in zip(before, run.tunnel.cpu())]
    figures.update(_per_unit(cpu, 2 * run.visitors / 1e6, "cpu_us_per_visitor"))
    return figures


def _one_burst(run):
    poller, started, times = select.poll(), {}, []
    try:
        for _ in range(run.visitors):
            start = time.monotonic()
            visitor = _visit(run.tunnel.visitor, REQUEST_CLOSE)
            started[visitor.fileno()] = (visitor, start)
            poller.register(visitor, select.POLLIN)
        deadline = time.monotonic() + BURST_LIMIT_S
        while started:
            ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            now = time.monotonic()
            if not ready:
                raise BenchError(
                    f"{len(started)} of {run.visitors} visitors got no byte "
                    f"in {BURST_LIMIT_S} s"
                )
            for fd, _ in ready:
                visitor, start = started.pop(fd)
                poller.unregister(fd)
                if not visitor.recv(65536):
                    raise BenchError("a visitor was closed without an answer")
                visitor.close()
                times.append(now - start)
    finally:
        for visitor, _ in started.values():
            visitor.close()
    return times


# UDP


def start_udp_echo(supervisor, place, host, port, program):
    child = supervisor.spawn(
        "udp-echo", [program, "echo", host, str(port)], place.service_space
    )
    procs.wait_listening(child, port, udp=True)
    return child


def start_nothing(supervisor, place, host, port, program):
    """The one-way load brings its own sink, so it needs no service."""


def udp_closed(size, window):
    """Round trips with a fixed number of datagrams in flight."""

    def load(run):
        sockets = min(window, UDP_SOCKETS)
        result, cpu = _udp_load(run, "closed", size, sockets, window=window)
        return _udp_figures(run, result, cpu, "rps", result["in_time"] / result["seconds"])

    return load


def udp_open(size, share):
    """Round trips at a share of the reference's rate."""

    def load(run):
        rate = run.reference * share
        result, cpu = _udp_load(run, "open", size, UDP_SOCKETS, rate=rate)
        return _udp_figures(run, result, cpu, "rate", rate)

    return load


def _udp_figures(run, result, cpu, name, value):
    if not result["received"]:
        raise BenchError("udp_load: no datagram came back")
    lost = result["lost"] / result["sent"]
    if lost > UDP_LOSS_MAX:
        run.notes.append(f"{lost:.1%} of {result['sent']} datagrams lost")
    figures = {name: value, "lost": lost, **{p: result[p] for p in UDP_PERCENTILES}}
    figures.update(_per_unit(cpu, result["received"] / 1e6, "cpu_us_per_round_trip"))
    return figures


def udp_oneway_max(size):
    """Search the highest rate without loss: double it until there is loss, bisect, then lower it
    until it holds for the whole length of a run."""

    def load(run):
        seconds = run.seconds / UDP_STEPS_S

        def carries(rate):
            # A second try, because a hiccup of the machine is no limit of the tunnel.
            for _ in range(2):
                result, cpu = _udp_one_way(run, size, rate, seconds)
                if result["lost"] <= UDP_LOSS_MAX:
                    return result, cpu
            return None

        good, rate = 0, UDP_FIRST_RATE
        while (carried := carries(rate)) is not None:
            result, cpu = carried
            good, rate = rate, rate * 2
            if result["rate"] < UDP_RATE_SHORT * good:
                run.notes.append(f"limited by the generator, {result['rate']:.0f}/s")
                return {"rate": result["rate"], **_per_datagram(result, cpu)}
        bad = rate
        for _ in range(UDP_HALVINGS):
            middle = (good * bad) ** 0.5 if good else bad / 4
            good, bad = (middle, bad) if carries(middle) else (good, middle)
        good = good or bad
        while True:
            result, cpu = _udp_one_way(run, size, good, run.seconds)
            if result["lost"] <= UDP_LOSS_MAX:
                return {"rate": good, **_per_datagram(result, cpu)}
            good *= UDP_STEP_DOWN
            if good < UDP_FIRST_RATE / 10:
                raise BenchError("udp_load: datagrams are lost at any rate")

    return load


def udp_oneway_fixed(size, tick_us=UDP_TICK_US):
    """CPU at the reference's highest rate; due datagrams are sent every tick_us."""

    def load(run):
        result, cpu = _udp_one_way(run, size, run.reference, run.seconds, tick_us)
        if result["lost"] > UDP_LOSS_MAX:
            run.notes.append(f"{result['lost']:.1%} lost at {run.reference:.0f}/s")
        if not result["received"]:
            raise BenchError("udp_load: nothing arrived")
        return {"rate": result["rate"], "lost": result["lost"], **_per_datagram(result, cpu)}

    return load


def _per_datagram(result, cpu):
    return _per_unit(cpu, result["received"] / 1e6, "cpu_us_per_datagram")


def _udp_one_way(run, size, rate, seconds, tick_us=UDP_TICK_US):
    sink = [run.tunnel.service[0], str(run.tunnel.service[1])]
    settings = {"rate": rate, "tick": tick_us}
    result, cpu = _udp_load(run, "oneway", size, UDP_SOCKETS, seconds, sink, **settings)
    result["rate"] = result["sent"] / result["seconds"]
    result["lost"] = 1 - result["received"] / max(1, result["sent"])
    return result, cpu


def udp_visitors(run):
    """Ten thousand sockets, each a visitor: loss, and the memory per visitor."""
    # First with few sockets, so that the buffers for this rate are allocated before.
    _udp_load(run, "open", UDP_VISITORS_SIZE, UDP_SOCKETS, 1, rate=UDP_VISITORS_RATE)
    time.sleep(UDP_VISITORS_SETTLE_S)
    ends = run.tunnel.ends()
    base = [(procs.resident_kb(end)[0], procs.open_files(end)) for end in ends]
    result, cpu = _udp_load(
        run, "open", UDP_VISITORS_SIZE, UDP_VISITORS, rate=UDP_VISITORS_RATE
    )
    full = [(procs.resident_kb(end)[0], procs.open_files(end)) for end in ends]
    figures = _udp_figures(run, result, cpu, "rate", UDP_VISITORS_RATE)
    figures["lost_datagrams"] = result["lost"]
    for name, before, after in zip(("server", "client"), base, full):
        figures[f"kb_per_visitor_{name}"] = (after[0] - before[0]) / UDP_VISITORS
        figures[f"fds_per_visitor_{name}"] = (after[1] - before[1]) / UDP_VISITORS
    return figures


def _udp_load(run, mode, size, sockets, seconds=None, sink=(), **settings):
    """Returns (the generator's result, CPU seconds of [server, client])."""
    seconds = seconds or run.seconds
    host, port = run.tunnel.visitor
    argv = [run.udp_program, mode, host, str(port), *sink, "--size", str(size)]
    argv += ["--sockets", str(sockets), "--seconds", str(seconds)]
    for name, value in settings.items():
        argv += [f"--{name}", str(value)]
    before = run.tunnel.cpu()
    output = procs.run(argv, seconds + UDP_MARGIN_S, run.place.visitor_space)
    after = run.tunnel.cpu()
    try:
        return json.loads(output), [b - a for a, b in zip(before, after)]
    except ValueError as error:
        raise BenchError(f"udp_load: no result: {output[-300:]}") from error


# System calls


def syscalls(kind):
    """strace -c on server and client during a load. Only the counts are meaningful."""

    def load(run):
        tracers = [_trace(run, end) for end in run.tunnel.ends()]
        time.sleep(STRACE_ATTACH_S)
        if kind == "bulk":
            moved, _, _ = _iperf(run, 8)
            units = moved / MB
        else:
            result, _ = _wrk(run, 64, keep_alive=True)
            units = result["requests"]
        figures = {"units": units}
        for name, end, tracer in zip(("server", "client"), run.tunnel.ends(), tracers):
            calls = _trace_result(*tracer)
            total = sum(calls.values())
            figures[f"calls_{name}"] = total / units
            figures[f"calls_by_name_{name}"] = {k: v / units for k, v in calls.items()}
            expected = sum(calls.get(k, 0) for k in EXPECTED_BULK_CALLS)
            figures[f"other_share_{name}"] = 1 - expected / total
            figures[f"uring_workers_{name}"] = procs.uring_workers(end)
        for metric in ("calls", "other_share", "uring_workers"):
            figures[metric] = max(figures[f"{metric}_server"], figures[f"{metric}_client"])
        return figures

    return load


def _trace(run, end):
    output = os.path.join(run.supervisor.directory, f"strace-{end.name}.txt")
    argv = ["strace", "-c", "-f", "-qq", "-o", output, "-p", str(end.pid)]
    return run.supervisor.spawn(f"strace-{end.name}", argv), output


def _trace_result(tracer, output):
    tracer.send_signal(signal.SIGINT)
    try:
        tracer.wait(10)
    except subprocess.TimeoutExpired as error:
        raise BenchError("strace does not exit") from error
    calls = {}
    with open(output) as table:
        for line in table:
            found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if found and found.group(2) != "total":
                calls[found.group(2)] = int(found.group(1))
    if not calls:
        raise BenchError(f"strace counted nothing: {procs.log_tail(tracer)}")
    return calls
