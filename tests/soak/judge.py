"""Does a figure drift? The statistics of the soak: series of samples in, a slope with its interval out.

A series is a list of segments, one for each life of a process, so that a step at a restart is no drift. The
samples of a segment become blocks of time. The slope is the median of the slopes of all pairs of blocks
of one segment (Theil and Sen), which single steps and outliers don't move. Its interval comes from Kendall's
S, with the variance widened by what the residuals of neighbouring blocks have in common: memory that
breathes over minutes has fewer independent samples than it has blocks.

A figure drifts if its 95 % interval is above its floor, and an interval for all series of a run together is
above zero: of a hundred series without any drift, two or three would have the first by chance. Nothing here
needs more than the standard library, and nothing knows where the figures come from.
"""

import collections
import dataclasses
import math
import statistics

Z = 1.96  # of a 95 % interval
Z_ALL = 3.48  # so that one of 100 series is above it by chance in 5 % of all runs; each 0.0005, on one side
BLOCKS = 40  # a window has about so many
BLOCK_S_MIN = 10
POINTS_MIN = 8  # fewer blocks say nothing
CORRELATION_MAX = 0.9

Block = collections.namedtuple("Block", "minutes value")


@dataclasses.dataclass(frozen=True)
class Figure:
    """What is judged. floor: the smallest slope that counts, in units per minute. step: what may come once in
    the window of a life without being a drift, in units. relative: the same, as a part of the figure's own
    level."""

    name: str
    unit: str
    floor: float
    step: float
    relative: float = 0
    reduce: callable = statistics.median

    def floor_of(self, level, window_minutes):
        """Slopes below this are none."""
        step = max(self.step, self.relative * abs(level))
        return max(self.floor, step / window_minutes if window_minutes else math.inf)


@dataclasses.dataclass(frozen=True)
class Slope:
    """Of one series, in units per minute. drifts: None if there are too few samples."""

    slope: float
    low: float
    high: float
    floor: float
    level: float
    blocks: int
    window_minutes: float
    drifts: bool | None


def blocks_of(samples, width_s, reduce):
    """samples: [(seconds, value)]. Each block has the middle of its time and the reduced value."""
    found = {}
    for at, value in samples:
        found.setdefault(int(at // width_s), []).append(value)
    return [Block((number + 0.5) * width_s / 60, reduce(values)) for number, values in sorted(found.items())]


def _variance_of_s(values):
    """Of Kendall's S without a trend, with equal values counted as such."""
    count = len(values)
    ties = sum(each * (each - 1) * (2 * each + 5) for each in collections.Counter(values).values())
    return (count * (count - 1) * (2 * count + 5) - ties) / 18


def _correlation(segments, slope):
    """What neighbours have in common once the trend is gone: 0 to CORRELATION_MAX."""
    products = squares = 0.0
    count = 0
    for blocks in segments:
        left = [block.value - slope * block.minutes for block in blocks]
        middle = statistics.fmean(left)
        left = [value - middle for value in left]
        products += sum(one * other for one, other in zip(left, left[1:]))
        squares += sum(value * value for value in left)
        count += len(left)
    if squares <= 0:
        return 0.0
    estimate = products / squares
    estimate += (1 + 4 * max(0, estimate)) / count  # of few points it comes out too small
    return min(max(0.0, estimate), CORRELATION_MAX)


def slope_of(segments, is_correlated=True):
    """(slope, low, high, low for all series together) of the blocks, or None if there are too few.
    segments: [[Block]]"""
    segments = [blocks for blocks in segments if len(blocks) >= 3]
    if sum(map(len, segments)) < POINTS_MIN:
        return None
    slopes = sorted((later.value - earlier.value) / (later.minutes - earlier.minutes)
                    for blocks in segments
                    for n, later in enumerate(blocks) for earlier in blocks[:n])
    slope = statistics.median(slopes)
    rho = _correlation(segments, slope) if is_correlated else 0.0
    variance = sum(_variance_of_s([block.value for block in blocks]) for blocks in segments)
    deviation = math.sqrt(variance * (1 + rho) / (1 - rho))

    def at(z):
        """The slope so far from the middle."""
        return slopes[min(max(0, round((len(slopes) + z * deviation) / 2)), len(slopes) - 1)]

    return slope, at(-Z), at(Z), at(-Z_ALL)


def judge(figure, segments, width_s=None, is_correlated=True):
    """segments: [[(seconds, value)]], one for each life of a process, without its warm-up. is_correlated:
    blocks may have something in common with their neighbours."""
    segments = [samples for samples in segments if samples]
    window_s = sum(samples[-1][0] - samples[0][0] for samples in segments)
    if width_s is None:
        width_s = max(BLOCK_S_MIN, window_s / BLOCKS)
    blocks = [blocks_of(samples, width_s, figure.reduce) for samples in segments]
    values = [block.value for each in blocks for block in each]
    level = statistics.median(values) if values else 0.0
    # Each life may have its one step.
    longest_s = max((samples[-1][0] - samples[0][0] for samples in segments), default=0)
    floor = figure.floor_of(level, longest_s / 60)
    found = slope_of(blocks, is_correlated)
    if not found:
        return Slope(0.0, -math.inf, math.inf, floor, level, len(values), window_s / 60, None)
    slope, low, high, low_of_all = found
    return Slope(slope, low, high, floor, level, len(values), window_s / 60, low > floor and low_of_all > 0)


def judge_lives(figure, segments):
    """Drift from life to life: one value for each segment, at the time of its begin. What an upgrade hands on
    and nobody closes shows here alone."""
    points = [(samples[0][0], figure.reduce([value for _, value in samples])) for samples in segments if
    samples]
    if len(points) < POINTS_MIN:
        return None
    return judge(figure, [points], width_s=0.001, is_correlated=False)


# --- errors ---------------------------------------------------------------------------------------

# What no event excuses: a stream that ends cleanly before its last byte, bytes that are wrong.
NEVER_PLANNED = {"short", "wrong"}
# An answer that does not come is missed when the visitor's patience is over (traffic.py), not before.
MISSED, MISSED_LATE_S = ("silent", "lost"), 75


@dataclasses.dataclass
class Permit:
    """What an event may break, and until when.

    what: "any" connection or datagram that overlaps [begin, end]; "udp": datagrams only; "cut": connections
    from before `end` that are reset `after_s` later; "stall": what had no answer in time, because the load
    itself had no core.
    late_s: an error may come so long after `end`, if its connection is from before. end: None while the event
    goes on."""

    pairs: frozenset
    what: str
    begin: float
    end: float | None = None
    late_s: float = 5
    after_s: float = 0

    def excuses(self, error):
        if error["pair"] not in self.pairs or error["outcome"] in NEVER_PLANNED:
            return False
        if self.what == "udp" and not error["kind"].startswith("udp"):
            return False
        end = math.inf if self.end is None else self.end
        if self.what == "cut":
            return (error["t0"] <= end and error["outcome"] == "reset"
                    and self.begin + self.after_s - 1 <= error["t1"] <= end + self.after_s + self.late_s)
        is_missed = error["outcome"] in MISSED
        if self.what == "stall" and not is_missed:
            return False
        late_s = max(self.late_s, MISSED_LATE_S if is_missed else 0)
        return error["t0"] <= end and self.begin <= error["t1"] <= end + late_s


def is_planned(error, permits):
    return any(permit.excuses(error) for permit in permits)
