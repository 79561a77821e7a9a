"""Client and server ends of a UDP tunnel, played by the test: hand-made frames, valid and invalid."""

import collections
import ctypes
import socket
import struct
import threading

from datagrams import UdpVisitor
from harness import within
from protocol import (
    CMD_CREATE_DATA_CHANNEL, CMD_HEARTBEAT, DATA_CMD_FORWARD_UDP, FakeServer, FrameReader, Session,
    recv_exact, reset, u32, udp_frame, udp_header,
)

libc = ctypes.CDLL(None, use_errno=True)


def drops(process):
    """The number of datagrams and frames that the process dropped, for any reason."""
    counters = {}
    for worker in process.metrics():
        for name, value in worker.items():
            counters[name] = counters.get(name, 0) + value
    return sum(value for name, value in counters.items()
               if name.startswith("udp") and "drop" in name)


def header_of(size, visitor, length):
    """A header of that many bytes for the visitor, cut or with bytes added."""
    header = udp_header(visitor, length)
    return (header + bytes(range(256)))[:size]


def abort(sock):
    """Sends RST at once, even while a thread is in recv(2): connect(2) with AF_UNSPEC does that."""
    nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
    libc.connect(sock.fileno(), nowhere, len(nowhere))
    reset(sock)


class UdpChannel:
    """The client's end of a UDP data channel: reads it in a thread of its own, echoes if told to.

    frames: what came, [(visitor's address, payload)]."""

    def __init__(self, sock, echo, stalled=False):
        self.sock, self.echo = sock, echo
        self.frames = []
        self.started = threading.Event()
        self.ended = threading.Event()
        self.error = None
        self.lock = threading.Lock()
        self.may_read = threading.Event()
        if not stalled:
            self.may_read.set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        reader = FrameReader()
        try:
            self.sock.settimeout(None)
            command = recv_exact(self.sock, 4)
            if command != u32(DATA_CMD_FORWARD_UDP):
                raise ValueError(f"not StartForwardUdp: {command.hex()}")
            self.started.set()
            while True:
                self.may_read.wait()
                data = self.sock.recv(256 << 10)
                if not data:
                    return
                frames = reader.feed(data)
                self.frames += frames
                if self.echo:
                    self.write(b"".join(udp_frame(*frame) for frame in frames))
        except (OSError, EOFError):
            pass
        except ValueError as error:
            self.error = error
        finally:
            self.ended.set()

    def write(self, data):
        with self.lock:
            self.sock.sendall(data)

    def send(self, visitor, data, **kwargs):
        self.write(udp_frame(visitor, data, **kwargs))

    def close(self):
        self.may_read.set()
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the reader up
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        self.may_read.set()
        abort(self.sock)


class PlayedClient:
    """Logs in for a UDP service and answers each request with a channel, at most `offer` in all."""

    def __init__(self, control_port, service, token, echo=True, offer=None, make=UdpChannel):
        self.echo, self.offer, self.make = echo, offer, make
        self.session = Session(control_port, service, token)
        self.channels = []
        self.requests = 0
        self.ended = threading.Event()
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        try:
            while not self.stopping:
                if self.session.command(0.1) == CMD_CREATE_DATA_CHANNEL:
                    self.requests += 1
                    if self.offer is None or len(self.channels) < self.offer:
                        self.open()
        except (EOFError, OSError):
            pass
        self.ended.set()

    def open(self, early=b""):
        channel = self.make(self.session.open_channel(early), self.echo)
        self.channels.append(channel)
        return channel

    def live(self):
        return [each for each in self.channels if each.started.is_set() and not each.ended.is_set()]

    def frames(self):
        return [frame for channel in self.channels for frame in channel.frames]

    def close(self):
        self.stopping = True
        self.thread.join(5)
        for channel in self.channels:
            channel.close()
        self.session.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class ServerChannel:
    """The server's end of a UDP data channel; what comes is read in a thread of its own."""

    def __init__(self, sock, read=True):
        self.sock = sock
        self.frames = collections.deque()
        self.arrived = threading.Condition()
        self.ended = threading.Event()
        if read:
            self.start_reading()

    def start_reading(self):
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        reader = FrameReader()
        self.sock.settimeout(None)
        try:
            while data := self.sock.recv(256 << 10):
                frames = reader.feed(data)
                with self.arrived:
                    self.frames.extend(frames)
                    self.arrived.notify_all()
        except OSError:
            pass
        self.ended.set()
        with self.arrived:
            self.arrived.notify_all()

    def next_frame(self, timeout):
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.frames or self.ended.is_set(), timeout), \
                f"no frame within {timeout:g} s"
            assert self.frames, "the channel has ended"
            return self.frames.popleft()

    def expect_end(self, timeout):
        assert self.ended.wait(timeout), "the channel has not ended"
        assert not self.frames, f"frames before the end: {list(self.frames)[:3]}"

    def write(self, data):
        self.sock.sendall(data)

    def send(self, visitor, data, **kwargs):
        self.write(udp_frame(visitor, data, **kwargs))

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        abort(self.sock)


class PlayedServer:
    """Takes one login, and asks for data channels when told to."""

    def __init__(self, port, token):
        self.fake, self.token = FakeServer(port), token
        self.control = self.key = None

    def login(self, timeout):
        self.control, self.key = self.fake.accept_login(self.token, timeout)

    def open_data(self, timeout=5):
        self.control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
        return self.fake.accept_data(self.key, within(timeout))

    def start_udp(self, sock, frames=b"", **kwargs):
        sock.sendall(u32(DATA_CMD_FORWARD_UDP) + frames)
        return ServerChannel(sock, **kwargs)

    def open_udp(self, frames=b"", **kwargs):
        return self.start_udp(self.open_data(), frames, **kwargs)

    def still_logged_in(self):
        try:
            self.control.sendall(u32(CMD_HEARTBEAT))
            self.open_data()
            return True
        except OSError:
            return False

    def close(self):
        self.fake.close()


def channel_of(client, visitor):
    """The channel that this visitor's lane uses."""
    mapped = (f"::ffff:{visitor.address[0]}", visitor.address[1])
    for channel in reversed(client.live()):
        if any(address in (visitor.address, mapped) for address, _ in channel.frames):
            return channel
    raise AssertionError("no lane has seen the visitor")


def visitor_of_each(port, client, host="127.0.0.1"):
    """[(channel, a visitor of its lane)]; close them."""
    found = {}
    for _ in range(400):
        if len(found) == len(client.live()):
            return list(found.items())
        visitor = UdpVisitor(port, host)
        assert visitor.insist(b"hello", within(5)) == b"hello"
        visitor.drain(0.005)
        channel = channel_of(client, visitor)
        if found.setdefault(channel, visitor) is not visitor:
            visitor.close()
    raise AssertionError(f"{len(found)} of {len(client.live())} lanes have got a visitor")
