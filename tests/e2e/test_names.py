"""Names: name servers that are dead or slow to fail, names with several addresses, and addresses
that nothing can be sent to."""

import os
import signal
import socket
import time

import pytest

from datagrams import UdpEcho, knock
from harness import free_port, within
from protocol import connect
from services import Echo

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a program another hosts file"),
]

AF_INET6, EAFNOSUPPORT = 10, 97
SYS_SOCKET = {"x86_64": 41, "aarch64": 198}[os.uname().machine]


class Hole:
    """An address that drops connection attempts: its listener's queue is full."""

    def __init__(self, port, host):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(0)
        self.filler = socket.create_connection((host, port))

    def stop(self):
        self.filler.close()
        self.sock.close()


def ping(port, timeout=10):
    """One visitor of an Echo; returns the seconds until its answer, None for an end without one."""
    begun = time.monotonic()
    with connect(port, timeout=within(timeout)) as visitor:
        try:
            visitor.sendall(b"ping")
            if visitor.recv(4) == b"ping":
                return time.monotonic() - begun
        except ConnectionResetError:
            pass
    return None


def wait_for_query(dns, name):
    deadline = time.monotonic() + within(5)
    while not dns.count(name):
        assert time.monotonic() < deadline, f"nobody looks {name} up"
        time.sleep(0.005)


# --- a name server that is dead ------------------------------------------------------------------


def test_a_dead_name_holds_up_nobody_else(tunnel, service, dns):
    """A87: six visitors of a service with a dead name cause one look-up. They do not delay visitors of
    another service, whose name is in the hosts file, nor the end of the program."""
    echo = service(Echo)
    names = dns(hosts={"good.test": ["127.0.0.1"]})
    names.is_silent = True
    t = tunnel({"dead": echo.port, "good": echo.port}, start=False, client_service_options={
        "dead": {"local_addr": f"dead.test:{echo.port}"},
        "good": {"local_addr": f"good.test:{echo.port}"}})
    t.start(files=names.files)
    visitors = [connect(t.port("dead")) for _ in range(6)]
    for visitor in visitors:
        visitor.sendall(b"ping")
    wait_for_query(names, "dead.test")
    for _ in range(3):
        seconds = ping(t.port("good"))
        assert seconds is not None and seconds < within(1), seconds
    assert len(echo.records) == 3
    assert names.count("dead.test") == 1
    begun = time.monotonic()
    t.client.signal(signal.SIGTERM)
    t.client.wait_log("stopping", within(3))  # two pending signals would merge into one
    t.client.signal(signal.SIGTERM)
    assert t.client.wait(within(5)) == 0
    assert time.monotonic() - begun < within(3), "the end waits for the look-up"
    for visitor in visitors:
        visitor.close()


def test_any_number_of_dead_names(tunnel, service, dns):
    """More dead names than look-up threads do not delay a service with a good name."""
    echo = service(Echo)
    names = dns(hosts={"good.test": ["127.0.0.1"]})
    names.is_silent = True
    dead = [f"dead{n}" for n in range(24)]
    options = {name: {"local_addr": f"{name}.test:{echo.port}"} for name in dead + ["good"]}
    t = tunnel(dict.fromkeys(options, echo.port), start=False, client_service_options=options)
    t.start(files=names.files)
    visitors = [connect(t.port(name)) for name in dead]
    deadline = time.monotonic() + within(5)
    while sum(names.count(f"{name}.test") > 0 for name in dead) < 14:
        assert time.monotonic() < deadline, dict(names.queries)
        time.sleep(0.01)
    for _ in range(3):
        seconds = ping(t.port("good"))
        assert seconds is not None and seconds < within(1), seconds
    assert len(echo.records) == 3
    assert all(names.count(f"{name}.test") <= 1 for name in dead)
    for visitor in visitors:
        visitor.close()


def test_a_failure_is_remembered(tunnel, service, dns):
    """Visitors of a name that does not exist are reset; they cause one look-up a second."""
    names = dns()
    t = tunnel({"gone": free_port()}, start=False,
               client_service_options={"gone": {"local_addr": "gone.test:1"}})
    t.start(files=names.files)
    begun = time.monotonic()
    for _ in range(20):
        assert ping(t.port("gone")) is None
    seconds = time.monotonic() - begun
    assert 1 <= names.count("gone.test") <= 1 + seconds, seconds


