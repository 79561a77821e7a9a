"""The PROXY protocol's headers as a test writes and reads them, by the specification and not by our code."""

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_MAX = 107
FAMILIES = {socket.AF_INET: 0x10, socket.AF_INET6: 0x20}


def v1(source, to):
    """source, to: (host, port)."""
    kind = "TCP6" if ":" in source[0] else "TCP4"
    return f"PROXY {kind} {source[0]} {to[0]} {source[1]} {to[1]}\r\n".encode()


def v2(source, to, tlvs=b"", kind=1):
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    body = b"".join(socket.inet_pton(family, end[0]) for end in (source, to))
    body += struct.pack(">HH", source[1], to[1]) + tlvs
    return SIGNATURE + bytes([0x21, FAMILIES[family] | kind]) + struct.pack(">H", len(body)) + body


def local(size=0):
    return SIGNATURE + b"\x20\x00" + struct.pack(">H", size) + bytes(size)


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


class Header:
    """version: 1 or 2. source, to: (host, port), or None if the header says that they are not known."""

    def __init__(self, version, source=None, to=None, is_datagram=False):
        self.version, self.source, self.to, self.is_datagram = version, source, to, is_datagram

    def __repr__(self):
        return f"v{self.version} {self.source} {self.to} {self.is_datagram}"


def parse(data):
    """(Header, the bytes behind it), or None if more are needed. AssertionError: this is no header."""
    if data[:1] == b"P":
        line, end, rest = data.partition(b"\r\n")
        if not end:
            assert len(data) <= V1_MAX, data
            return None
        words = line.decode().split(" ")
        assert words[0] == "PROXY" and len(line) + 2 <= V1_MAX, line
        if words[1] == "UNKNOWN":
            return Header(1), rest
        assert words[1] in ("TCP4", "TCP6") and len(words) == 6, line
        assert (":" in words[2]) == (":" in words[3]) == (words[1] == "TCP6"), line
        return Header(1, (words[2], int(words[4])), (words[3], int(words[5]))), rest
    assert data[:12] == SIGNATURE[: len(data)], data[:40]
    if len(data) < 16:
        return None
    size = struct.unpack(">H", data[14:16])[0]
    if len(data) < 16 + size:
        return None
    body, rest = data[16 : 16 + size], data[16 + size :]
    if data[12] == 0x20:
        return Header(2), rest
    assert data[12] == 0x21, data[12]
    family = {value: family for family, value in FAMILIES.items()}[data[13] & 0xF0]
    octets = 16 if family == socket.AF_INET6 else 4
    assert size == 2 * octets + 4, size  # we send no TLVs
    hosts = [socket.inet_ntop(family, body[at : at + octets]) for at in (0, octets)]
    ports = struct.unpack(">HH", body[2 * octets :])
    return Header(2, (hosts[0], ports[0]), (hosts[1], ports[1]), data[13] & 0xF == 2), rest
