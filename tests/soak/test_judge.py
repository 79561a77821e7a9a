"""The judge of the soak: it finds leaks that were planted, and calls no noise a leak.

Two hours are played: samples every 5 s, of which the second half counts.
"""

import math
import random

import judge
import pytest
import record
import report
from figures import DESCRIPTORS, LATENCY_P50, MEMORY, OF_PROCESSES

MINUTES, STEP_S = 60, 15
SEEDS = 60


def noisy(seed, level, noise, correlated=0.0, per_minute=0.0, minutes=MINUTES, begin_s=0.0):
    """A series with a leak of so much per minute. correlated: how much of a sample's noise the next one
    keeps; the noise itself is as large either way."""
    draw = random.Random(seed)
    samples, now, fresh = [], 0.0, math.sqrt(1 - correlated ** 2)
    for n in range(int(minutes * 60 / STEP_S)):
        at = n * STEP_S
        now = correlated * now + fresh * draw.gauss(0, noise)
        samples.append((begin_s + at, level + now + per_minute * at / 60))
    return samples


def whole(samples):
    return [(at, round(value)) for at, value in samples]


def of_memory(seed, **options):
    """KiB: pages of buffers that come and go with a few minutes' memory."""
    return whole(noisy(seed, 2800, 30, 0.8, **options))


def of_descriptors(seed, **options):
    """Whatever connections are open: the least of each block counts."""
    return [(at, max(90, value)) for at, value in whole(noisy(seed, 110, 12, 0.5, **options))]


def of_latency(seed, **options):
    """us, with spikes when another program takes the core."""
    draw = random.Random(seed)
    return [(at, value * (5 if draw.random() < 0.02 else 1))
            for at, value in noisy(seed, 400, 60, 0.8, **options)]


SERIES = {"memory": (MEMORY, of_memory), "descriptors": (DESCRIPTORS, of_descriptors),
          "latency": (LATENCY_P50, of_latency)}


def alarms(figure, make, seeds=SEEDS, **options):
    return sum(judge.judge(figure, [make(seed, **options)]).drifts for seed in range(seeds))


@pytest.mark.parametrize("name", SERIES)
def test_noise_alone_is_no_drift(name):
    assert alarms(*SERIES[name]) == 0


@pytest.mark.parametrize("name, per_minute", [
    ("memory", 64), ("memory", 8), ("descriptors", 1), ("latency", 10)])
def test_every_leak_is_found(name, per_minute):
    assert alarms(*SERIES[name], per_minute=per_minute) == SEEDS


@pytest.mark.parametrize("name, per_minute", [("memory", 64), ("descriptors", 1)])
def test_the_slope_is_the_leak(name, per_minute):
    figure, make = SERIES[name]
    for seed in range(10):
        found = judge.judge(figure, [make(seed, per_minute=per_minute)])
        assert found.low <= per_minute <= found.high, (seed, found)
        assert found.slope == pytest.approx(per_minute, rel=0.3)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """With correlated noise, too: of 200, some 190."""
    held = 0
    for seed in range(200):
        found = judge.judge(MEMORY, [of_memory(seed)])
        held += found.low <= 0 <= found.high
    assert held >= 180


@pytest.mark.parametrize("minutes", [3, 6, 12])
def test_short_runs_raise_no_false_alarm(minutes):
    for figure, make in SERIES.values():
        assert alarms(figure, make, minutes=minutes) == 0


def test_a_short_run_finds_a_large_leak():
    assert alarms(MEMORY, of_memory, minutes=6, per_minute=300) >= SEEDS * 0.95


def test_one_step_of_a_slab_is_no_drift():
    for seed in range(SEEDS):
        samples = [(at, value + (64 if at > MINUTES * 60 * (seed / SEEDS) else 0))
                   for at, value in whole(noisy(seed, 2800, 4))]
        assert not judge.judge(MEMORY, [samples]).drifts, seed


