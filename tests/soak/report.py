"""The verdict of a soak, its summary in Markdown, and the plot."""

import collections
import math

import figures
import judge
from record import quantile

SETTLE_S = 180  # of a process's life, at least: the pool of channels keeps a burst's size for so long
LATENCY_MAX_MS = 50
OVERFLOWS = ("out_of_memory", "cq_overflows")
COLOURS = {"reloads": "tab:blue", "upgrades": "tab:green", "faults": "tab:orange"}


def settled(life, settle_s, until_s):
    """The second half of a life under load. Those that were young all the time have none."""
    life = [sample for sample in life if sample[0] <= until_s]
    age = life[-1][1] if life else 0
    return [(at, values) for at, its_age, values in life if its_age >= max(settle_s, age / 2)]


class Verdict:
    """load_s: how long the load ran. ends: what was wrong when it had ended, in words."""

    def __init__(self, record, stage, ends, load_s):
        self.record, self.complaints, self.ends, self.load_s = record, stage.complaints, ends, load_s
        self.settle_s = min(SETTLE_S, load_s / 6)
        self.planned, self.unplanned = [], []
        self.stalls = sum(permit.what == "stall" for permit in stage.stalls)
        self.outs, self.drops = len(stage.stalls) - self.stalls, stage.drops
        for error in record.errors:
            (self.planned if judge.is_planned(error, stage.permits) else self.unplanned).append(error)
        self.rows = []  # (series, figure, Slope)
        self.lives = []
        self.overflows = []
        self._processes()
        self._latencies()

    def _processes(self):
        for (pair, role), lives in sorted(self.record.lives.items()):
            parts = [part for life in lives.values() if (part := settled(life, self.settle_s, self.load_s))]
            for key, figure in figures.OF_PROCESSES.items():
                segments = [[(at, values[key]) for at, values in part if key in values] for part in parts]
                self.rows.append((f"{pair} {role}", figure, judge.judge(figure, segments)))
                of_lives = judge.judge_lives(figure, segments)
                if of_lives:
                    self.lives.append((f"{pair} {role}", figure, of_lives))
            for name in OVERFLOWS:
                count = sum(max(values.get(name, 0) for _, _, values in life) for life in lives.values())
                if count:
                    self.overflows.append(f"{pair} {role}: {name} = {count}")

    def _latencies(self):
        half = self.load_s / 2
        for pair, values in sorted(self.record.latencies.items()):
            late = [value for value in values if value[0] >= half]
            self.rows.append((pair, figures.LATENCY_P50,
                              judge.judge(figures.LATENCY_P50, [[(at, p50) for at, p50, _ in late]])))
            if pair.startswith("reloads"):
                self.rows.append((pair, figures.LATENCY_P99,
                                  judge.judge(figures.LATENCY_P99, [[(at, p99) for at, _, p99 in late]])))

    def slow(self):
        """Pairs that nothing breaks, and whose p99 over the whole run is above the bound. The answers of the
        others wait for restarts and healed paths, which have their own bounds (events.py)."""
        found = []
        for pair, p99_ms, below_ms in self.p99s():
            # Where the machine itself is slower than the bound, half of that more.
            bound_ms = max(LATENCY_MAX_MS, below_ms / 2)
            if pair.startswith("reloads") and p99_ms - below_ms > bound_ms:
                found.append(f"{pair}: p99 {p99_ms:.1f} ms, the reference has {below_ms:.1f}")
        return found

    def p99s(self):
        for pair, values in sorted(self.record.answers.items()):
            if values and not pair.endswith(" reference"):
                below = sorted(self.record.answers.get(f"{pair.partition('-')[0]} reference") or [0])
                yield pair, quantile(sorted(values), 0.99) / 1000, quantile(below, 0.99) / 1000

    def drifting(self):
        return [row for row in self.rows + self.lives if row[2].drifts]

    def unjudged(self):
        """What has too few samples, in words. A process that lives for a short time only may have none that
        count."""
        return [f"{series}: {figure.name}" for series, figure, found in self.rows if found.drifts is None]

    def missing(self):
        """What of the group whose processes live as long as the run was not judged, in words: there a figure
        without a verdict is a measurement that failed."""
        judged = {(series, figure.name) for series, figure, found in self.rows if found.drifts is not None}
        return [f"{pair} {role}: {figure.name}"
                for pair in sorted(self.record.bytes.get("reloads", ())) for role in ("server", "client")
                for figure in figures.OF_PROCESSES.values()
                if (f"{pair} {role}", figure.name) not in judged]

    def reasons(self):
        """Why it failed; empty if it did not."""
        found = []
        if self.unplanned:
            found.append(f"{len(self.unplanned)} unplanned errors")
        if self.complaints:
            found.append(f"{len(self.complaints)} complaints")
        if self.drifting():
            found.append(f"{len(self.drifting())} figures drift")
        if self.overflows:
            found.append("counters that have to be 0")
        if self.slow():
            found.append("slow answers")
        if self.ends:
            found.append("not all came back, or ended well")
        if not self.record.bytes.get("reloads") or self.missing():
            found.append("too few samples to judge")
        return found


