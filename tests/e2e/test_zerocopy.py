"""transport.noise.zerocopy_send: the bytes are right, and the counters tell what became of them.

Over loopback and veth the kernel copies all the same and says so; what is saved shows on a network
card only. Covers src/relay/zerocopy_pool.c, src/relay/zerocopy.c and src/io/loop_zerocopy.c with the
kernel.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

import pytest

from harness import Process, free_port, scaled, wait_until, within
from noise_peer import Noise
from services import HEADER, Digest, pattern, transfer

pytestmark = pytest.mark.ours

SIZE = scaled(24 << 20, least=6 << 20)
SERVER_ADDRESS, CLIENT_ADDRESS = "10.203.117.1", "10.203.117.2"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Zerocopy(Noise):
    def __init__(self, mode):
        super().__init__("NK")
        self.mode = mode

    def tables(self, role):
        tables = super().tables(role)
        tables["transport.noise"]["zerocopy_send"] = self.mode
        return tables


def settled_counters(process):
    """{name: count}, once each buffer is back."""
    def settled():
        workers = process.metrics()
        total = {name: sum(worker.get(f"zerocopy_{name}", 0) for worker in workers)
                 for name in ("sends", "notified", "copied", "refused")}
        return total if total["sends"] == total["notified"] else None

    return wait_until(settled, within(15), "a notification for each send")


def counters(process):
    """(sends, copied) where nothing is to be refused."""
    total = settled_counters(process)
    if total["refused"]:  # Linux 6.1 does not report copies: the first send of a worker says so
        assert total["sends"] == 0
        pytest.skip("this kernel refuses zero-copy sends")
    return total["sends"], total["copied"]


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_over_loopback(tunnel, service, mode):
    t = tunnel({"bulk": service(Digest).port}, transport=Zerocopy(mode))
    for seed in range(3):
        transfer(t.port("bulk"), seed, SIZE, SIZE, timeout=within(30))
    for process in (t.server, t.client):
        sends, copied = counters(process)
        if mode == "on":
            assert sends > 0 and copied == sends
        else:
            assert sends == 0


def test_without_locked_memory(tunnel, service, nobody, processes):
    """The buffers can't be pinned, nor can many sends be charged: the rest goes the plain way."""
    user, directory, program = nobody
    t = tunnel({"bulk": service(Digest).port}, transport=Zerocopy("on"), start=False, threads=1,
               server_options={"log_level": "debug"})
    config = directory / "server.ini"
    config.write_text(t.config("server"))
    config.chmod(0o600)
    os.chown(config, user, user)
    server = processes(Process([program, "--server", config], directory / "server.log", user=user,
                               memlock=1 << 20), "server as nobody")
    t.start_client()
    t.wait_ready()
    for seed in range(3):
        transfer(t.port("bulk"), seed, SIZE, SIZE, timeout=within(30))
    server.wait_log("buffers are not registered", within(5))
    settled_counters(server)
    server.stop()
    assert server.verdict() is None


def upload_until_it_breaks(port, breaks):
    """What was sent and not acknowledged is lost with the connection, its buffers are not."""
    with socket.create_connection(("127.0.0.1", port), timeout=within(30)) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(HEADER.pack(1, SIZE, 0))
            for number, part in enumerate(pattern(1, SIZE)):
                sock.sendall(part)
                if number == 8:
                    breaks(sock)


def test_connections_that_break_give_their_buffers_back(tunnel, service):
    t = tunnel({"bulk": service(Digest).port}, transport=Zerocopy("on"))
    for _ in range(5):
        upload_until_it_breaks(t.port("bulk"), lambda sock: sock.shutdown(socket.SHUT_RDWR))
    upload_until_it_breaks(t.port("bulk"), lambda _sock: t.client.kill9())
    t.start_client()
    t.client.wait_log("established", within(10))
    transfer(t.port("bulk"), 9, SIZE, SIZE, timeout=within(30))
    sends, _ = counters(t.server)
    assert sends > 0


class Namespaces:
    """Two network namespaces joined by veth. The test's main thread lives in the server's and goes
    into the client's for what is to be started there; on leaving it goes home, and both vanish."""

    def __enter__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            self.client = self._new()
            self.server = self._new()
            self._ip("link", "add", "e2e0", "type", "veth", "peer", "name", "e2e0p")
            self._ip("link", "set", "e2e0p", "netns", f"/proc/{os.getpid()}/fd/{self.client}")
            self._up("e2e0", SERVER_ADDRESS)
            with self.of_client():
                self._up("e2e0p", CLIENT_ADDRESS)
        except BaseException:
            self._enter(self.home)
            raise
        return self

    def __exit__(self, *exc):
        self._enter(self.home)
        for fd in (self.client, self.server, self.home):
            os.close(fd)

    @contextlib.contextmanager
    def of_client(self):
        self._enter(self.client)
        try:
            yield
        finally:
            self._enter(self.server)

    @staticmethod
    def _enter(fd):
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def _new(self):
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self._ip("link", "set", "lo", "up")
        return os.open("/proc/self/ns/net", os.O_RDONLY)

    def _up(self, device, address):
        self._ip("address", "add", f"{address}/30", "dev", device)
        self._ip("link", "set", device, "up")

    @staticmethod
    def _ip(*arguments):
        # The main thread's namespace; /proc/PID/fd of the parent is there for this child too.
        subprocess.run(["ip", *arguments], check=True, timeout=within(20), capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip(8)")
def test_auto_between_namespaces(tunnel, service):
    """Another host by its address, so auto tries; veth copies, so each connection tries once or
    until the news of the first copy is there."""
    with Namespaces() as namespaces:
        with namespaces.of_client():
            port = service(Digest).port
        control = free_port()
        t = tunnel({"bulk": port}, transport=Zerocopy("auto"), start=False, threads=1,
                   control_port=control, remote_host=SERVER_ADDRESS,
                   server_options={"bind_addr": f"{SERVER_ADDRESS}:{control}"})
        t.start_server()
        with namespaces.of_client():
            t.start_client()
        t.wait_ready()
        for seed in range(3):
            transfer(t.port("bulk"), seed, SIZE, SIZE, timeout=within(30))
        for process in (t.server, t.client):
            sends, copied = counters(process)
            assert 3 <= copied == sends < 3 * SIZE // (64 << 10) // 4
