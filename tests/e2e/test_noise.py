"""Noise from the operator's view: keys and patterns that fit or do not, the log lines about them, and the
memory of an idle connection.

Other files test the relay (test_noise_relay.py), rathole (test_noise_interop.py,
test_noise_interop_keys.py), and wrong frames and handshakes (test_noise_{server,client}_faults.py,
test_noise_hostile.py).
"""

import re
import select
import socket
import time
from datetime import datetime

import pytest

from harness import (
    NOFILE, OURS, RATHOLE, SANITIZED, TOKEN, have, is_listening, scaled, wait_until, within,
)
from noise_peer import KeyPair, Noise, NoiseError
from protocol import Session, connect, recv_exact, u32
from services import Echo, Service, ping
from test_interop import answers

ours = pytest.mark.ours

PAIRS = {"/".join(pair): pair for pair in ((OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS))}


@pytest.fixture(params=PAIRS)
def pair(request):
    """{role: implementation}"""
    chosen = PAIRS[request.param]
    if RATHOLE in chosen and not have(RATHOLE):
        pytest.skip("rathole 0.5.0 not found: scripts/setup --peers installs it")
    return dict(zip(("server", "client"), chosen))


# --- ends that do not fit -----------------------------------------------------------------------


def with_key(noise, role, key):
    """`noise` with a wrong value for `key` in the file of `role`."""
    value = KeyPair()
    noise.keys[role] = {**noise.keys[role],
                        key: value.private_text if "private" in key else value.public_text}
    return noise


def both(noise):
    return {"server": noise, "client": noise}


def patterns(server, client):
    """The right keys in both files, but different patterns."""
    ends = {"server": Noise(server), "client": Noise(client)}
    ends["client"].pair = ends["server"].pair
    for noise in ends.values():
        pair = noise.pair
        for role, other in (("server", "client"), ("client", "server")):
            known = {"local_private_key": pair[role].private_text,
                     "remote_public_key": pair[other].public_text}
            noise.keys[role] = {key: known[key] for key in noise.keys[role]}
    return ends


# name: a function that returns the transports of both ends, which do not fit.
MISFITS = {
    "NK, another server's key": lambda: both(with_key(Noise("NK"), "client", "remote_public_key")),
    "KK, another server's key": lambda: both(with_key(Noise("KK"), "client", "remote_public_key")),
    "KK, another client's key": lambda: both(with_key(Noise("KK"), "server", "remote_public_key")),
    "KK, another private key": lambda: both(with_key(Noise("KK"), "client", "local_private_key")),
    "NK to KK": lambda: patterns("KK", "NK"),
    "KK to NK": lambda: patterns("NK", "KK"),
    "XX to NK": lambda: patterns("NK", "XX"),
    "NK to XX": lambda: patterns("XX", "NK"),
    "plain to NK": lambda: {"server": Noise("NK"), "client": None},
    "plain to XX": lambda: {"server": Noise("XX"), "client": None},
    "NK to plain": lambda: {"server": None, "client": Noise("NK")},
    "XX to plain": lambda: {"server": None, "client": Noise("XX")},
}
ABOUT_NOISE = re.compile(r"noise|handshake|encrypt|pattern|public key", re.I)


def secret_in(log, transports):
    return any(secret in log for noise in transports.values() if noise
               for secret in noise.secrets()) or TOKEN in log


def seconds_of(log):
    """Seconds from the first log line to the last, by their timestamps."""
    first, last = (datetime.fromisoformat(line.split("Z")[0])
                   for line in (log.splitlines()[0], log.splitlines()[-1]))
    return (last - first).total_seconds()


def check_misfit(t, pair, name):
    transports = t.transport
    assert not is_listening(t.port()), f"{name}: a login got through"
    for role in ("server", "client"):
        process = getattr(t, role)
        what = f"{name}: {process.name}"
        assert process.alive(), f"{what} has ended: {process.log()}"
        assert process.cpu_seconds() < within(0.3), f"{what} spins"
        if pair[role] != OURS:
            continue
        log = process.log()
        assert not secret_in(log, transports), what
        assert len(log.splitlines()) < 20 + 2 * seconds_of(log), f"{what}: a flood of log lines"
        if transports[role] and name != "XX to plain":  # both ends wait there until one gives up
            assert ABOUT_NOISE.search(log), f"{what}: no word of what is wrong:\n{log}"
            assert re.search(r"warn|error", log, re.I), f"{what}: no complaint:\n{log}"


