"""Services that expect the PROXY protocol, and its headers (proxy_header.py)."""

from datagrams import UdpEcho
from proxy_header import SIGNATURE, parse
from services import CHUNK, Service


class Headed(Service):
    """Reads a PROXY header, then sends back what comes. record.header; record.first: all bytes of the
    first read, which shows whether the header shares a segment with the visitor's first bytes."""

    def serve(self, sock, record):
        data = record.first = sock.recv(CHUNK)
        while (parsed := parse(data)) is None:
            more = sock.recv(CHUNK)
            assert more, data
            data += more
        record.header, data = parsed
        while data or (data := sock.recv(CHUNK)):
            record.received += len(data)
            sock.sendall(data)
            data = b""
        record.end = "fin"


class UdpHeaded(UdpEcho):
    """Keeps (the peer, its Header or None, the payload) of each datagram, and sends the payload back."""

    def __init__(self, port, **kwargs):
        self.seen = []
        super().__init__(port, **kwargs)

    def handle(self, data, peer):
        header = None
        if data.startswith(SIGNATURE):
            header, data = parse(data)
        self.seen.append((peer, header, data))
        self.send(data, peer)
