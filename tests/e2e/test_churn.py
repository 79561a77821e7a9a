"""Thousands of short connections a second, for minutes (bench/churn.c): none fails, and nothing grows."""

import json
import pathlib
import sys
import time

import pytest
from harness import BINARIES, FULL, OURS, ROOT, Process, free_port, nothing_piles_up, within
from limits import REAL

sys.path.append(str(ROOT / "tests" / "soak"))
import judge  # noqa: E402
from figures import DESCRIPTORS, MEMORY  # noqa: E402

CHURN = pathlib.Path(BINARIES[OURS]).parent / "bench" / "churn"
RATE = 2000
PIPES = 24


def run_of(tunnel, seconds, path):
    """(the last line of churn, {role: [(seconds since the start, descriptors, KiB)]})"""
    with open(path, "w") as out:
        process = Process([CHURN, tunnel.port(), tunnel.services["echo"], RATE, seconds], f"{path}.log",
                          stdout=out)
    started, samples = time.monotonic(), {"server": [], "client": []}
    while process.alive():
        for role, found in samples.items():
            end = getattr(tunnel, role)
            found.append((time.monotonic() - started, end.fds(), end.private_kib()))
        time.sleep(1 if FULL else 0.2)
    assert process.popen.returncode == 0, process.log()
    return json.loads(path.read_text().splitlines()[-1]), samples


@pytest.mark.ours
@pytest.mark.realtime
@pytest.mark.time_limit(120)
def test_churn(tunnel, tmp_path):
    """Ten minutes, of which the last five are flat; in an everyday run some seconds, again until a round
    takes no descriptor and no memory more than the one before."""
    if not CHURN.exists():
        pytest.skip("bench/churn is not built")
    t = tunnel({"echo": free_port()})
    ends = {role: getattr(t, role) for role in ("server", "client")}
    before = {role: end.settled_fds() for role, end in ends.items()}
    seconds = 300 if FULL else 1
    samples = {}

    def one_round():
        begun = time.monotonic()
        outcome, found = run_of(t, seconds, tmp_path / "churn.json")
        samples.update(found)
        print(f"{outcome['begun']} visitors in {time.monotonic() - begun:.1f} s: {outcome}")
        assert outcome["served"] == outcome["begun"] == RATE * seconds, outcome

    if not FULL:
        nothing_piles_up(list(ends.values()), one_round, RATE)
        return
    one_round()
    one_round()
    for role in ends:
        for figure, column in ((DESCRIPTORS, 1), (MEMORY, 2)):
            found = judge.judge(figure, [[(sample[0], sample[column]) for sample in samples[role]]])
            print(role, figure.name, found)
            assert found.drifts is False, (role, figure.name, found)
    for role, end in ends.items():
        # The pool is as small as before after twice its hold at most; relays' pipes are kept.
        end.wait_fds(before[role] + PIPES, 2 * REAL["pool_hold"] + within(20))
