"""The wire protocol of rathole v0.5, written by hand: enough to play a client or a server. It runs on
plain TCP, or inside the socket that `secure` makes of a connected one (noise_peer.Noise.client,
.server).

This module shares no code with the C program, so a mistake in one is not repeated in the other.
"""

import hashlib
import ipaddress
import os
import queue
import socket
import struct
import threading
import time

import ledger

VERSION = 1

TAG_CONTROL = 0
TAG_DATA = 1

ACK_OK = 0
ACK_SERVICE_NOT_EXIST = 1
ACK_AUTH_FAILED = 2

CMD_CREATE_DATA_CHANNEL = 0
CMD_HEARTBEAT = 1

DATA_CMD_FORWARD_TCP = 0
DATA_CMD_FORWARD_UDP = 1

HELLO_SIZE = 37
AUTH_SIZE = 32

UDP_V4, UDP_V6 = 0, 1  # tags of the address in a frame
UDP_PAYLOAD_MAX = 65507


def digest(data):
    return hashlib.sha256(data).digest()


def hello(tag, payload, version=VERSION):
    return struct.pack("<IB", tag, version) + payload


def control_hello(service):
    return hello(TAG_CONTROL, digest(service.encode()))


def data_hello(session_key):
    return hello(TAG_DATA, session_key)


def server_hello(nonce):
    return hello(TAG_CONTROL, nonce)


def auth(token, nonce):
    return digest(token.encode() + nonce)


def u32(value):
    return struct.pack("<I", value)


def udp_header(visitor, size, tag=None):
    """visitor: (address, port). A test may pass a tag or a size that does not fit, on purpose."""
    address = ipaddress.ip_address(visitor[0])
    if tag is None:
        tag = UDP_V4 if address.version == 4 else UDP_V6
    return u32(tag) + address.packed + struct.pack("<HH", visitor[1], size)


def udp_frame(visitor, payload, trailing=b"", **header):
    header = udp_header(visitor, header.pop("size", len(payload)), **header) + trailing
    return bytes([len(header)]) + header + payload


class FrameReader:
    """Parses the bytes of a UDP data channel, in pieces of any size, into frames."""

    def __init__(self):
        self.pending = bytearray()

    def feed(self, data):
        """[((address, port), payload)] of all frames that are complete."""
        self.pending += data
        frames, at, pending = [], 0, bytes(self.pending)
        while at < len(pending):
            head = pending[at]
            if len(pending) < at + 1 + head:
                break
            header = pending[at + 1 : at + 1 + head]
            tag = int.from_bytes(header[:4], "little")
            if (tag, head) not in ((UDP_V4, 12), (UDP_V6, 24)):
                raise ValueError(f"UDP header of {head} bytes with tag {tag}: {header.hex()}")
            port, size = struct.unpack("<HH", header[-4:])
            end = at + 1 + head + size
            if len(pending) < end:
                break
            family = socket.AF_INET if tag == UDP_V4 else socket.AF_INET6
            address = socket.inet_ntop(family, header[4:-4])
            frames.append(((address, port), pending[end - size : end]))
            at = end
        del self.pending[:at]
        return frames


def recv_exact(sock, size):
    """Exactly size bytes, or EOFError; the socket's own timeout applies."""
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError(f"end of stream after {len(data)} of {size} bytes")
        data += part
    return data


def reset(sock):
    """Closes with RST instead of FIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()


def already_reset():
    """A connection whose peer has reset it, which its next use will tell."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        reset(server.accept()[0])
    return sock


def connect(port, host="127.0.0.1", source=None, timeout=10):
    """Who is turned away may be reset before connect(2) has returned, which then takes the error: such a
    connection is in the state that it would have had a moment later."""
    try:
        sock = socket.create_connection(
            (host, port), timeout=timeout, source_address=(source, 0) if source else None
        )
    except ConnectionResetError:
        return already_reset()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def plain(sock):
    return sock


def how_closed(sock, timeout):
    """Reads until the peer closes: ("fin" | "rst" | "open", the bytes received before)."""
    data = b""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "open", data
        sock.settimeout(left)
        try:
            part = sock.recv(65536)
        except TimeoutError:
            return "open", data
        except ConnectionResetError:
            return "rst", data
        except OSError:
            return "rst", data
        if not part:
            return "fin", data
        data += part


class LoginRefused(Exception):
    def __init__(self, ack):
        super().__init__(f"ack {ack}")
        self.ack = ack


