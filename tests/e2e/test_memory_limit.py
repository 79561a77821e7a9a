"""Both ends in control groups of 64 MiB, and more bulk flows than that has room for: they are throttled or
refused. If the kernel kills an end, it restarts clean. Nothing arrives changed, or cut without a reset."""

import collections
import random
import threading

import memory_group
import pytest
from harness import FULL, scaled, wait_until, within
from services import Broken, Digest, transfer

LIMIT = 64 << 20 if FULL else 4 << 20
LARGEST = 64 << 20 if FULL else 1 << 20


@pytest.fixture
def groups():
    if reason := memory_group.why_not():
        pytest.skip(f"NO MEMORY LIMIT: {reason}")
    made = {}
    for role in ("server", "client"):
        made[role] = memory_group.MemoryGroup(role, LIMIT)
    yield made
    for group in made.values():
        group.close()


def flows(port, count, outcomes):
    """`count` at a time, of sizes from 1 byte up, both ways."""
    draw = random.Random(31)

    def size():
        return int(2 ** draw.uniform(0, LARGEST.bit_length() - 1))

    def run(seed, up, down):
        try:
            transfer(port, seed, up, down, timeout=within(60))
            outcome = "whole"
        except Broken as error:
            outcome = error.how
        except OSError as error:
            outcome = type(error).__name__
        except AssertionError as error:
            outcome = f"CHANGED: {error}"
        outcomes[outcome] += 1

    threads = [threading.Thread(target=run, args=(seed, size(), size())) for seed in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.ours
@pytest.mark.time_limit(120)
def test_in_64_mib(tunnel, service, groups):
    local = service(Digest)
    t = tunnel({"echo": local.port}, start=False)
    t.start_server()
    t.start_client()
    t.wait_ready(names=["echo"])
    for role, group in groups.items():
        group.add(getattr(t, role).pid)
    outcomes, killed = collections.Counter(), collections.Counter()
    threads = flows(t.port(), scaled(80, 8, full=1000), outcomes)

    def restart_killed():
        for role in groups:
            process = getattr(t, role)
            if not process.alive():
                assert process.popen.returncode == -9, f"the {role} ended with {process.popen.returncode}"
                process.expected_death = True
                killed[role] += 1
                getattr(t, f"start_{role}")()
                groups[role].add(getattr(t, role).pid)
        return not any(thread.is_alive() for thread in threads)

    wait_until(restart_killed, within(100) if not FULL else 3000, lambda: f"the flows' end: {outcomes}")
    print(f"{dict(outcomes)}, killed: {dict(killed)}, peak "
          f"{({role: round((group.peak() or 0) / 2**20, 1) for role, group in groups.items()})} MiB")
    assert set(outcomes) <= {"whole", "rst", "ConnectionRefusedError", "ConnectionResetError"}, outcomes
    if not killed:
        assert set(outcomes) == {"whole"}, outcomes
    # Whatever happened, it serves now.
    wait_until(lambda: _is_whole(t.port()), within(10), "a whole transfer afterwards")


def _is_whole(port):
    try:
        transfer(port, 1, 1000, 1000, timeout=5)
        return True
    except (OSError, Broken):
        return False
