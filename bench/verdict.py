"""Is one build dearer than another? The rule of bench/guard, on ratios of single rounds.

Of n rounds the lowest and the highest ratio, without k at each end, hold the ratio that the machine would
show in endless rounds with a certainty that follows from n and k alone, whatever the noise is like: each
round is above it or below it, as a coin falls. k is the largest that errs in at most 1 of 16 cases, half of
them on either side. That needs 5 rounds; with fewer a row is unsure.

- loss: the median is beyond the limit, and the interval is above 1: the rounds agree that it is a loss.
- unsure: it is none, but the interval reaches beyond the limit. More rounds, or a quieter machine, tell.
- gain: the interval is below 1.
- no loss: anything else. A loss below the limit may be in it.
"""

import math
from dataclasses import dataclass

import stats

LOSS, UNSURE, GAIN, NO_LOSS = "LOSS", "unsure", "gain", "no loss"
ROUNDS_MIN = 5
ERROR_MAX = 1 / 16


@dataclass(frozen=True)
class Verdict:
    median: float | None
    low: float | None
    high: float | None
    outcome: str


def dropped(count):
    """k, of so many rounds."""
    k, below = 0, 1
    while True:
        below += math.comb(count, k + 1)
        if 2 * below / 2**count > ERROR_MAX or 2 * (k + 1) >= count:
            return k
        k += 1


def judge(ratios, limit):
    """ratios: new / old of the rounds. limit: 0.05 for 5 %."""
    if len(ratios) < ROUNDS_MIN:
        return Verdict(stats.median(ratios), None, None, UNSURE)
    ordered, k = sorted(ratios), dropped(len(ratios))
    median, low, high = stats.median(ordered), ordered[k], ordered[-1 - k]
    if median > 1 + limit and low > 1:
        outcome = LOSS
    elif high > 1 + limit:
        outcome = UNSURE
    else:
        outcome = GAIN if high < 1 else NO_LOSS
    return Verdict(median, low, high, outcome)
