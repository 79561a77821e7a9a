"""Local services behind the tunnel, and visitors in front of it.

Services run in threads of the test process, one thread a connection. Each connection leaves a
Record: how many bytes came, and how it ended ("fin", "rst").
"""

import hashlib
import random
import select
import socket
import struct
import threading
import time

import ledger
from harness import wait_until, within
from protocol import connect, recv_exact, reset

threading.stack_size(256 << 10)

CHUNK = 256 << 10
POOL = random.Random(20240229).randbytes(8 << 20)


def pattern(seed, size):
    """size reproducible bytes that differ from seed to seed, as a list of buffers."""
    offset = (seed * 7919 * 4099) % len(POOL)
    parts = []
    while size > 0:
        part = memoryview(POOL)[offset : offset + min(size, CHUNK)]
        parts.append(part)
        size -= len(part)
        offset = (offset + len(part)) % len(POOL)
    return parts


def digest_of(parts):
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.digest()


class Broken(Exception):
    """A transfer that did not end as it should: .how is "rst", "fin" or "timeout"."""

    def __init__(self, how, message):
        super().__init__(message)
        self.how = how


def duplex(sock, out, sink, timeout, want=None, shut_after=True):
    """Sends the buffers of `out` and feeds what arrives to sink(bytes), both at once.

    Ends when everything is sent and the peer has ended its side, or `want` bytes have arrived.
    timeout counts from the last progress. Returns the bytes received."""
    sock.setblocking(False)
    poll = select.poll()
    parts = iter(out)
    part = memoryview(next(parts, b""))
    got, eof, sending = 0, False, True
    while True:
        while sending and not part:
            following = next(parts, None)
            if following is None:
                sending = False
                if shut_after:
                    try:
                        sock.shutdown(socket.SHUT_WR)
                    except OSError as error:
                        raise Broken("rst", f"shutdown: {error}") from None
            else:
                part = memoryview(following)
        done_reading = eof or (want is not None and got >= want)
        if done_reading and not sending:
            break
        mask = (0 if done_reading else select.POLLIN) | (select.POLLOUT if sending else 0)
        poll.register(sock, mask)
        if not poll.poll(timeout * 1000):
            raise Broken("timeout", f"no progress for {timeout} s after {got} bytes")
        try:
            if sending:
                try:
                    part = part[sock.send(part) :]
                except BlockingIOError:
                    pass
            if not done_reading:
                try:
                    data = sock.recv(CHUNK)
                    if data:
                        got += len(data)
                        sink(data)
                    else:
                        eof = True
                except BlockingIOError:
                    pass
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Broken("rst", f"{error} after {got} bytes") from None
        if eof and want is not None and got < want:
            raise Broken("fin", f"end of stream after {got} of {want} bytes")
    sock.setblocking(True)
    sock.settimeout(timeout)
    return got


class Record:
    def __init__(self, peer):
        self.peer = peer
        self.received = 0
        self.end = None
        self.error = None
        self.sock = None
        self.done = threading.Event()


