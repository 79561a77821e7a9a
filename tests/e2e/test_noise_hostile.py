"""Handshakes that are cut, slow, forged or too many, towards our server.

One deadline covers all from accept to authenticated; a handshake costs X25519, so strangers must
not be able to buy the server's time with them.
"""

import os
import socket
import threading
import time

import pytest

from harness import SANITIZED, SCALE, TOKEN, nothing_piles_up, scaled, wait_until, within
from noise_faults import gone, points, step
from noise_peer import PATTERNS, KeyPair, Noise, flipped, frame, one_by_one
from protocol import auth, connect, control_hello, how_closed, recv_exact, reset, u32
from services import Echo, Source, ping
from test_hostile import close_all, drip, still_open, stranger, unharmed

ours = pytest.mark.ours  # the others hold for rathole too, and pass with E2E_PAIR=rathole/rathole
DEADLINE = 2  # handshake_timeout where a test waits for it


@pytest.fixture(params=PATTERNS)
def noise(request):
    return Noise(request.param)


@pytest.fixture
def target(tunnel, service):
    """make(noise, options) -> a Tunnel that works, with the service `echo`."""

    def make(noise, **options):
        return tunnel({"echo": service(Echo).port, "s": None}, transport=noise,
                      server_options=options)

    return make


def last_message(t, noise, source=None):
    """(socket, our last handshake message, not yet sent)."""
    handshake = noise.handshake("client")
    sock = connect(t.control_port, source=source)
    step(sock, handshake, 2 if noise.pattern == "XX" else 0)
    return sock, frame(handshake.write())


# --- wrong handshakes towards our server --------------------------------------------------------


@ours
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_truncated_then_ended(target, noise, end):
    """Cut at each length, XX's third message as well: closed as soon as the server can know."""
    t = target(noise)
    before = t.server.settled_fds()
    messages = [noise.first_message()]
    if noise.pattern == "XX":
        messages.append(b"")  # stands for the third message, which is new for each connection
    for message in messages:
        for size in range(len(message or bytes(66))):
            if message:
                sock, data = connect(t.control_port), message
            else:
                sock, data = last_message(t, noise)
            if size:
                sock.sendall(data[:size])
            if end == "rst":
                reset(sock)
                continue
            sock.shutdown(socket.SHUT_WR)
            gone(sock, f"cut at {size} of {len(data)}")
    t.server.wait_fds(before, within(2))
    unharmed(t)


def wrong_first_messages(noise):
    """First messages that the server can see to be wrong without waiting for more."""
    other = {pattern: Noise(pattern) for pattern in PATTERNS}
    # Any 32 bytes are a valid first message of XX.
    for size in (0, 1, 15, 16, 31) + ((33, 47) if noise.pattern != "XX" else ()):
        yield f"{size} bytes", frame(os.urandom(size))
    if noise.pattern == "XX":
        return
    yield "garbage", noise.garbage()
    right = noise.first_message()
    for offset in (2, 20, 33, 34, 49):
        # Offset 33 has the top bit of the point: X25519 ignores it, but the hash covers it.
        yield f"byte {offset} flipped", flipped(right, offset, 7)
    yield "prologue", noise.first_message(prologue=b"rathole")
    yield "other keys", other[noise.pattern].first_message()
    yield "key alone", frame(KeyPair().public)
    for pattern in PATTERNS:
        if pattern != noise.pattern:
            other[pattern].pair = noise.pair
            yield f"pattern {pattern}", other[pattern].first_message()


def test_wrong_first_message(target, noise):
    """The server closes at once and sends not a byte."""
    t = target(noise)
    for what, data in wrong_first_messages(noise):
        sock = stranger(t, data)
        gone(sock, what)
    unharmed(t)


def test_wrong_third_message(target):
    """XX's third message with an error in each of its parts, and some of wrong sizes."""
    noise = Noise("XX")
    t = target(noise)
    cases = {f"byte {n} flipped": lambda data, n=n: flipped(data, n, 7)
             for n in (2, 33, 34, 49, 50, 65)}
    cases.update({"empty": lambda _: frame(b""), "15 bytes": lambda _: frame(bytes(15)),
                  "garbage": lambda _: frame(os.urandom(64)),
                  "cut": lambda data: frame(data[2:-1])})
    for what, change in cases.items():
        sock, data = last_message(t, noise)
        sock.sendall(change(data))
        gone(sock, what)
    unharmed(t)