class Session:
    """A logged-in control channel, from the client's side."""

    def __init__(self, port, service, token, host="127.0.0.1", source=None, timeout=10,
                 secure=plain):
        self.port, self.host, self.source, self.secure = port, host, source, secure
        self.control = connect(port, host, source, timeout)
        try:
            self.control = secure(self.control)
            self.control.sendall(control_hello(service))
            answer = recv_exact(self.control, HELLO_SIZE)
            tag, version = struct.unpack("<IB", answer[:5])
            if (tag, version) != (TAG_CONTROL, VERSION):
                raise ValueError(f"server hello with tag {tag}, version {version}")
            self.nonce = answer[5:]
            self.key = auth(token, self.nonce)
            self.control.sendall(self.key)
            (ack,) = struct.unpack("<I", recv_exact(self.control, 4))
            if ack != ACK_OK:
                raise LoginRefused(ack)
        except BaseException:
            self.control.close()
            raise
        self._reader = None

    def command(self, timeout=5):
        """The next command, or None after `timeout` seconds; EOFError at the end of the stream."""
        self.control.settimeout(timeout)
        try:
            first = self.control.recv(4)
        except TimeoutError:
            return None
        if not first:
            raise EOFError("control channel ended")
        self.control.settimeout(5)
        rest = recv_exact(self.control, 4 - len(first)) if len(first) < 4 else b""
        return struct.unpack("<I", first + rest)[0]

    def count_requests(self, quiet=0.5, limit=10000):
        """Counts CreateDataChannel commands until none has arrived for `quiet` seconds."""
        count = 0
        while count < limit:
            command = self.command(quiet)
            if command is None:
                break
            if command == CMD_CREATE_DATA_CHANNEL:
                count += 1
        return count

    def open_channel(self, early=b""):
        sock = self.secure(connect(self.port, self.host, self.source))
        sock.sendall(data_hello(self.key) + early)
        return sock

    def close(self):
        if self._reader:
            self._reader.stop()
        self.control.close()

    def serve_requests(self, on_channel):
        """Opens a data channel for each request from now on; on_channel(socket) runs in a thread for each."""
        self._reader = _RequestServer(self, on_channel)
        return self._reader

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class _RequestServer:
    def __init__(self, session, on_channel):
        self.session, self.on_channel = session, on_channel
        self.requests = 0
        self.heartbeats = 0
        self.ended = threading.Event()
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._work = queue.Queue()
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        self._threads += [threading.Thread(target=self._open, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _read(self):
        try:
            while not self._stop.is_set():
                command = self.session.command(0.2)
                if command == CMD_CREATE_DATA_CHANNEL:
                    self.requests += 1
                    self._work.put(True)
                elif command == CMD_HEARTBEAT:
                    self.heartbeats += 1
        except (EOFError, OSError):
            pass
        self.ended.set()
        for _ in self._threads:
            self._work.put(None)

    def _open(self):
        while self._work.get():
            while self._paused.is_set() and not self._stop.is_set():
                time.sleep(0.02)
            try:
                sock = self.session.open_channel()
            except OSError:
                continue
            threading.Thread(target=self.on_channel, args=(sock,), daemon=True).start()

    def pause(self):
        """Requests are read and counted, but not answered until resume()."""
        self._paused.set()

    def resume(self):
        self._paused.clear()

    def stop(self):
        self._stop.set()
        self._threads[0].join(5)


class FakeServer:
    """A listening socket that plays the server as far as a test wants it."""

    def __init__(self, port, host="127.0.0.1", backlog=512, secure=plain):
        self.secure = secure
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(backlog)
        self.accepted = []

    def accept_plain(self, timeout=10):
        self.sock.settimeout(timeout)
        sock, _ = self.sock.accept()
        ledger.current.played_channels += 1
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted.append(sock)
        return sock

    def accept(self, timeout=10):
        return self.secure(self.accept_plain(timeout))

    def accept_login(self, token=None, timeout=10, ack=ACK_OK, send_ack=True):
        """Accepts until a control hello comes, then answers it. Returns (socket, session key).

        Late data channels of an earlier session are closed on the way."""
        deadline = time.monotonic() + timeout
        while True:
            sock = self.accept_plain(max(0.1, deadline - time.monotonic()))
            try:
                sock = self.secure(sock)
                first = recv_exact(sock, HELLO_SIZE)
            except (EOFError, OSError):
                continue
            if first[:4] == u32(TAG_CONTROL):
                break
            reset(sock)
        nonce = os.urandom(32)
        sock.sendall(server_hello(nonce))
        key = recv_exact(sock, AUTH_SIZE)
        if token is not None and key != auth(token, nonce):
            raise ValueError("the client's auth digest is wrong")
        if send_ack:
            sock.sendall(u32(ack))
        return sock, key

    def accept_data(self, key, timeout=10):
        sock = self.accept(timeout)
        got = recv_exact(sock, HELLO_SIZE)
        if got != data_hello(key):
            raise ValueError(f"not a data channel hello of this session: {got.hex()}")
        return sock

    def close(self):
        for sock in self.accepted:
            reset(sock)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