class Service(ledger.Counted):
    """A TCP service; subclasses say in serve() what a connection does."""

    @property
    def connections(self):
        return len(self.records)

    def __init__(self, port, host="127.0.0.1", backlog=1024):
        self.port, self.host = port, host
        self.records = []
        self.lock = threading.Lock()
        self.stopping = False
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(backlog)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            record = Record(peer)
            record.sock = sock
            with self.lock:
                self.records.append(record)
            threading.Thread(target=self._run, args=(sock, record), daemon=True).start()

    def _run(self, sock, record):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(60)
            self.serve(sock, record)
        except (ConnectionResetError, BrokenPipeError) as error:
            record.end, record.error = "rst", error
        except Broken as error:
            record.end, record.error = error.how, error
        except (OSError, EOFError) as error:
            record.end, record.error = "error", error
        finally:
            record.done.set()
            sock.close()

    def serve(self, sock, record):
        raise NotImplementedError

    def wait_record(self, index, timeout=10):
        """Waits for the end of the index-th connection; returns its Record."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self.lock:
                record = self.records[index] if len(self.records) > index else None
            if record and record.done.wait(max(0.01, deadline - time.monotonic())):
                return record
            time.sleep(0.01)
        raise AssertionError(f"connection {index} of the local service has not ended")

    def wait_connections(self, count, timeout=10):
        deadline = time.monotonic() + timeout
        while len(self.records) < count:
            assert time.monotonic() < deadline, (
                f"{len(self.records)} of {count} connections reached the local service"
            )
            time.sleep(0.005)

    def open_count(self):
        with self.lock:
            return sum(not record.done.is_set() for record in self.records)

    def stop(self):
        self.stopping = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.thread.join(5)
        with self.lock:
            for record in self.records:
                try:
                    record.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Echo(Service):
    """Sends back what comes, then ends when the visitor has ended."""

    def serve(self, sock, record):
        while True:
            data = sock.recv(CHUNK)
            if not data:
                record.end = "fin"
                return
            record.received += len(data)
            sock.sendall(data)


class EchoForMany(Echo):
    """Echo for thousands of quiet connections, with one thread for all of them."""

    def _accept(self):
        poll = select.epoll()
        poll.register(self.listener, select.EPOLLIN)
        records = {}
        while not self.stopping:
            for fd, _ in poll.poll(0.1):
                if fd in records:
                    self._echo(poll, records, fd)
                    continue
                try:
                    sock, peer = self.listener.accept()
                except OSError:
                    return
                record = Record(peer)
                record.sock = sock
                sock.settimeout(60)
                records[sock.fileno()] = record
                poll.register(sock, select.EPOLLIN)
                with self.lock:
                    self.records.append(record)

    @staticmethod
    def _echo(poll, records, fd):
        record = records[fd]
        try:
            data = record.sock.recv(CHUNK)
            record.received += len(data)
            record.sock.sendall(data)
            record.end = None if data else "fin"
        except OSError as error:
            record.end, record.error = "rst", error
        if record.end:
            poll.unregister(fd)
            del records[fd]
            record.sock.close()
            record.done.set()


HEADER = struct.Struct("<QQQ")  # seed, bytes up, bytes down


class Digest(Service):
    """Reads a header, then takes `up` bytes while it sends `down` bytes, then the SHA-256 of what
    came, then ends. The other half is transfer()."""

    def serve(self, sock, record):
        seed, up, down = HEADER.unpack(recv_exact(sock, HEADER.size))
        sha = hashlib.sha256()
        record.received = duplex(
            sock, pattern(seed + 1, down), sha.update, 60, want=up, shut_after=False
        )
        sock.sendall(sha.digest())
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if not sock.recv(1) else "surplus"


def transfer(port, seed, up, down, host="127.0.0.1", timeout=30, greeting=b""):
    """One visitor of Digest: raises Broken or AssertionError unless every byte is right."""
    with socket.create_connection((host, port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sha = hashlib.sha256()
        tail = bytearray()
        left = down

        def sink(data):
            nonlocal left
            body = data[:left]
            left -= len(body)
            sha.update(body)
            tail.extend(data[len(body) :])

        out = [greeting + HEADER.pack(seed, up, down)] + pattern(seed, up)
        got = duplex(sock, out, sink, timeout)
        assert got == down + 32, f"seed {seed}: {got} bytes instead of {down + 32}"
        assert sha.digest() == digest_of(pattern(seed + 1, down)), f"seed {seed}: download differs"
        assert bytes(tail) == digest_of(pattern(seed, up)), f"seed {seed}: upload differs"


class AfterEof(Service):
    """Half close, visitor first: takes all until the visitor's FIN, then sends SHA-256 and size
    bytes, then ends."""

    def __init__(self, port, size, **kwargs):
        self.size = size
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        sha = hashlib.sha256()
        while data := sock.recv(CHUNK):
            record.received += len(data)
            sha.update(data)
        sock.sendall(sha.digest())
        for part in pattern(4, self.size):
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin"


class EofFirst(Service):
    """Half close, service first: sends size bytes and its FIN, then takes the visitor's upload and
    keeps its digest in the record."""

    def __init__(self, port, size, **kwargs):
        self.size = size
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        for part in pattern(5, self.size):
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        sha = hashlib.sha256()
        while data := sock.recv(CHUNK):
            record.received += len(data)
            sha.update(data)
        record.digest = sha.digest()
        record.end = "fin"


class Banner(Service):
    """Speaks first, then echoes."""

    TEXT = b"220 ready\r\n"

    def serve(self, sock, record):
        sock.sendall(self.TEXT)
        Echo.serve(self, sock, record)


class Named(Service):
    """Answers every connection with its own name and ends."""

    def __init__(self, port, name, **kwargs):
        self.name = name
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        sock.sendall(self.name.encode())
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if not sock.recv(1) else "surplus"


class Source(Service):
    """Sends for ever; paced to `rate` bytes a second when given."""

    def __init__(self, port, rate=None, **kwargs):
        self.rate = rate
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        chunk = POOL[: CHUNK if not self.rate else max(1, self.rate // 20)]
        sock.settimeout(600)
        record.sent = 0
        while not self.stopping:
            record.sent += sock.send(chunk)
            if self.rate:
                time.sleep(0.05)


class Sink(Service):
    """Takes everything, says nothing, ends when the visitor has ended."""

    def serve(self, sock, record):
        sock.settimeout(600)
        while data := sock.recv(CHUNK):
            record.received += len(data)
        record.end = "fin"


class NeverReads(Service):
    """Accepts and does not read until the service stops."""

    def serve(self, sock, record):
        while not self.stopping:
            time.sleep(0.05)
        record.end = "stopped"


class Resetter(Service):
    """Takes `after` bytes, sends `reply`, then resets the connection, after a pause or at once."""

    def __init__(self, port, after=1, reply=b"", pause=0.2, **kwargs):
        self.after, self.reply, self.pause = after, reply, pause
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        recv_exact(sock, self.after)
        if self.reply:
            sock.sendall(self.reply)
            time.sleep(self.pause)
        reset(sock)
        record.end = "reset by us"


class Http(Service):
    """Just enough HTTP/1.1: keeps the connection alive, answers each GET with its path."""

    def __init__(self, port, **kwargs):
        self.requests = 0
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                data = sock.recv(65536)
                if not data:
                    record.end = "fin"
                    return
                pending += data
            head, pending = pending.split(b"\r\n\r\n", 1)
            path = head.split(b" ")[1]
            with self.lock:
                self.requests += 1
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)
            )


def http_get(sock, path):
    ledger.current.requests[sock.getpeername()[1]] += 1
    sock.sendall(b"GET %s HTTP/1.1\r\nHost: e2e\r\n\r\n" % path)
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(65536)
        if not part:
            raise EOFError("end of stream in the response")
        head += part
    head, body = head.split(b"\r\n\r\n", 1)
    size = int([line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")][0][15:])
    return head.split(b"\r\n")[0], body + recv_exact(sock, size - len(body))


def ping(port, payload=b"ping", host="127.0.0.1", timeout=5):
    """One visitor of Echo, from connect to FIN both ways. Returns the seconds it took."""
    start = time.monotonic()
    with socket.create_connection((host, port), timeout=timeout) as sock:
        sock.sendall(payload)
        assert recv_exact(sock, len(payload)) == payload
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "bytes after the echo"
    return time.monotonic() - start


def ask(port, payload=b"ping", host="127.0.0.1", timeout=5):
    """As ping(), but leaves without waiting for the service's end: where our server has rathole's client over
    WebSocket, that comes after half_close_timeout."""
    with socket.create_connection((host, port), timeout=timeout) as sock:
        sock.sendall(payload)
        assert recv_exact(sock, len(payload)) == payload


def answers(port, timeout=None):
    """Whether a visitor of Echo gets its answer, by default within a second."""
    try:
        ping(port, timeout=timeout or within(1))
        return True
    except (OSError, EOFError, AssertionError):
        return False


def burst(port, count, timeout):
    """count visitors of Echo at once, all answered, then all gone."""
    visitors = [connect(port) for _ in range(count)]
    for n, visitor in enumerate(visitors):
        visitor.sendall(b"%4d" % n)
    for n, visitor in enumerate(visitors):
        visitor.settimeout(timeout)
        assert recv_exact(visitor, 4) == b"%4d" % n
        visitor.close()


class Prober:
    """Asks one relay to an Echo again and again from a thread, and keeps the worst delay. The end of
    a with-block checks that every question was answered."""

    QUESTION = b"still there?"

    def __init__(self, port, timeout=30):
        self.sock = connect(port)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout)
        self.worst, self.count, self.stopping, self.error = 0, 0, False, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.stopping:
                start = time.monotonic()
                self.sock.sendall(self.QUESTION)
                assert recv_exact(self.sock, len(self.QUESTION)) == self.QUESTION
                self.worst = max(self.worst, time.monotonic() - start)
                self.count += 1
                time.sleep(0.001)
        except (OSError, EOFError, AssertionError) as error:
            self.error = error

    def stop(self):
        self.stopping = True
        self.thread.join()
        self.sock.close()
        if self.error is not None:
            raise self.error
        assert self.count > 0
        return self.worst

    def __enter__(self):
        """The block begins with the first answer: until then there may be no relay."""
        wait_until(lambda: self.count > 0 or self.error, within(15), "the first answer")
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