def test_transport_message_in_place_of_a_handshake(target, noise):
    """A transport message of another connection as the handshake, then that connection's handshake
    replayed."""
    t = target(noise)
    recorded = []

    def record(sock, data):
        recorded.append(data)
        sock.sendall(data)

    with noise.client(connect(t.control_port), write=record) as sock:
        hello = sock.seal(control_hello("s"))
        sock.send_raw(hello)
        recv_exact(sock, 37)
    if noise.pattern != "XX":  # XX takes any first message of 32 bytes and more
        gone(stranger(t, hello), "a transport message")
    # The replay yields other keys, because the server's ephemeral key is new.
    replay = stranger(t, recorded[0])
    size = int.from_bytes(recv_exact(replay, 2), "little")
    recv_exact(replay, size)
    for data in recorded[1:]:
        replay.sendall(data)
    replay.sendall(hello)
    gone(replay, "a replayed login")
    unharmed(t)


@pytest.mark.realtime
@ours
@pytest.mark.time_limit(90)
def test_one_deadline_for_all(target, noise):
    """Handshake, hello and auth together, silent or slow at any place: closed at the deadline."""
    t = target(noise, handshake_timeout=DEADLINE)
    first, stop, cases = noise.first_message(), threading.Event(), []
    address = iter(range(1, 250))

    def begin(what, data, slow=b"", passed=0):
        """A stranger that did `passed` steps (handshake, hello) and then sent `data`."""
        number = next(address)
        source = f"127.0.1.{1 + number // 30}"
        start = time.monotonic()
        if passed:
            secure = noise.client(connect(t.control_port, source=source))
            sock = secure.sock
            if passed > 1:
                secure.sendall(control_hello("s"))
                recv_exact(secure, 37)
            data = secure.seal(data)[:-1] if data else b""
            slow = secure.seal(slow) if slow else b""
            if data:
                sock.sendall(data)
        elif what.startswith("third"):
            sock, third = last_message(t, noise, source)
            sock.sendall(third[: len(data)])
        else:
            sock = stranger(t, data, source=source)
        if slow:
            threading.Thread(target=drip, args=(sock, slow, 0.1, stop), daemon=True).start()
        cases.append((what, start, sock))

    try:
        for size in range(0, len(first), 1 if noise.pattern == "NK" else 5):
            begin(f"cut at {size}", first[:size])
        begin("10 bytes a second", b"", slow=first)
        begin("announces 65535 bytes", b"\xff\xff" + bytes(10))
        begin("only 65535 bytes", b"", slow=b"\xff\xff" + bytes(100))
        begin("handshake", b"", passed=1)
        begin("part of a hello", control_hello("s"), passed=1)
        begin("slow hello", b"", slow=control_hello("s"), passed=1)
        begin("hello", b"", passed=2)
        begin("part of an auth", bytes(32), passed=2)
        begin("slow auth", b"", slow=bytes(32), passed=2)
        if noise.pattern == "XX":
            begin("third missing", b"")
            begin("third cut", bytes(40))
        assert time.monotonic() - cases[0][1] < 1, "this machine is too slow for the bounds"
        unharmed(t)
        for what, start, sock in cases:
            how, data = how_closed(sock, max(0.1, start + within(DEADLINE + 0.5)
                                             - time.monotonic()))
            took = time.monotonic() - start
            assert how != "open", f"{what}: open after {took:.1f} s"
            assert data == b"" or what.startswith("slow hello"), f"{what}: answered {data!r}"
            # The server may close at once on a message that is too long for any login.
            assert took > DEADLINE - 0.3 or "65535" in what, f"{what}: closed after {took:.1f} s"
    finally:
        stop.set()
        close_all([sock for _, _, sock in cases])
    unharmed(t)


@ours
def test_low_order_points_towards_the_server(target, noise):
    """Messages that are valid but for the zero secret (test_noise_peer.py shows that they are)."""
    t = target(noise)
    for what, changes in points(noise, "client"):
        sock = connect(t.control_port)
        with pytest.raises((EOFError, ConnectionError)):
            secure = noise.client(sock, tail=control_hello("s"), **changes)
            if noise.pattern != "XX":
                raise AssertionError(f"{what}: the server went on")
            recv_exact(secure, 37)
            raise AssertionError(f"{what}: the server went on")
        sock.close()
    unharmed(t)


# --- valid handshakes in other segments ---------------------------------------------------------