def test_ends_that_do_not_fit(tunnel, service, pair):
    """No service is served, no process spins, the log has few lines, and these are clear and hold no
    secret."""
    local = service(Echo)
    tunnels = {}
    for name, transports in MISFITS.items():
        t = tunnels[name] = tunnel({"echo": local.port}, transport=transports(), start=False,
                                   threads=1, **pair)
        t.start_server()
        t.start_client()
    time.sleep(2)
    for name, t in tunnels.items():
        check_misfit(t, pair, name)


@ours
def test_right_key_after_a_wrong_one(tunnel, service):
    """A wrong key affects only the client that uses it: other clients are served, and so is this one once
    its key is right."""
    noise = Noise("NK")
    t = tunnel({"echo": service(Echo).port, "s": None}, transport=noise, start=False)
    t.start_server()
    right = dict(noise.keys["client"])
    with_key(noise, "client", "remote_public_key")
    t.start_client()
    time.sleep(0.7)
    with t.login("s"):
        pass
    t.client.stop()
    noise.keys["client"] = right
    t.start_client()
    wait_until(lambda: answers(t.port()), within(5), "the service")


# --- XX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", ["server", "client", "both", "none"])
def test_xx_pinned(tunnel, service, pair, pinned):
    """Our ends named in `pinned` have the right remote_public_key."""
    noise = Noise("XX")
    for role in ("server", "client"):
        if pinned not in (role, "both"):
            del noise.keys[role]["remote_public_key"]
    t = tunnel({"echo": service(Echo).port}, transport=noise, **pair)
    for _ in range(5):
        ping(t.port())


def not_the_pinned_key(role):
    """Transports where only `role` pins the other end's key, and the keys do not match."""
    other = {"server": "client", "client": "server"}[role]
    for case in ("another is pinned", "another is used", "a random one is used"):
        noise = Noise("XX")
        del noise.keys[other]["remote_public_key"]
        if case == "another is pinned":
            with_key(noise, role, "remote_public_key")
        elif case == "another is used":
            with_key(noise, other, "local_private_key")
        else:
            del noise.keys[other]["local_private_key"]
        yield case, noise


@pytest.mark.parametrize("role", ["server", "client"])
def test_xx_refuses_another_key_than_the_pinned_one(tunnel, service, pair, role):
    """rathole ignores a pinned key with XX. Our program refuses a wrong one, whatever the other end is."""
    local = service(Echo)
    tunnels = {}
    for case, noise in not_the_pinned_key(role):
        t = tunnels[case] = tunnel({"echo": local.port}, transport=noise, start=False, **pair)
        t.start_server()
        t.start_client()
    if pair[role] == RATHOLE:
        for case, t in tunnels.items():
            wait_until(lambda: answers(t.port()), within(5), f"{case}: rathole to look away")
        return
    time.sleep(1.5)
    for case, t in tunnels.items():
        assert not is_listening(t.port()), f"{case}: a login got through"
        log = getattr(t, role).log()
        assert re.search(r"public.key|pinned|noise|handshake", log, re.I), f"{case}:\n{log}"
        assert not secret_in(log, t.transport)


@ours
@pytest.mark.parametrize("role", ["server", "client"])
def test_xx_without_a_pinned_key_is_warned_of(tunnel, service, role):
    t = tunnel({"echo": service(Echo).port}, transport=Noise("XX", pinned=False))
    ping(t.port())
    assert re.search(r"remote_public_key", getattr(t, role).log())


