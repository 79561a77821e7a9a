"""Both ends at work in the sandbox of rathole-uring@.service; sandbox.py says which parts of it."""

import os
import pathlib
import platform
import shutil
import signal
import sys

import pytest

from capabilities import needs_tls
from datagrams import UdpEcho, knock
from harness import (
    BINARIES, OURS, TOKEN, Process, Tunnel, free_low_port, wait_until, within,
)
from sandbox import UID
from services import Digest, Echo, answers, ping, transfer
from tls_peer import Tls

HERE = pathlib.Path(__file__).resolve().parent
UNIT = HERE.parents[1] / "dist" / "systemd" / "rathole-uring@.service.in"

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can build the sandbox"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86_64"),
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here"),
]


class Sandboxed(Tunnel):
    """Each end in a sandbox of its own, with its token as a credential."""

    def files_of_tls(self, role):
        transport = self.transport[role]
        keys = transport.keys[role] if isinstance(transport, Tls) else {}
        return {key: value for key, value in keys.items() if isinstance(value, pathlib.Path)}

    def config(self, role):
        text = super().config(role).replace(TOKEN, "file:${CREDENTIALS_DIRECTORY}/token")
        for key, path in self.files_of_tls(role).items():
            text = text.replace(str(path), f"${{CREDENTIALS_DIRECTORY}}/{key}")
        return text

    def spawn(self, role, **kwargs):
        stage = self.workdir / f"stage{len(self.started)}"
        (stage / "credentials").mkdir(parents=True)
        files = {"program": BINARIES[OURS].read_bytes(), "config.ini": self.config(role).encode(),
                 "credentials/token": TOKEN.encode()}
        for key, path in self.files_of_tls(role).items():
            files[f"credentials/{key}"] = path.read_bytes()
        for name, content in files.items():
            (stage / name).write_bytes(content)
            (stage / name).chmod(0o555 if name == "program" else 0o400)
        for path in [stage, *stage.rglob("*")]:
            os.chown(path, UID, UID)
        process = Process([sys.executable, HERE / "sandbox.py", UNIT, stage, "/mnt/program",
                           "/mnt/config.ini"], self.workdir / f"{role}.log", **kwargs)
        process.name = f"{role} (in a sandbox)"
        self.started.append(process)
        return process


@pytest.fixture
def sandboxed(tmp_path, processes):
    made = []

    def make(services, **kwargs):
        t = Sandboxed(tmp_path, services, **kwargs)
        made.append(t)
        t.ports["echo"] = free_low_port()
        t.start_server(within(20))
        t.start_client()
        for process in (t.server, t.client):
            processes(process, process.name)
        t.wait_ready(20)
        return t

    yield make
    for t in made:
        t.stop()


def status(process):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_serves_under_the_unit(sandboxed, service, transport):
    """TCP, UDP, a name to look up, a port below 1024, counters, and a drain: no call is refused."""
    echo, digest, udp = service(Echo), service(Digest), service(UdpEcho)
    t = sandboxed({"echo": echo.port, "digest": digest.port, "udp": udp.port}, udp=["udp"],
                  transport=transport, remote_host="localhost")
    for process in (t.server, t.client):
        facts = status(process)
        assert facts["Uid"].split() == [str(UID)] * 4
        assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"
        # CAP_NET_BIND_SERVICE and nothing else.
        assert {int(facts[name], 16) for name in ("CapPrm", "CapBnd", "CapAmb")} == {1 << 10}
    for _ in range(20):
        ping(t.port("echo"))
    transfer(t.port("digest"), 1, 8 << 20, 8 << 20)
    knock(t.port("udp"), "127.0.0.1", 8, within(15))
    assert t.server.metric("visitors_accepted") >= 21
    # A new session, with all that comes with it.
    t.client.signal(signal.SIGTERM)
    assert t.client.wait(within(10)) == 0
    t.start_client()
    wait_until(lambda: answers(t.port("echo")), within(20), "a visitor of the second client")
    t.server.signal(signal.SIGTERM)
    assert t.server.wait(within(10)) == 0


@needs_tls
@pytest.mark.parametrize("form", ["pem", "aes"])
def test_serves_over_tls_under_the_unit(sandboxed, service, form):
    """OpenSSL is loaded under MemoryDenyWriteExecute, and the certificate and its key are credentials.
    Both ends read the files again and look at the system's roots, which are read-only."""
    digest = service(Digest)
    t = sandboxed({"echo": service(Echo).port, "digest": digest.port}, transport=Tls(form=form))
    for process in (t.server, t.client):
        assert "tls: by OpenSSL 3." in process.log()
    transfer(t.port("digest"), 1, 4 << 20, 4 << 20)
    for process in (t.server, t.client):
        process.signal(signal.SIGHUP)
        process.wait_log(r"reload: nothing has changed", within(10))
    ping(t.port("echo"))


def test_the_sandbox_holds(tmp_path):
    """What the unit forbids is forbidden here too, or the test above would show nothing."""
    attempts = {
        "import os; os.open('/mnt/new', os.O_CREAT | os.O_WRONLY)": "Read-only file system",
        "import os; os.open('/etc/shadow', os.O_RDONLY)": "Permission denied",
        "import os; os.listdir('/proc/sys')": "No such file",
        "import mmap; mmap.mmap(-1, 4096, prot=7)": "Permission denied",
        "import os; os.nice(1)": -signal.SIGSYS,
        "import socket; socket.socket(socket.AF_NETLINK)": -signal.SIGSYS,
        "import os; os.chroot('/')": -signal.SIGSYS,
    }
    stage = tmp_path / "stage"
    stage.mkdir()
    interpreter = "/usr/bin/python3"
    if not os.access(interpreter, os.X_OK):
        pytest.skip("no python3 in /usr/bin, where the sandbox shows it")
    for number, (code, expected) in enumerate(attempts.items()):
        process = Process([sys.executable, HERE / "sandbox.py", UNIT, stage, interpreter, "-IBc",
                           code], tmp_path / f"attempt{number}.log")
        process.expected_death = True
        result = process.wait(within(20))
        if isinstance(expected, str):
            assert result == 1 and expected in process.log(), (code, result, process.log())
        else:
            assert result == expected, (code, result, process.log())
