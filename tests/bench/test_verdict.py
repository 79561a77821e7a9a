"""What bench/guard says of ratios, and how far bench/run says it is."""

import io
import random

import progress
import pytest
import stats
import verdict

LIMIT = 0.05


@pytest.mark.parametrize("ratios, outcome", [
    ((1.06, 1.07, 1.08, 1.06, 1.09), verdict.LOSS),
    ((1.01, 1.02, 1.06, 1.07, 1.20), verdict.LOSS),  # they agree that it is one, and the median is beyond
    ((0.99, 1.08, 1.09, 1.10, 1.11), verdict.UNSURE),  # one round disagrees
    ((1.01, 1.02, 1.04, 1.06, 1.07), verdict.UNSURE),  # the median is within the limit, some are not
    ((1.01, 1.02, 1.03, 1.03, 1.04), verdict.NO_LOSS),
    ((0.98, 1.00, 1.01, 1.02, 1.04), verdict.NO_LOSS),
    ((0.90, 0.91, 0.92, 0.95, 0.99), verdict.GAIN),
    ((0.90, 0.91, 0.92, 0.95, 1.01), verdict.NO_LOSS),
    ((1.50, 1.60, 1.70, 1.80), verdict.UNSURE),  # too few
    ((0.50, 0.60, 0.70, 0.80), verdict.UNSURE),
    ((), verdict.UNSURE),
])
def test_the_rule(ratios, outcome):
    assert verdict.judge(ratios, LIMIT).outcome == outcome
    assert verdict.judge(ratios[::-1], LIMIT).outcome == outcome


def test_the_limit_is_the_one_given():
    assert verdict.judge([1.06] * 5, 0.07).outcome == verdict.NO_LOSS
    assert verdict.judge([1.06] * 5, 0.05).outcome == verdict.LOSS


def test_more_rounds_forgive_outliers():
    assert [verdict.dropped(count) for count in (5, 8, 9, 12, 20)] == [0, 0, 1, 2, 5]
    rounds = [1.08] * 8 + [0.7]
    assert verdict.judge(rounds[-5:], LIMIT).outcome == verdict.UNSURE
    assert verdict.judge(rounds, LIMIT).outcome == verdict.LOSS


@pytest.mark.parametrize("count", [5, 9, 15])
def test_the_interval_errs_as_seldom_as_it_says(count):
    """Skewed noise, as of a machine that others use; seeded, so that the outcome is always the same."""
    draw = random.Random(count)
    outside = 0
    for _ in range(2000):
        found = verdict.judge([draw.lognormvariate(0, 0.2) for _ in range(count)], LIMIT)
        outside += not found.low <= 1 <= found.high
    assert 0.01 < outside / 2000 < 0.075  # at most 1 of 16


def outcomes(loss, noise, count=5, runs=500):
    draw = random.Random(1)
    return [verdict.judge([draw.gauss(1 + loss, noise) for _ in range(count)], LIMIT).outcome
            for _ in range(runs)]


def test_noise_is_no_loss_and_a_loss_is_found():
    assert verdict.LOSS not in outcomes(0, 0.02)
    assert outcomes(0.10, 0.02).count(verdict.LOSS) == 500
    assert outcomes(0, 0.10).count(verdict.LOSS) < 25
    assert outcomes(0.10, 0.30).count(verdict.UNSURE) > 250  # too much noise to tell


def test_median_of_nothing():
    assert stats.median([]) is None


def test_time_left_follows_what_took_how_long():
    parts = [progress.Part("begun", 4, 10, done=2, spent_s=40), progress.Part("later", 3, 5)]
    assert progress.left_s(parts) == 2 * 20 + 3 * 5 * 2  # all is twice as slow as guessed
    assert progress.left_s([progress.Part("first", 3, 5)]) == 15


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(stream):
    said = progress.Progress([progress.Part("tcp-bulk", 2, 5), progress.Part("idle", 1, 600)], stream)
    said.begin(1)
    said.measures("ours", 1, 2)
    said.measured(1)
    said.say("a figure")
    said.end()
    return stream.getvalue()


def test_a_terminal_has_one_line_that_is_written_over():
    text = told(Terminal())
    assert "suite 1 of 2: tcp-bulk, ours, round 1 of 2, about 10 min left" in text
    assert text.count("\n") == 1
    assert "\033[Ka figure\n" in text


def test_elsewhere_lines_are_plain():
    assert told(io.StringIO()) == "suite 1 of 2: tcp-bulk, about 10 min left\na figure\n"


def test_a_suite_that_is_left_out_takes_no_time():
    said = progress.Progress([progress.Part("tcp-bulk", 2, 5), progress.Part("idle", 1, 7)], io.StringIO())
    said.begin(1)
    said.end()
    assert progress.left_s(said.parts) == 7