@ours
def test_xx_pinned_data_channel(tunnel):
    """The server checks the key on data channels as on control channels: a session key alone is not
    enough."""
    noise = Noise("XX")
    t = tunnel({"s": None}, transport=noise, start=False)
    t.start_server()
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        right = session.secure
        session.secure = lambda sock: noise.client(sock, static=KeyPair())
        with pytest.raises((EOFError, ConnectionError)):
            channel = session.open_channel()
            # With XX the client sends the last message, so it sees the refusal only in its next read.
            recv_exact(channel, 4)
        session.secure = right
        channel = session.open_channel()
        with connect(t.port("s")):
            assert recv_exact(channel, 4) == u32(0)


# --- logs ---------------------------------------------------------------------------------------


@ours
@pytest.mark.parametrize("pattern", ["NK", "XX", "KK"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_in_any_log(tunnel, service, pattern, log_format):
    """Logs at the finest level hold no secret, for logins that succeed and for logins that fail."""
    noise = Noise(pattern)
    level = {"log_level": "trace", "log_format": log_format}
    t = tunnel({"echo": service(Echo).port, "s": None}, transport=noise, server_options=level,
               client_options=level)
    ping(t.port())
    with t.login("s") as session:
        key = session.key.hex()
    with pytest.raises((NoiseError, EOFError, OSError)):
        Session(t.control_port, "s", TOKEN, secure=Noise(pattern).client)
    connect(t.control_port).close()
    time.sleep(0.2)
    for process in (t.server, t.client):
        log = process.log()
        assert len(log) > 100, "nothing was logged at level trace"
        assert not secret_in(log, both(noise))
        assert key not in log.lower()


# --- memory -------------------------------------------------------------------------------------


class Crowd(Service):
    """Echo for thousands of connections in one thread."""

    def _accept(self):
        poll, socks = select.epoll(), {}
        poll.register(self.listener, select.EPOLLIN)
        while not self.stopping:
            for fd, _ in poll.poll(0.2):
                if fd != self.listener.fileno():
                    data = socks[fd].recv(4096)
                    if data:
                        socks[fd].sendall(data)
                    else:
                        poll.unregister(fd)
                        socks.pop(fd).close()
                    continue
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                socks[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
        for sock in socks.values():
            sock.close()


@ours
@pytest.mark.skipif(SANITIZED, reason="memory of a sanitizer build says nothing")
@pytest.mark.time_limit(120)
def test_memory_of_idle_connections(tunnel, service, threads):
    """At most 2 KiB per connection on either end. A first batch warms up caches before the measurement."""
    t = tunnel({"echo": service(Crowd).port}, transport=Noise("NK"), threads=threads)
    most = NOFILE // 2 - 200  # a relay takes two descriptors
    first, count = min(scaled(1000, 300), most // 4), min(scaled(1500, 500, full=10000), most // 2)
    visitors = []

    def more(number):
        for at in range(0, number, 32):
            batch = [connect(t.port()) for _ in range(min(32, number - at))]
            for visitor in batch:
                visitor.sendall(b"x" * 1000)
            for visitor in batch:
                visitor.settimeout(within(10))
                assert recv_exact(visitor, 1000) == b"x" * 1000
            visitors.extend(batch)
        time.sleep(0.3)
        return [t.server.private_kib(), t.client.private_kib()]

    try:
        before, after = more(first), more(count)
        for process, grown in zip((t.server, t.client), (b - a for a, b in zip(before, after))):
            # 128 KiB of tolerance: slabs grow in large steps.
            assert grown <= 2 * count + 128, (
                f"{process.name}: {grown / count:.2f} KiB for each of {count} idle connections")
        for n, visitor in enumerate(visitors):
            visitor.sendall(b"%6d" % n)
        for n, visitor in enumerate(visitors):
            assert recv_exact(visitor, 6) == b"%6d" % n
    finally:
        for visitor in visitors:
            visitor.close()


@ours
@pytest.mark.skipif(SANITIZED, reason="memory of a sanitizer build says nothing")
def test_idle_process_is_small(tunnel, service):
    """The bound includes libcrypto, which takes 3 to 5 MiB where it is loaded."""
    t = tunnel({"echo": service(Echo).port}, transport=Noise("NK"), threads=2)
    for process in (t.server, t.client):
        assert process.rss_kib() < 8 * 1024, f"{process.name}: {process.rss_kib()} KiB"
