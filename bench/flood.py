"""Garbage handshakes from one address during bulk transfers: what they cost the bulk and a login.

The flood runs on the machine that it floods, so kept_of_rest is the rate kept of what the flood's own
processor time leaves.

Run as a program ("flood.py HOST PORT RATE TRANSPORT") this is the flood: connections from SOURCE, each
with a first message that costs the server a public-key operation. noise: as long as the first one of
Noise NK, with a wrong tag, which takes an X25519 multiplication to find out. tls: a whole ClientHello
of TLS 1.3, so that the server makes its key share and signs its answer, which nobody reads. The last
line of output is the rate of connections per second.
"""

import os
import random
import signal
import socket
import ssl
import statistics
import struct
import sys
import threading
import time

import loads
import procs
from procs import BenchError

SOURCE = "127.0.0.2"
RATE = 2000
LOGINS = 5
LOGIN_LIMIT_S = 15.0
LOGIN_POLL_S = 0.005
HELD = 64
CONNECT_LIMIT_S = 0.2


def beside_bulk(run):
    """8 streams alone, then 8 streams with the flood and one login after the other."""
    quiet = loads.bulk(8)(run)["gbps"]
    host, port = run.tunnel.plan.control
    argv = [sys.executable, os.path.abspath(__file__), host, str(port), str(RATE),
            run.tunnel.plan.transport]
    flood = run.supervisor.spawn("flood", argv, run.place.client_space)
    begun, cpu = time.monotonic(), [procs.cpu_seconds(end) for end in run.tunnel.ends()]
    flooded, failures = [], []

    def bulk():
        try:
            flooded.append(loads.bulk(8)(run))
        except BenchError as error:
            failures.append(error)

    thread = threading.Thread(target=bulk)
    thread.start()
    try:
        times = [_login(run, flood, service) for service in run.tunnel.plan.logins]
    finally:
        thread.join()
    lasted = time.monotonic() - begun
    spent = [b - a for a, b in zip(cpu, [procs.cpu_seconds(end) for end in run.tunnel.ends()])]
    flood_cores = procs.cpu_seconds(flood) / lasted
    offered = _end(run, flood)
    if failures:
        raise failures[0]
    if offered < 0.9 * RATE:
        run.notes.append(f"only {offered:.0f} of {RATE} handshakes a second")
    kept, left = flooded[0]["gbps"] / quiet, 1 - flood_cores / len(os.sched_getaffinity(0))
    return {
        "kept": kept,
        "kept_of_rest": kept / left,
        "gbps_quiet": quiet,
        "gbps_flooded": flooded[0]["gbps"],
        "login_max_s": max(times),
        "login_median_s": statistics.median(times),
        "flood_per_s": offered,
        **{key: value for key, value in flooded[0].items() if key.startswith("cpu_s_per_gb")},
        "flood_cores": flood_cores,
        "server_cores": spent[0] / lasted,
    }


def _login(run, flood, service):
    """The time from the start of a client until the server accepts its visitors."""
    time.sleep(run.seconds / (LOGINS + 1))
    procs.require_alive(flood)
    start = time.monotonic()
    client = run.tunnel.log_in(service)
    try:
        while time.monotonic() - start < LOGIN_LIMIT_S:
            procs.require_alive(client)
            with socket.socket() as visitor:
                if visitor.connect_ex(run.tunnel.plan.logins[service]) == 0:
                    return time.monotonic() - start
            time.sleep(LOGIN_POLL_S)
    finally:
        run.supervisor.stop(client)
    run.notes.append(f"no login within {LOGIN_LIMIT_S:.0f} s")
    return LOGIN_LIMIT_S


def _end(run, flood):
    flood.terminate()
    flood.wait(10)
    try:
        return float(procs.log_tail(flood).split()[-1])
    except (IndexError, ValueError) as error:
        raise BenchError(f"the flood printed no rate: {procs.log_tail(flood)}") from error


# The flood itself


def pour(address, rate, message):
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    held, count, begun = [], 0, time.monotonic()
    while not stopped:
        behind = (time.monotonic() - begun) * rate - count
        if behind < 1:
            time.sleep((1 - behind) / rate)
            continue
        count += 1
        held.append(_stranger(address, message()))
        # Keep the last ones open: a connection that is closed at once may be gone before the server
        # reads its message.
        if len(held) > HELD:
            held.pop(0).close()
    print(count / (time.monotonic() - begun))


def _stranger(address, message):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.settimeout(CONNECT_LIMIT_S)
    try:
        sock.bind((SOURCE, 0))
        sock.connect(address)
        sock.sendall(message)
    except OSError:
        pass  # the server may refuse a stranger
    return sock


def _noise_message():
    return b"\x30\x00" + random.randbytes(48)


def _client_hello():
    """A function that returns one ClientHello again and again: a new key share would cost the flood as
    much as the server."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="flood.example").do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    return lambda: hello


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: flood.py HOST PORT RATE TRANSPORT")
    pour((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]),
         _client_hello() if sys.argv[4] == "tls" else _noise_message)
