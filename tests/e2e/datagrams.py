"""UDP services behind the tunnel, and the visitors in front of it.

A payload names its visitor, its sequence number and its size, so that the receiver detects datagrams
that are mixed up, cut or out of order: see payload() and parse().
"""

import collections
import os
import select
import socket
import struct
import threading
import time

import ledger
from harness import within
from services import POOL

BUFFER_BYTES = 4 << 20
DATAGRAM_MAX = 65535
SOL_UDP, UDP_SEGMENT = 17, 103
HEADER = struct.Struct("<IIH")  # visitor, number, size
IN_FLIGHT = 64  # so many of up to 1500 bytes fit into a default socket buffer (208 KiB)
STALLED_SECONDS = 1


def payload(visitor, number, size):
    """`size` bytes that begin with the HEADER; a shorter payload has only the start of it."""
    offset = (visitor * 65537 + number * 7919) % (len(POOL) - DATAGRAM_MAX)
    head = HEADER.pack(visitor, number, size)
    return head[:size] + POOL[offset : offset + max(0, size - HEADER.size)]


def parse(data):
    """(visitor, number) of a payload, which must be intact."""
    assert len(data) >= HEADER.size, f"cut to {len(data)} bytes"
    visitor, number, size = HEADER.unpack(data[: HEADER.size])
    assert size == len(data), f"{len(data)} of {size} bytes (visitor {visitor}, number {number})"
    assert data == payload(visitor, number, size), f"changed (visitor {visitor}, number {number})"
    return visitor, number


