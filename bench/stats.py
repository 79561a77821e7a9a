"""Medians, spreads and ratios of samples. Nothing here needs more than the standard library.

The processes of a round are measured one after the other, the rounds of an hour are not: what the machine
does meanwhile is in all figures of a round, and mostly gone from a ratio within it. So a ratio of two peers
is the median of the ratios of single rounds, not the ratio of two medians.
"""

import statistics


def of_load(samples, suite, load):
    return [sample for sample in samples if (sample["suite"], sample["load"]) == (suite, load)]


def by_round(samples, metric):
    """{peer: {round: figure}} of the samples that have the figure."""
    found = {}
    for sample in samples:
        figures = sample.get("figures", {})
        if metric in figures:
            found.setdefault(sample["peer"], {})[sample["round"]] = figures[metric]
    return found


def ratios(ours, theirs):
    """Of two {round: figure}: our figure over theirs in each round that has both, in the rounds' order."""
    return [ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)]


def median(values):
    """None of nothing."""
    values = list(values)
    return statistics.median(values) if values else None
