"""The ledger can fail: it finds a tunnel that duplicates a visitor, a request or a datagram."""

import socket
import threading

import ledger
from datagrams import UdpEcho, UdpVisitor
from harness import free_port, wait_until, within
from protocol import connect
from services import Echo, Http, http_get, ping


class Repeater:
    """Takes the place of a tunnel, and sends a visitor's bytes a second time, on a new connection."""

    def __init__(self, port, local_port):
        self.local_port = local_port
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._run, daemon=True).start()

    def _dial(self):
        """Connects as another process would: past the audit hook, which counts this process's visitors."""
        before = ledger.current.connects[self.local_port]
        sock = connect(self.local_port)
        ledger.current.connects[self.local_port] = before
        return sock

    def _run(self):
        visitor, _ = self.listener.accept()
        asked = visitor.recv(65536)
        for _ in range(2):
            local = self._dial()
            local.sendall(asked)
            answer = local.recv(65536)
            local.close()
        visitor.sendall(answer)
        visitor.close()

    def close(self):
        self.listener.close()


def test_a_repeated_request_is_found(service):
    local = service(Http)
    visitor_port = free_port()
    ledger.current.note_route(visitor_port, local.port)
    repeater = Repeater(visitor_port, local.port)
    with connect(visitor_port) as visitor:
        assert http_get(visitor, b"/pay")[1] == b"/pay"
    repeater.close()
    assert [line.split(": ")[1] for line in ledger.current.complaints(local)] == [
        "2 connections, and 1 were meant", "2 requests, and 1 were meant"]
    local.also_meant(1)  # or the fixture would complain as well
    assert ledger.current.complaints(local) == []


def test_a_repeated_datagram_is_found(service):
    local = service(UdpEcho)
    with UdpVisitor(local.port) as visitor:
        assert visitor.ask(b"once") == b"once"
        assert ledger.current.complaints(local) == []
        visitor.sock.send(b"twice")  # past the helper: the ledger does not know of it
        wait_until(lambda: local.datagrams == 2, within(5), "the second datagram")
    assert ledger.current.complaints(local) == [
        f"UdpEcho on port {local.port}: 2 datagrams, and 1 were meant"]
    local.also_meant(1)


def test_what_was_meant_is_no_complaint(tunnel, service):
    local = service(Echo)
    t = tunnel({"echo": local.port})
    for _ in range(3):
        ping(t.port())
    assert local.connections == 3
    assert ledger.current.complaints(local) == []