def lives(count, make, seed=0, higher_by=0, **options):
    """Processes one after the other, the next one `higher_by` above the one before."""
    each = MINUTES / count
    for n in range(count):
        samples = make(seed * 100 + n, minutes=each, begin_s=n * each * 60, **options)
        yield [(at, value + n * higher_by) for at, value in samples]


def test_steps_at_restarts_are_no_drift_of_a_process():
    """Each life begins 100 KiB above the one before."""
    for seed in range(SEEDS):
        assert not judge.judge(MEMORY, list(lives(6, of_memory, seed, higher_by=100))).drifts


def test_steps_at_restarts_that_go_down_hide_no_leak():
    for seed in range(SEEDS):
        series = list(lives(6, of_memory, seed, higher_by=-640, per_minute=64))
        assert judge.judge(MEMORY, series).drifts


def test_each_life_may_have_its_step():
    """Processes that live for ten minutes, and whose slabs still grow by 3 KiB a minute, as after a burst
    that is larger than all before it. Four times as much is a leak."""
    def of_slabs(seed, **options):
        return whole(noisy(seed, 3400, 8, 0.5, **options))

    def series(seed, per_minute):
        return list(lives(MINUTES // 10, of_slabs, seed, per_minute=per_minute))
    for seed in range(SEEDS):
        assert not judge.judge(MEMORY, series(seed, 3)).drifts, seed
        assert judge.judge(MEMORY, series(seed, 12)).drifts, seed


def test_what_each_life_hands_to_the_next_is_a_drift_of_the_lives():
    for seed in range(20):
        series = list(lives(10, of_descriptors, seed, higher_by=8))
        assert not judge.judge(DESCRIPTORS, series).drifts
        assert judge.judge_lives(DESCRIPTORS, series).drifts
        assert not judge.judge_lives(DESCRIPTORS, list(lives(10, of_descriptors, seed))).drifts


def test_a_figure_that_falls_does_not_drift():
    assert alarms(MEMORY, of_memory, seeds=10, per_minute=-64) == 0


def test_too_few_samples_say_nothing():
    assert judge.judge(MEMORY, [of_memory(1, minutes=1)]).drifts is None
    assert judge.judge(MEMORY, []).drifts is None
    assert judge.judge_lives(MEMORY, [of_memory(1)]) is None


def test_a_series_without_any_noise():
    flat = [[(n * 5.0, 100) for n in range(500)]]
    assert judge.judge(DESCRIPTORS, flat).slope == 0
    leak = [[(n * 5.0, 100 + n // 12) for n in range(500)]]
    assert judge.judge(DESCRIPTORS, leak).drifts


# --- errors ---


def error(outcome="reset", t0=100.0, t1=101.0, pair="faults-tcp", kind="short"):
    return {"pair": pair, "kind": kind, "outcome": outcome, "t0": t0, "t1": t1}


def permit(what="any", begin=100.0, end=110.0, **options):
    return judge.Permit(frozenset(["faults-tcp"]), what, begin, end, **options)


@pytest.mark.parametrize("planned, permits, what", [
    (False, [], error()),
    (True, [permit()], error()),
    (True, [permit()], error(t0=20, t1=100.5)),             # in flight when it began
    (True, [permit()], error(t0=109.9, t1=114)),            # begun before its end
    (False, [permit()], error(t0=110.1, t1=110.2)),         # begun after it
    (False, [permit()], error(t0=99, t1=99.9)),             # ended before it
    (False, [permit()], error(t0=105, t1=115.1)),           # found too late
    (True, [permit(late_s=65)], error(t0=105, t1=170)),
    (True, [permit()], error("silent", t0=105, t1=140)),    # missed when patience is over
    (False, [permit()], error("lost", kind="udp", t0=105, t1=186)),
    (True, [permit(end=None)], error(t0=500, t1=501)),      # it still goes on
    (False, [permit()], error(pair="reloads-tcp")),         # of another pair
    (False, [permit()], error("short")),                    # a clean end that is none
    (False, [permit()], error("wrong")),
    (False, [permit("udp")], error()),
    (True, [permit("udp")], error("lost", kind="udp")),
    (True, [permit("cut", after_s=30)], error(t0=50, t1=140.5)),
    (True, [permit("cut", after_s=30)], error(t0=101, t1=130.5)),   # begun while the upgrade went on
    (False, [permit("cut", after_s=30)], error(t0=111, t1=140.5)),  # begun after the upgrade
    (False, [permit("cut", after_s=30)], error(t0=50, t1=104)),     # cut before its time
    (False, [permit("cut", after_s=30)], error(t0=50, t1=145.5)),   # and after
    (False, [permit("cut", after_s=30)], error("refused", t0=50, t1=140.5)),
    (True, [permit("stall")], error("silent", t0=90, t1=109)),
    (False, [permit("stall")], error("reset", t0=90, t1=109)),
    (True, [permit("udp"), permit()], error()),
])
def test_what_is_planned(planned, permits, what):
    assert judge.is_planned(what, permits) == planned


def test_packets_that_the_kernel_dropped():
    assert record.count_dropped_packets("1b2a5e4f 00000000 0000010a 0\n1ad4ef3e 00000000 000000c1 0\n") == 0
    assert record.count_dropped_packets("1b2a5e4f 0000001f 0000010a 0\n1ad4ef3e 00000002 000000c1 0\n") == 33
    permits = [judge.Permit(frozenset(["faults-tcp"]), "udp", 100, 101)]
    assert judge.is_planned(error("lost", kind="udp", t0=99, t1=107), permits)
    assert not judge.is_planned(error("lost", kind="udp", t0=101.5, t1=109), permits)
    assert not judge.is_planned(error("lost", kind="udp", t0=90, t1=98), permits)
    assert not judge.is_planned(error("reset", t0=99, t1=107), permits)


# --- the verdict ---


class Played:
    """What record.Record keeps, of an hour: a pair that is only reloaded, and one whose process is young."""

    def __init__(self, without=()):
        self.begun = 0.0
        self.events, self.errors, self.cpu = [], [], {}
        self.counts = {"reloads": {"reloads-tcp short": 1}, "faults": {"faults-tcp short": 1}}
        self.bytes = {"reloads": {"reloads-tcp": 1}, "faults": {"faults-tcp": 1}}
        self.latencies, self.answers = {}, {}
        self.lives = {("faults-tcp", "server"): {1: self.life(60)}}
        for role in ("server", "client"):
            self.lives["reloads-tcp", role] = {2: self.life(3600)}
        for series, key in without:
            for _, _, values in self.lives[series][2]:
                del values[key]

    @staticmethod
    def life(seconds):
        return [(at, at, dict.fromkeys(OF_PROCESSES, 100)) for at in range(0, seconds, 5)]


class Stage:
    complaints, stalls, permits, drops = [], [], [], 0


def verdict_of(record):
    verdict = report.Verdict(record, Stage, [], 3600)
    about = {"program": "-", "cpu": "-", "cores_usable": 2, "kernel": "-"}
    return verdict.reasons(), report.markdown(verdict, about, 1, 1, 0.1, False).splitlines()[2]


def test_a_young_process_is_named_and_does_not_fail_the_run():
    reasons, line = verdict_of(Played())
    assert reasons == [] and line.startswith("**passed**")
    assert "faults-tcp server: threads" in line and "reloads" not in line.partition("1.00 hours")[0]


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("key", OF_PROCESSES)
def test_each_figure_of_a_long_life_has_to_be_judged(role, key):
    reasons, line = verdict_of(Played(without=[(("reloads-tcp", role), key)]))
    assert reasons == ["too few samples to judge"]
    assert f"reloads-tcp {role}: {OF_PROCESSES[key].name}" in line and line.startswith("**failed: too few")


def test_a_process_that_was_never_seen_fails_the_run():
    played = Played()
    del played.lives["reloads-tcp", "client"]
    reasons, line = verdict_of(played)
    assert reasons == ["too few samples to judge"] and "reloads-tcp client: threads" in line
    played = Played()
    played.bytes = played.counts = {}
    assert verdict_of(played)[0] == ["too few samples to judge"]
