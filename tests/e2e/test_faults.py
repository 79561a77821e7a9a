"""The whole program with allocations that fail (tests/faults): at the start a clean error, later at
worst the connection. Each other failure of each call: tests/faults/test_faults.c."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time

import pytest

from harness import FULL, free_port, is_listening, wait_until, within
from protocol import connect, recv_exact
from services import Echo, answers

PROGRAM = os.environ.get("RATHOLE_URING_FAULTS_BIN")

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(PROGRAM is None, reason="only a developer build has the program with faults"),
]

EVERY = 1 if FULL else 4
NEVER = "malloc():ENOMEM:1000000"
UP = {"server": "sandbox: ", "client": "control channel established"}


class Faulty:
    """The program with rules of faults, its log in a file."""

    def __init__(self, path, config, rules):
        self.path = path
        with open(path, "wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, str(config)], stdout=log, stderr=log,
                # What malloc() returns is no zeros, as in a process that has run for a while.
                env={**os.environ, "RATHOLE_FAULTS": rules, "MALLOC_PERTURB_": "165"})

    def log(self):
        return self.path.read_text(errors="replace")

    def wait_up(self, text):
        """True: it runs; False: it has ended."""
        deadline = time.monotonic() + within(10)
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if text in self.log():
                return True
            time.sleep(0.005)
        raise AssertionError(f"neither up nor ended:\n{self.log()}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within(10))
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def check_refusal(self):
        """It has ended by itself: with an exit code, and a line that says why."""
        assert self.process.returncode > 0, f"{self.process.returncode}:\n{self.log()}"
        assert self.faults() > 0, self.log()
        lines = [line for line in self.log().splitlines() if not line.startswith("fault: ")]
        assert any("memory" in line.lower() or "ERROR" in line for line in lines), \
            f"no line says why:\n{self.log()}"

    def allocations(self):
        """At its end: how many there were."""
        return int(re.findall(r"^faults: (\d+) allocations", self.log(), re.M)[-1])

    def faults(self):
        return self.log().count("fault: malloc() ENOMEM")


def write_configs(folder, local_port):
    control, visitors = free_port(), free_port()
    server, client = folder / "server.ini", folder / "client.ini"
    server.write_text(f"[server]\nbind_addr = 127.0.0.1:{control}\ndefault_token = x\n"
                      f"threads = 2\n[server.services.s]\nbind_addr = 127.0.0.1:{visitors}\n")
    client.write_text(f"[client]\nremote_addr = 127.0.0.1:{control}\ndefault_token = x\n"
                      f"threads = 2\n[client.services.s]\nlocal_addr = 127.0.0.1:{local_port}\n")
    return {"server": server, "client": client}, visitors


@pytest.mark.parametrize("role", ["server", "client"])
def test_an_allocation_of_the_start_fails(tmp_path, service, role):
    """Each in turn at full size: the start is refused with a reason, or it works."""
    configs, _ = write_configs(tmp_path, service(Echo).port)
    other = None
    refused = worked = 0
    if role == "client":
        other = Faulty(tmp_path / "server.log", configs["server"], NEVER)
        assert other.wait_up(UP["server"])
    n = 1
    while True:
        ours = Faulty(tmp_path / f"{role}.log", configs[role], f"malloc():ENOMEM:{n}")
        if ours.wait_up(UP[role]) and ours.stop() == 0:
            worked += 1
        else:
            refused += 1
            ours.check_refusal()
        if "fault: " not in ours.log():
            break
        n += EVERY
    if other is not None:
        assert other.stop() == 0, other.log()
    assert refused > 20 // EVERY
    assert worked > 0, "the last run has no fault any more"


VISITORS = 60, 150  # one after the other, at once


def dial(port):
    """A new visitor. While there is no session, the service refuses, or resets who has just come."""
    deadline = time.monotonic() + within(10)
    while True:
        try:
            return connect(port)
        except ConnectionError:
            assert time.monotonic() < deadline, "no session any more"
            time.sleep(0.02)


def served(port):
    """How many of the visitors get their answer. None gets another one, and none waits for ever."""
    count = 0
    for at_once in VISITORS[0] * [1] + [VISITORS[1]]:
        visitors = [dial(port) for _ in range(at_once)]
        for visitor in visitors:
            with contextlib.suppress(OSError):
                visitor.sendall(b"question")
        for visitor in visitors:
            visitor.settimeout(within(12))
            with visitor, contextlib.suppress(EOFError, ConnectionError):
                assert recv_exact(visitor, 8) == b"question"
                count += 1
    return count


def run_both(folder, configs, port, rules):
    """Both ends with visitors: ({role: Faulty}, how many were served)"""
    ends = {role: Faulty(folder / f"{role}.log", configs[role], rules.get(role, NEVER))
            for role in ("server", "client")}
    try:
        for role, end in ends.items():
            if not end.wait_up(UP[role]):
                end.check_refusal()
                return ends, None
        wait_until(lambda: is_listening(port), within(5), "the service")
        count = served(port)
        wait_until(lambda: answers(port), within(10), "a visitor to be served at the end")
        for end in ends.values():
            assert end.process.poll() is None, end.log()
    finally:
        codes = [end.stop() for end in ends.values()]
    assert codes == [0, 0], "\n".join(end.log() for end in ends.values())
    return ends, count


@pytest.mark.parametrize("seed", range(1, 13 if FULL else 4))
def test_allocations_fail_while_visitors_come(tmp_path, service, seed):
    """Later than those of the start: at worst a visitor for each is cut, or a session with those who wait
    for it, and both ends live on."""
    echo = service(Echo)
    echo.also_meant(10000)  # who is served is told by the answers
    configs, port = write_configs(tmp_path, echo.port)
    ends, count = run_both(tmp_path, configs, port, {})
    assert count == sum(VISITORS)
    total = {role: end.allocations() for role, end in ends.items()}
    rng = random.Random(seed)
    # The last ones that an end makes are for the visitors; each has 18 at least.
    rules = {role: ",".join(f"malloc():ENOMEM:{n}"
                            for n in rng.sample(range(total[role] - 12, total[role]), 4))
             for role in ends}
    ends, count = run_both(tmp_path, configs, port, rules)
    faults = sum(end.faults() for end in ends.values())
    assert count is not None and faults > 0, "nothing was tested"
    assert sum(VISITORS) - count <= faults or "control channel lost" in ends["server"].log()
