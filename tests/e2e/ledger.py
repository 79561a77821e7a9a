"""What visitors have begun and what local services got: not twice, and not too often.

A tunnel may lose a visitor (a limit, a kill); it may never make two of one, nor deliver a request or
a datagram a second time. Every connection that this process makes is counted by its port, by Python
itself (an audit hook), every HTTP request and datagram by the helpers that send it. At a test's end
each local service may have seen at most what came to the visitor ports that lead to it, or to its own
port directly. What other processes send (iperf3, curl) the test declares: service.also_meant(n).
"""

import collections
import socket
import sys


class Ledger:
    def __init__(self):
        self.connects = collections.Counter()   # port: TCP connections begun to it
        self.requests = collections.Counter()   # port: HTTP requests sent to it
        self.datagrams = collections.Counter()  # port: datagrams sent to it
        self.routes = collections.defaultdict(set)  # local port: visitor ports that led to it
        self.played_channels = 0  # of a played server, each good for one connection of a client

    def note_route(self, visitor_port, local_port):
        self.routes[local_port].add(visitor_port)

    def _meant(self, counter, local_port):
        return sum(counter[port] for port in {local_port, *self.routes[local_port]})

    def complaints(self, service):
        """What a local service got beyond what was meant, as lines of text."""
        port, found = service.port, []
        for what, got, meant in (
            ("connections", getattr(service, "connections", 0),
             self._meant(self.connects, port) + self.played_channels),
            ("requests", getattr(service, "requests", 0), self._meant(self.requests, port)),
            ("datagrams", getattr(service, "datagrams", 0), self._meant(self.datagrams, port)),
        ):
            if what == "datagrams" and self.played_channels:
                continue  # frames by hand
            meant += service.also_meant_count
            if got > meant:
                found.append(f"{type(service).__name__} on port {port}: {got} {what}, "
                             f"and {meant} were meant")
        return found


current = Ledger()


def begin():
    """A new test."""
    global current
    current = Ledger()


class Counted:
    """A local service that is compared with the ledger."""

    also_meant_count = 0

    def also_meant(self, count):
        """So many connections, requests or datagrams come from elsewhere."""
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
