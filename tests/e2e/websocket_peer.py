"""WebSocket (RFC 6455) by hand: frames, the upgrade, and sockets that carry a byte stream in binary frames
as rathole does.

A WebSocketSocket is used like a plain socket, and gives access to the frames below it, so that a test can
send wrong ones. Nothing here is shared with the C program.
"""

import base64
import hashlib
import os
import re
import struct

from tls_peer import Truncated

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FRAME_MAX = 16 << 20  # rathole's limits
MESSAGE_MAX = 64 << 20
HEADER_MAX = 4096
OWN_FIELD, OWN_VALUE = "Rathole-Uring", "half-close"  # see WebSocket's keeps_half


class WebSocketError(Exception):
    """The peer sent what no correct implementation sends."""


def masked(payload, mask):
    size = len(payload)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def frame(payload=b"", opcode=BINARY, mask=None, fin=True, rsv=0, form=None, size=None):
    """One frame. form: 7, 16 or 64 bits of length, else the shortest; size: what the length says, else
    the payload's."""
    payload = bytes(payload)
    size = len(payload) if size is None else size
    form = form or (7 if size < 126 else 16 if size < 1 << 16 else 64)
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask is not None else 0
    if form == 7:
        head += bytes([bit | size])
    elif form == 16:
        head += bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", size)
    if mask is None:
        return head + payload
    return head + mask + masked(payload, mask)


class Frames:
    """Takes bytes apart into frames: feed() returns [(opcode, fin, payload)]. is_masked: what the frames
    must be."""

    def __init__(self, is_masked):
        self.is_masked, self.pending = is_masked, bytearray()
        self.headers = []  # (first byte, second byte) of each frame

    def feed(self, data):
        self.pending += data
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def _next(self):
        data = self.pending
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & 0x70:
            raise WebSocketError(f"reserved bits: {first:#x}")
        if bool(second & 0x80) != self.is_masked:
            raise WebSocketError("masked" if second & 0x80 else "not masked")
        size, at = second & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < 2 + width:
                return None
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
            if size < (126 if width == 2 else 1 << 16):
                raise WebSocketError(f"a length of {size} in {8 * width} bits")
        mask = bytes(data[at : at + 4]) if self.is_masked else None
        at += 4 if self.is_masked else 0
        if len(data) < at + size:
            return None
        payload = bytes(data[at : at + size])
        del data[: at + size]
        self.headers.append((first, second))
        return first & 0x0F, bool(first & 0x80), masked(payload, mask) if mask else payload


def accept_of(key):
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def request(address, key=None, **changes):
    """rathole's request. changes: {"line": first line, header's name with _ for -: value, None to leave
    it out}."""
    line = changes.pop("line", b"GET / HTTP/1.1")
    headers = {"host": address.encode(), "connection": b"Upgrade", "upgrade": b"websocket",
               "sec_websocket_version": b"13",
               "sec_websocket_key": key or base64.b64encode(os.urandom(16))}
    headers.update(changes)
    return _head(line, headers)


def response(key, **changes):
    """rathole's answer."""
    line = changes.pop("line", b"HTTP/1.1 101 Switching Protocols")
    headers = {"connection": b"Upgrade", "upgrade": b"websocket",
               "sec_websocket_accept": accept_of(key)}
    headers.update(changes)
    return _head(line, headers)


def _head(line, headers):
    lines = [line] + [name.title().replace("_", "-").encode() + b": " + value
                      for name, value in headers.items() if value is not None]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_head(head):
    """(first line, {name in lower case: value})"""
    line, *rows = head.decode("ascii").split("\r\n")
    headers = {}
    for row in rows:
        name, value = row.split(":", 1)
        if name.lower() in headers:
            raise WebSocketError(f"{name} stands twice")
        headers[name.lower()] = value.strip()
    return line, headers


def read_head(sock):
    """(the header without its empty line, the bytes behind it)"""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > HEADER_MAX:
            raise WebSocketError(f"a header of more than {HEADER_MAX} bytes")
        part = sock.recv(4096)
        if not part:
            raise EOFError(f"end of stream in the header, after {data!r}")
        data += part
    return data.split(b"\r\n\r\n", 1)