def test_handshake_in_other_segments(target, noise):
    """One byte a segment; XX's third message and the hello in one."""
    t = target(noise)
    with noise.client(connect(t.control_port), write=one_by_one) as sock:
        one_by_one(sock.sock, sock.seal(control_hello("s")))
        nonce = recv_exact(sock, 37)[5:]
        one_by_one(sock.sock, sock.seal(auth(TOKEN, nonce)))
        assert recv_exact(sock, 4) == u32(0)
    with noise.client(connect(t.control_port), tail=control_hello("s")) as sock:
        nonce = recv_exact(sock, 37)[5:]
        sock.sendall(auth(TOKEN, nonce))
        assert recv_exact(sock, 4) == u32(0)
    unharmed(t)


def test_ephemeral_keys_are_new_each_time(target, noise):
    t = target(noise)
    seen = set()
    for _ in range(scaled(200, 30)):
        with noise.client(connect(t.control_port)) as sock:
            seen.add(sock.handshake.re)
    assert len(seen) == scaled(200, 30)


# --- crowds -------------------------------------------------------------------------------------


class Flood:
    """Garbage handshakes from one address, some thousands a second if the machine can."""

    def __init__(self, t, noise, source="127.0.0.2"):
        self.t, self.noise, self.source = t, noise, source
        self.count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        held = []
        while not self._stop.wait(0.0005):
            sock = socket.socket()
            try:
                sock.settimeout(1)
                sock.bind((self.source, 0))
                sock.connect(("127.0.0.1", self.t.control_port))
                sock.sendall(self.noise.garbage())
                self.count += 1
            except OSError:
                pass
            held.append(sock)
            if len(held) > 40:  # if closed at once, there is nothing to compute for
                reset(held.pop(0))
        close_all(held)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join(within(10))


@pytest.mark.realtime
@ours
@pytest.mark.parametrize("pattern", ["NK", "KK"] if SCALE >= 0.5 else ["NK"])
def test_flood_of_garbage_handshakes(tunnel, service, pattern):
    """During a flood from one address, a login from another takes less than a second, and a stream
    flows on."""
    noise = Noise(pattern)
    rate = 1 << 20
    t = tunnel({"echo": service(Echo).port, "source": service(Source, rate).port, "s": None},
               transport=noise)
    got = 0
    with connect(t.port("source")) as visitor:
        visitor.settimeout(within(5))

        def read_for(seconds):
            nonlocal got
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                part = visitor.recv(1 << 20)
                assert part, "the stream ended"
                got += len(part)

        read_for(0.3)
        with Flood(t, noise) as flood:
            read_for(0.5)  # the first of the flood have arrived
            cpu, start, got = t.server.cpu_seconds(), time.monotonic(), 0
            for _ in range(5):
                unharmed(t)
                read_for(0.4)
            took = time.monotonic() - start
            used = (t.server.cpu_seconds() - cpu) / took
            assert got / took > 0.8 * rate or SANITIZED, f"{got / took / rate:.0%} of the rate"
            assert used < 1 or SANITIZED, f"the flood costs {used:.0%} of a core"
        assert flood.count > 100
    unharmed(t)
    assert t.server.log_size() < 100_000, "a stranger can flood the log"


@ours
def test_garbage_leaves_nothing_behind(target, noise):
    t = target(noise)
    count = scaled(400, 200)

    def one_round():
        for n in range(count):
            sock = stranger(t, noise.first_message() if n % 2 else noise.garbage(),
                            source=f"127.0.2.{1 + n % 20}")
            (reset if n % 3 else socket.socket.close)(sock)
        unharmed(t)

    nothing_piles_up([t.server], one_round, count, fds_more=4)


@ours
def test_half_done_handshakes_are_capped(target, noise):
    """Half-done handshakes count as silent connections do: at most 64 per address."""
    t = target(noise, handshake_timeout=60)
    socks = []
    try:
        for _ in range(150):
            sock = stranger(t, source="127.0.3.1")
            try:
                sock.sendall(noise.first_message()[: 20 if noise.pattern != "XX" else None])
            except OSError:
                pass
            sock.setblocking(False)
            socks.append(sock)

        def count_open():
            """With XX the server has answered: read the answer, or still_open() takes it for an end."""
            for sock in socks:
                try:
                    sock.recv(4096)
                except OSError:
                    pass
            return len(still_open(socks))

        wait_until(lambda: count_open() <= 64, within(3), lambda: f"{count_open()} are open")
        unharmed(t)
        with t.login("s", source="127.0.3.1"):
            pass
    finally:
        close_all(socks)


def test_ping_inside(target, noise):
    """The baseline of this file."""
    t = target(noise)
    ping(t.port())
    unharmed(t)