def _number(value):
    if not math.isfinite(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _slopes(rows):
    lines = ["| series | figure | level | slope a minute | 95 % interval | counts from | minutes | |",
             "|---|---|---|---|---|---|---|---|"]
    for series, figure, found in rows:
        verdict = {True: "**drifts**", False: "", None: "too few"}[found.drifts]
        lines.append(f"| {series} | {figure.name}, {figure.unit} | {_number(found.level)} | "
                     f"{_number(found.slope)} | {_number(found.low)} to {_number(found.high)} | "
                     f"{_number(found.floor)} | {found.window_minutes:.0f} | {verdict} |")
    return lines


def _error_line(record, error):
    return (f"- {error['t0'] - record.begun:.1f} to {error['t1'] - record.begun:.1f} s: {error['pair']}, "
            f"{error['kind']}: {error['outcome']} {error.get('what', '')}".rstrip())


def markdown(verdict, about, hours, seed, share, is_interrupted):
    record = verdict.record
    reasons = verdict.reasons()
    unjudged = sorted({*verdict.unjudged(), *verdict.missing()})
    lines = ["# Soak", "",
             f"**{'failed: ' + ', '.join(reasons) if reasons else 'passed'}**"
             f"{' (interrupted)' if is_interrupted else ''}"
             f"{'; too few samples of ' + ', '.join(unjudged) if unjudged else ''}. "
             f"{hours:.2f} hours, seed {seed}, "
             f"{about['program']}, {about['cpu']}, {about['cores_usable']} cores, Linux {about['kernel']}. "
             f"The soak took {share:.0%} of one core, its tunnels {sum(record.cpu.values()):.0f} s of that.",
             "",
             "## Traffic", "", "| pair | GiB | " + " | ".join(kinds := _kinds(record)) + " |",
             "|---|---|" + "---|" * len(kinds)]
    for group, counts in record.counts.items():
        for pair in sorted(record.bytes[group]):
            moved = record.bytes[group][pair] / 2**30
            lines.append(f"| {pair} | {moved:.2f} | "
                         + " | ".join(str(counts.get(f"{pair} {kind}", 0)) for kind in kinds) + " |")
    events = collections.defaultdict(list)
    for event in record.events:
        events[event["what"], event["group"]].append(event)
    lines += ["", "## Events", "", "| event | group | times | longest until all was back, s |",
    "|---|---|---|---|"]
    for (what, group), each in sorted(events.items()):
        back = [event[key] for event in each for key in ("back_s", "took_s") if key in event]
        lines.append(f"| {what} | {group} | {len(each)} | {max(back) if back else ''} |")
    lines += ["", "## Errors", "",
              f"{len(verdict.planned)} planned: they met an event, and within its bound. "
              f"{len(verdict.unplanned)} unplanned. The machine had no core for the load for over a second "
              f"{verdict.stalls} times, and no memory for its sockets {verdict.outs} times. In "
              f"{verdict.drops} seconds the kernel dropped packets, of any program. Errors that may come "
              "from that count as planned.", ""]
    outcomes = collections.Counter((error["kind"], error["outcome"]) for error in verdict.planned)
    if outcomes:
        lines += ["| planned | outcome | times |", "|---|---|---|"]
        lines += [f"| {kind} | {outcome} | {count} |" for (kind, outcome), count in sorted(outcomes.items())]
    lines += [_error_line(record, error) for error in verdict.unplanned[:50]]
    lines += [f"- {each['at'] - record.begun:.1f} s: {each['pair']}: {each['what']}"
              for each in verdict.complaints]
    lines += [f"- {each}" for each in verdict.ends + verdict.overflows + verdict.slow()]
    lines += ["", "## Answers", "", "Of a connection that stays open, over the whole run.", "",
              "| pair | p50, ms | p99, ms | p99 of the reference, ms |", "|---|---|---|---|"]
    for pair, p99, below in verdict.p99s():
        p50 = quantile(sorted(record.answers[pair]), 0.5) / 1000
        lines.append(f"| {pair} | {p50:.2f} | {p99:.1f} | {below:.1f} |")
    lines += ["", "## Slopes", "", "Of the second half of each process's life. A figure drifts if its "
              "interval is above what counts (tests/soak/figures.py).", "", *_slopes(verdict.rows)]
    if verdict.lives:
        lines += ["", "## From life to life", "", "One value for each process of a role, at its start.", "",
                  *_slopes(verdict.lives)]
    return "\n".join(lines) + "\n"


def _kinds(record):
    found = []
    for counts in record.counts.values():
        for name in counts:
            kind = name.partition(" ")[2]
            if kind not in found:
                found.append(kind)
    return found


# --- plot -----------------------------------------------------------------------------------------


def _thinned(points, width_s):
    blocks = judge.blocks_of(points, width_s, lambda values: sorted(values)[len(values) // 2])
    return [block.minutes for block in blocks], [block.value for block in blocks]


def plot(verdict, path):
    """Returns why there is no plot, or None."""
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not installed (scripts/setup soak)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    record = verdict.record
    figure, axes = pyplot.subplots(4, 1, figsize=(12, 12), sharex=True, height_ratios=(3, 3, 3, 1.2))
    width_s = max(10, verdict.load_s / 240)
    titles = ("anonymous memory, KiB", "descriptors", "p50 of answers above the reference, ms")
    for axis, key, title in zip(axes, ("anon_kib", "fds", None), titles):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        if key:
            for (pair, role), lives in sorted(record.lives.items()):
                for life in lives.values():
                    points = _thinned([(at, values[key]) for at, _, values in life], width_s)
                    axis.plot(*points, color=COLOURS[pair.partition("-")[0]], linewidth=0.8,
                              linestyle="-" if role == "server" else "--")
    for pair, values in sorted(record.latencies.items()):
        minutes, p50s = _thinned([(at, p50 / 1000) for at, p50, _ in values], width_s)
        axes[2].plot(minutes, p50s, color=COLOURS[pair.partition("-")[0]], linewidth=0.8)
    names = sorted({event["what"] for event in record.events})
    for event in record.events:
        axes[3].plot(event["begun"] / 60, names.index(event["what"]), "|", markersize=7,
                     color=COLOURS[event["group"]])
    axes[3].set_yticks(range(len(names)), names, fontsize=6)
    axes[3].set_xlabel("minutes")
    axes[0].set_title("tunnels that are only reloaded (blue), upgraded (green), with all faults (orange); "
                      "servers solid, clients dashed", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    return None