class WebSocketSocket:
    """A connected socket (plain, or a TlsSocket) after its upgrade. `behind`: bytes that came behind the
    header. Ends with Close; a FIN without it is a truncation."""

    def __init__(self, sock, is_server, behind=b"", head=None):
        self.sock, self.is_server, self.head = sock, is_server, head
        self.frames = Frames(is_masked=is_server)
        self._plain = bytearray()
        self.controls = []  # (opcode, payload) of all frames but data frames
        self.sizes = []  # of the data frames
        self.has_ended = self.is_shut = False
        self._take(behind)

    def __getattr__(self, name):
        if name in ("settimeout", "gettimeout", "setsockopt", "getsockopt", "close", "fileno",
                    "getsockname", "getpeername"):
            return getattr(self.sock, name)
        raise AttributeError(name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def sendall(self, data):
        if data:
            self.sock.sendall(self.seal(data))

    def recv(self, size):
        """As recv(2): b"" for Close, Truncated for an end without it."""
        while not self._plain and not self.has_ended:
            data = self.sock.recv(1 << 16)
            if not data:
                raise Truncated("end of stream without a Close")
            self._take(data)
        part = bytes(self._plain[:size])
        del self._plain[:size]
        return part

    def _take(self, data):
        for opcode, fin, payload in self.frames.feed(data):
            if self.has_ended:
                raise WebSocketError(f"frame with opcode {opcode} behind a Close")
            if opcode in (BINARY, CONTINUATION):
                self._plain += payload
                self.sizes.append(len(payload))
                continue
            if not fin or len(payload) > 125:
                raise WebSocketError("control frame in pieces or too long")
            self.controls.append((opcode, payload))
            self.has_ended = self.has_ended or opcode == CLOSE

    def shutdown(self, _how):
        """Sends an empty Close, once."""
        if not self.is_shut:
            self.is_shut = True
            self.sock.sendall(self.seal(b"", opcode=CLOSE))

    def fin(self):
        """A bare end of what is below: to the peer, a truncation."""
        getattr(self.sock, "fin", lambda: self.sock.shutdown(1))()

    def seal(self, payload, **changes):
        """The next frame, not sent."""
        changes.setdefault("mask", None if self.is_server else os.urandom(4))
        return frame(payload, **changes)

    def send_raw(self, data):
        self.sock.sendall(data)


class WebSocket:
    """What the two ends of a tunnel are configured with; tls: a Tls, or None. keeps_half: the played client
    says with our own field that it goes on after a Close, which rathole's does not."""

    def __init__(self, tls=None, keeps_half=False):
        self.tls, self.keeps_half = tls, keeps_half
        self.handshake_kib = tls.handshake_kib if tls else 0

    def __str__(self):
        return "websocket, tls" if self.tls else "websocket"

    def tables(self, role):
        below = self.tls.tables(role) if self.tls else {}
        return {**below, "transport": {"type": "websocket"},
                "transport.websocket": {"tls": self.tls is not None}}

    def below(self, sock, role):
        return getattr(self.tls, role)(sock) if self.tls else sock

    def client(self, sock, **changes):
        """Asks for the upgrade and checks the answer as rathole's client does."""
        host = "%s:%d" % sock.getpeername()[:2]
        sock = self.below(sock, "client")
        key = changes.pop("key", None) or base64.b64encode(os.urandom(16))
        if self.keeps_half:
            changes[OWN_FIELD] = OWN_VALUE.encode()
        sock.sendall(request(host, key, **changes))
        head, behind = read_head(sock)
        line, headers = parse_head(head)
        if not re.match(r"HTTP/1\.1 101( |$)", line):
            raise WebSocketError(f"refused: {line}")
        if (headers.get("connection", "").lower(), headers.get("upgrade", "").lower()) != (
                "upgrade", "websocket"):
            raise WebSocketError(f"no upgrade: {headers}")
        if headers.get("sec-websocket-accept", "").encode() != accept_of(key):
            raise WebSocketError("the accept hash is wrong")
        if not headers.keys().isdisjoint({"sec-websocket-extensions", "sec-websocket-protocol"}):
            raise WebSocketError(f"what nobody asked for: {headers}")
        return WebSocketSocket(sock, False, behind, head)

    def server(self, sock, **changes):
        """Takes the upgrade request, checks it and answers."""
        sock = self.below(sock, "server")
        head, behind = read_head(sock)
        line, headers = parse_head(head)
        if line != "GET / HTTP/1.1":
            raise WebSocketError(f"not the request: {line}")
        if (headers.get("connection", "").lower(), headers.get("upgrade", "").lower(),
                headers.get("sec-websocket-version")) != ("upgrade", "websocket", "13"):
            raise WebSocketError(f"no upgrade: {headers}")
        if len(base64.b64decode(headers["sec-websocket-key"], validate=True)) != 16:
            raise WebSocketError(f"a key that is not 16 bytes: {headers}")
        if behind:
            raise WebSocketError(f"bytes behind the request before its answer: {behind!r}")
        sock.sendall(response(headers["sec-websocket-key"].encode(), **changes))
        return WebSocketSocket(sock, True, b"", head)