def test_the_last_good_address_of_a_service(tunnel, service, dns):
    """A87: while the name server is dead, the client uses the last good address."""
    port = free_port()
    names = dns(names={"local.test": ["127.0.0.1"]})
    t = tunnel({"echo": port}, start=False, local_host="local.test")
    echo = service(Echo, port=port)
    t.start(files=names.files)
    assert ping(t.port()) is not None
    echo.stop()
    assert ping(t.port()) is None  # after a failed connection the client looks the name up again
    names.is_silent = True
    echo = service(Echo, port=port)
    seconds = [ping(t.port(), 3) for _ in range(5)]
    assert None not in seconds and max(seconds) < within(2), seconds
    assert len(echo.records) == 5
    # The service moves to another address, and the name server is back.
    echo.stop()
    moved = service(Echo, port=port, host="127.0.0.9")
    names.names["local.test"] = ["127.0.0.9"]
    names.is_silent = False
    deadline = time.monotonic() + within(10)
    while ping(t.port()) is None:
        assert time.monotonic() < deadline, "it stays with the address of before"
        time.sleep(0.1)
    assert len(echo.records) == 5 and len(moved.records) == 1


def test_the_last_good_address_of_the_server(tunnel, service, dns):
    """A87: the client comes back to a server that was restarted while the name server is dead."""
    names = dns(names={"server.test": ["127.0.0.1"]})
    t = tunnel({"echo": service(Echo).port}, start=False, remote_host="server.test")
    t.start(files=names.files)
    names.is_silent = True
    t.kill_server()
    t.start_server()
    t.wait_ready(timeout=6)
    assert ping(t.port()) is not None


# --- names with several addresses -----------------------------------------------------------------


def test_a_service_whose_first_address_swallows_packets(tunnel, service, dns):
    """A86: each visitor is served by the second address, once."""
    port = free_port()
    names = dns(names={"two.test": ["127.0.0.1", "127.0.0.2"]})
    hole, echo = service(Hole, port=port, host="127.0.0.1"), service(Echo, port=port,
                                                                    host="127.0.0.2")
    t = tunnel({"echo": port}, start=False, local_host="two.test")
    t.start(files=names.files)
    seconds = [ping(t.port()) for _ in range(10)]
    assert None not in seconds, seconds
    assert seconds[0] >= 0.2, "the system has put the other one first"
    assert sum(seconds) < within(2), seconds
    assert len(echo.records) == 10
    hole.stop()


def test_a_server_whose_first_address_swallows_packets(tunnel, service, dns):
    """A86: the client logs in at the second address, and again after a restart."""
    names = dns(names={"two.test": ["127.0.0.1", "127.0.0.2"]})
    control_port = free_port()
    service(Hole, port=control_port, host="127.0.0.1")
    t = tunnel({"echo": service(Echo).port}, start=False, remote_host="two.test",
               control_port=control_port,
               server_options={"bind_addr": f"127.0.0.2:{control_port}"})
    t.start(files=names.files, timeout=5)
    assert ping(t.port()) is not None
    t.kill_server()
    t.start_server()
    t.wait_ready(timeout=5)
    assert ping(t.port()) is not None
    assert t.client.log().count("cannot connect to 127.0.0.1") == 1, "what worked comes first"


# --- a kernel without IPv6 ------------------------------------------------------------------------

WITHOUT_IPV6 = ([(SYS_SOCKET, 0, AF_INET6)], EAFNOSUPPORT)


def test_without_ipv6_the_other_address_is_used(tunnel, service, dns):
    """A92: server, TCP service and UDP service have names with addresses of both families, IPv6 first,
    but the kernel makes no IPv6 sockets."""
    names = dns(hosts={"both.test": ["::1", "127.0.0.1"]})
    echo, udp_echo = service(Echo), service(UdpEcho)
    t = tunnel({"echo": echo.port, "udp": udp_echo.port}, start=False, udp=["udp"],
               remote_host="both.test", local_host="both.test",
               client_options={"prefer_ipv6": True})
    t.start_server()
    t.start_client(files=names.files, forbidden=WITHOUT_IPV6)
    t.wait_ready()
    assert ping(t.port()) is not None
    assert ping(t.port()) is not None
    knock(t.port("udp"), "127.0.0.1", 2, within(5))
    assert len(echo.records) == 2
    assert "cannot resolve" not in t.client.log()


def test_without_ipv6_the_log_says_what_fails(tunnel, service, dns):
    """A92: the log says that the connection failed, not the look-up."""
    names = dns(hosts={"six.test": ["::1"]})
    t = tunnel({"echo": service(Echo).port}, start=False, remote_host="six.test")
    client = t.start_client(files=names.files, forbidden=WITHOUT_IPV6)
    line = client.wait_log("cannot .* six.test.*", within(5)).group(0)
    assert line.startswith("cannot connect to six.test") and "family" in line, line