def udp_socket(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    for option in (33, socket.SO_RCVBUF):  # SO_RCVBUFFORCE (33) needs CAP_NET_ADMIN
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            break
        except PermissionError:
            continue
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return sock


# --- services -----------------------------------------------------------------------------------


class UdpEcho(ledger.Counted):
    """Sends back each datagram. Subclasses override handle().

    peers: {address of a local socket of the client: datagrams that came from it}."""

    tick_seconds = None

    def __init__(self, port, host="127.0.0.1"):
        self.port, self.host = port, host
        self.peers = collections.OrderedDict()
        self.received = 0
        self.sock = udp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.bind((host, port))
        self.sock.setblocking(False)
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def datagrams(self):
        return self.received

    def wait_quiet(self, quiet=0.2, timeout=10):
        """Waits until no datagram has arrived for `quiet` seconds."""
        deadline = time.monotonic() + timeout
        last, since = self.received, time.monotonic()
        while time.monotonic() - since < quiet:
            assert time.monotonic() < deadline, "datagrams do not stop"
            time.sleep(0.01)
            if self.received != last:
                last, since = self.received, time.monotonic()

    def handle(self, data, peer):
        self.send(data, peer)

    def tick(self):
        """Runs every tick_seconds, if that is set."""

    def send(self, data, peer):
        try:
            self.sock.sendto(data, peer)
        except OSError:  # the peer is gone, or our buffer is full: a datagram may be lost
            pass

    def _run(self):
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        poller.register(self.wake_read, select.POLLIN)
        due = time.monotonic()
        while True:
            wait = None
            if self.tick_seconds:
                wait = max(0, due - time.monotonic()) * 1000
            events = dict(poller.poll(wait))
            if self.wake_read in events:
                return
            if self.tick_seconds and time.monotonic() >= due:
                self.tick()
                due += self.tick_seconds
            for _ in range(64):
                try:
                    data, peer = self.sock.recvfrom(DATAGRAM_MAX)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error for an earlier datagram
                    continue
                self.peers[peer] = self.peers.get(peer, 0) + 1
                self.received += 1
                self.handle(data, peer)

    def stop(self):
        if self.thread.is_alive():
            os.write(self.wake_write, b"x")
            self.thread.join(10)
        for fd in (self.wake_read, self.wake_write):
            try:
                os.close(fd)
            except OSError:
                pass
        self.wake_read = self.wake_write = -1
        self.sock.close()


class UdpSeen(UdpEcho):
    """An echo for Flows that records from which sockets each visitor's datagrams came."""

    def __init__(self, port, **kwargs):
        self.sockets_of = collections.defaultdict(set)
        super().__init__(port, **kwargs)

    def handle(self, data, peer):
        if len(data) >= HEADER.size:
            self.sockets_of[HEADER.unpack(data[: HEADER.size])[0]].add(peer)
        self.send(data, peer)

    def check_sockets(self, visitors):
        """Checks that each visitor had one socket all the time and shared it with no other."""
        assert len(self.sockets_of) == visitors
        assert all(len(sockets) == 1 for sockets in self.sockets_of.values())
        assert len(set.union(*self.sockets_of.values())) == visitors


class UdpLateEcho(UdpEcho):
    """Sends back each datagram LATE_SECONDS after it came."""

    LATE_SECONDS = 0.1
    tick_seconds = 0.005

    def __init__(self, port, **kwargs):
        self.held = collections.deque()
        super().__init__(port, **kwargs)

    def handle(self, data, peer):
        self.held.append((time.monotonic() + self.LATE_SECONDS, data, peer))

    def tick(self):
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            self.send(*self.held.popleft()[1:])


class UdpReport(UdpEcho):
    """Answers with the size of the datagram; a request "give N" gets payload(0, N, N) instead."""

    def handle(self, data, peer):
        if data.startswith(b"give "):
            size = int(data[5:])
            self.send(payload(0, size, size), peer)
        else:
            self.send(b"got %d" % len(data), peer)


class UdpWorld(UdpEcho):
    """A game server: every 20 ms all players get the same state. Their datagrams are counted."""

    PLAYER_SECONDS = 1.0
    tick_seconds = 0.02

    def __init__(self, port, **kwargs):
        self.last = {}
        self.number = 0
        super().__init__(port, **kwargs)

    def handle(self, data, peer):
        self.last[peer] = time.monotonic()

    def tick(self):
        now = time.monotonic()
        self.number += 1
        for peer, last in self.last.items():
            if now - last < self.PLAYER_SECONDS:
                self.send(payload(7, self.number, 200), peer)


# --- visitors -----------------------------------------------------------------------------------


class UdpVisitor:
    """A connected UDP socket: the kernel delivers only datagrams from the address that it is connected to."""

    def __init__(self, port, host="127.0.0.1", source=None):
        self.sock = udp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if source:
            self.sock.bind((source, 0))
        self.port = port
        self.sock.connect((host, port))
        self.address = self.sock.getsockname()[:2]

    def send(self, data):
        """Returns False if the kernel reported an ICMP error for an earlier datagram instead."""
        ledger.current.datagrams[self.port] += 1
        try:
            self.sock.send(data)
            return True
        except ConnectionRefusedError:
            return False

    def send_joined(self, pieces):
        """Sends all pieces in one call, segmented by the kernel (UDP_SEGMENT). All have the same size;
        the last one may be shorter."""
        size = struct.pack("=H", len(pieces[0]))
        ledger.current.datagrams[self.port] += len(pieces)
        self.sock.sendmsg([b"".join(pieces)], [(SOL_UDP, UDP_SEGMENT, size)])

    def receive(self, timeout):
        """The next datagram, or None after `timeout` seconds or an ICMP error."""
        self.sock.settimeout(max(timeout, 0.001))
        try:
            return self.sock.recv(DATAGRAM_MAX)
        except (TimeoutError, ConnectionRefusedError):
            return None

    def ask(self, data, timeout=5):
        """Sends `data` and returns the first datagram that comes back, or None."""
        self.send(data)
        return self.receive(timeout)

    def insist(self, data, timeout=10, every=0.1):
        """Like ask(), but repeats `data` until an answer comes. Further answers may arrive later."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            started = time.monotonic()
            answer = self.ask(data, every)
            if answer is not None:
                return answer
            time.sleep(max(0, every - (time.monotonic() - started)))
        raise AssertionError(f"no answer to {data[:20]!r} within {timeout:g} s")

    def drain(self, quiet=0.1):
        """All datagrams until none has arrived for `quiet` seconds."""
        got = []
        while (data := self.receive(quiet)) is not None:
            got.append(data)
        return got

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def knock(port, host="127.0.0.1", visitors=16, timeout=15, word=b"knock"):
    """Opens `visitors` new sockets one by one and waits until each has been answered. The kernel's hash
    spreads them over the lanes, so every lane that it uses works then.

    Returns the seconds that it took."""
    start = time.monotonic()
    for _ in range(visitors):
        with UdpVisitor(port, host) as visitor:
            visitor.insist(word, start + timeout - time.monotonic())
    return time.monotonic() - start


class Flows:
    """Many visitors of an echo at once, in one thread.

    Each visitor sends numbered payloads, and checks that what comes back is its own, unharmed, in
    order and not twice. source: the address they come from, if not the usual one."""

    def __init__(self, port, count, host="127.0.0.1", source=None):
        self.port = port
        self.sockets = []
        self.poller = select.epoll()
        self.by_fd = {}
        self.next = [0] * count      # the next number to send
        self.settled = [0] * count   # all numbers below have arrived or count as lost
        self.highest = [-1] * count  # the highest number that has arrived
        self.flying = 0              # sent and not settled, over all visitors
        self.lost = self.received = self.refused = 0
        self.times = []
        self.started = {}
        for n in range(count):
            sock = udp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if source:
                sock.bind((source, 0))
            sock.connect((host, port))
            sock.setblocking(False)
            self.poller.register(sock, select.EPOLLIN)
            self.by_fd[sock.fileno()] = n
            self.sockets.append(sock)

    def run(self, each=1, size=64, window=1, total=IN_FLIGHT, patience=None, lossy=False, only=None,
            until=None, stalled=None):
        """`each` round trips for each visitor, or as many as fit in before `until` is set.

        size: a number, or a function of (visitor, number). At most `window` in flight for a visitor
        and `total` in all. If nothing arrives for `patience` seconds, the datagrams in flight count as
        lost: a failure unless `lossy`. stalled: called in each second in which nothing arrives."""
        chosen = range(len(self.sockets)) if only is None else only
        size_of = size if callable(size) else lambda visitor, number: size
        patience = patience or within(5)
        left = dict.fromkeys(chosen, each)
        ready = collections.deque(chosen)
        last = pushed = time.monotonic()
        while True:
            over = until is not None and until.is_set()
            for _ in range(0 if over else len(ready)):
                if self.flying >= total:
                    break
                n = ready.popleft()
                while left[n] > 0 and self.next[n] - self.settled[n] < window:
                    if self.flying >= total or not self._send(n, size_of, lossy):
                        ready.append(n)
                        break
                    left[n] -= until is None
            if not self.flying:
                if over or not ready:
                    return self
                time.sleep(0.001)  # the kernel refused every attempt to send
                continue
            events = self.poller.poll(0.02, 256)
            now = time.monotonic()
            for fd, _ in events:
                n = self.by_fd[fd]
                if self._receive(n, now, lossy) and left.get(n, 0) > 0:
                    ready.append(n)
                last = pushed = now
            if stalled is not None and now - pushed > STALLED_SECONDS:
                stalled()
                pushed = time.monotonic()
            if now - last > patience:
                assert lossy, f"{self.flying} datagrams lost after {self.received} that came"
                self._give_up()
                ready = collections.deque(n for n in chosen if left[n] > 0)
                last = now

    def _give_up(self):
        self.lost += self.flying
        self.flying = 0
        self.settled = list(self.next)
        self.started.clear()

    def _send(self, n, size_of, lossy):
        number = self.next[n]
        size = max(HEADER.size, size_of(n, number))
        ledger.current.datagrams[self.port] += 1
        try:
            self.sockets[n].send(payload(n, number, size))
        except ConnectionRefusedError:
            assert lossy, f"visitor {n}: connection refused"
            self.refused += 1
            return False
        except BlockingIOError:
            return False
        self.started[n, number] = time.monotonic()
        self.next[n] += 1
        self.flying += 1
        return True

    def _receive(self, n, now, lossy):
        """The number of datagrams that arrived for the visitor."""
        count = 0
        while True:
            try:
                data = self.sockets[n].recv(DATAGRAM_MAX)
            except BlockingIOError:
                return count
            except ConnectionRefusedError:
                assert lossy, f"visitor {n}: connection refused"
                self.refused += 1
                continue
            count += 1
            visitor, number = parse(data)
            assert visitor == n, f"visitor {n} got what visitor {visitor} sent"
            assert number < self.next[n], f"visitor {n} got {number}, which it never sent"
            assert number > self.highest[n], \
                f"visitor {n} got {number} after {self.highest[n]}: twice or out of order"
            self.highest[n] = number
            self.received += 1
            if (n, number) in self.started:
                self.times.append(now - self.started.pop((n, number)))
            if number < self.settled[n]:
                self.lost -= 1  # late, and not lost
                continue
            skipped = number - self.settled[n]
            assert lossy or not skipped, f"visitor {n}: {number} came, {self.settled[n]} was next"
            self.lost += skipped
            self.flying -= skipped + 1
            self.settled[n] = number + 1

    def close(self):
        self.poller.close()
        for sock in self.sockets:
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
