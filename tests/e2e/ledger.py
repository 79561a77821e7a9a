"""Compares what visitors sent with what local services received: the tunnel must not duplicate anything.

A tunnel may lose a visitor (a limit, a kill), but it must never turn one connection into two, nor
deliver a request or a datagram twice. An audit hook of Python counts every connection of this
process by its port; the helpers that send HTTP requests and datagrams count those. At a test's end, each
local service may have seen at most what was sent to its visitor ports or directly to its own port. A
test declares what other processes (iperf3, curl) send: service.also_meant(n).
"""

import collections
import socket
import sys


class Ledger:
    def __init__(self):
        self.connects = collections.Counter()   # port: TCP connections started to it
        self.requests = collections.Counter()   # port: HTTP requests sent to it
        self.datagrams = collections.Counter()  # port: datagrams sent to it
        self.routes = collections.defaultdict(set)  # local port: visitor ports that led to it
        self.played_channels = 0  # data channels of a played server: each allows one connection of the client

    def note_route(self, visitor_port, local_port):
        self.routes[local_port].add(visitor_port)

    def _meant(self, counter, local_port):
        return sum(counter[port] for port in {local_port, *self.routes[local_port]})

    def complaints(self, service):
        """Lines of text about what a local service received in excess of what was sent to it."""
        port, found = service.port, []
        for what, got, meant in (
            ("connections", getattr(service, "connections", 0),
             self._meant(self.connects, port) + self.played_channels),
            ("requests", getattr(service, "requests", 0), self._meant(self.requests, port)),
            ("datagrams", getattr(service, "datagrams", 0), self._meant(self.datagrams, port)),
        ):
            if what == "datagrams" and self.played_channels:
                continue  # a played server sends datagrams in frames, which are not counted
            meant += service.also_meant_count
            if got > meant:
                found.append(f"{type(service).__name__} on port {port}: {got} {what}, "
                             f"and {meant} were meant")
        return found


current = Ledger()


def begin():
    """Starts an empty ledger for a new test."""
    global current
    current = Ledger()


class Counted:
    """A local service that is compared with the ledger."""

    also_meant_count = 0

    def also_meant(self, count):
        """Declares that other processes send `count` connections, requests or datagrams."""
        self.also_meant_count += count


def _heard(event, arguments):
    if event not in ("socket.connect", "socket.sendto"):
        return
    sock, address = arguments
    if not isinstance(address, tuple):
        return
    if event == "socket.connect" and sock.type == socket.SOCK_STREAM:
        current.connects[address[1]] += 1
    elif event == "socket.sendto" and sock.type == socket.SOCK_DGRAM:
        current.datagrams[address[1]] += 1


sys.addaudithook(_heard)
