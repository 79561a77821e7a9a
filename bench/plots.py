"""The plots of bench.md. What stands in which is decided without matplotlib; without it there is none."""

import math
import os
import textwrap

import stats
from peers import OURS, PEERS_BY_NAME
from suites import ROWS, SUITES_BY_NAME

DIRECTORY = "plots"
COLUMNS, PANEL_WIDTH, BAR_HEIGHT, PANEL_MARGIN, HEAD = 3, 4.4, 0.24, 0.85, 0.35  # inches
TITLE_CHARACTERS, NAME_CHARACTERS = 46, 25  # in a line
DPI = 110
COLOURS_MAX = 96
LOG_FROM = 50  # an axis whose ends are so far apart is logarithmic
PERCENTILES = {"p50": "o", "p90": "d", "p99": "s", "max": "|"}  # and their markers

# A peer has the same colour everywhere; only this program's are bright.
COLOURS = {
    "ours": "#d62839", "ours-sodium": "#f08a93", "ours-headed": "#f4b6bb", "old": "#5f7a8c", "new": "#d62839",
    "ours-1": "#e8743b", "ours-static": "#e26d8c", "ours-unconfined": "#f2a07b", "ours-balance": "#b5485d",
    "ours-routed": "#c9184a",
    "rathole": "#3b6f9c",
    "frp-plain": "#4f9d7e", "frp": "#86c0a6", "frp-tls": "#2f6b54",
    "haproxy": "#8a6bb1", "haproxy-copy": "#bfaad8",
    "bore": "#c2a13b", "chisel": "#9c7145",
    "none": "#a8a8a8",
    # What the kernel or the cipher alone costs.
    "bare-splice": "#2b2b2b", "bare-copy": "#5c5c5c", "bare-udp": "#434343", "bare-udp-segments": "#767676",
    "aead": "#8c8c6a",
}
OTHER_OURS, OTHER_BARE = "#f08a93", "#5c5c5c"  # further variants of this program, and of the kernel alone
SPARE = ("#4aa3b5", "#b5657f", "#7f8f3a", "#6a7fd0")


def colour_of(name):
    if name in COLOURS:
        return COLOURS[name]
    if name.startswith("ours"):
        return OTHER_OURS
    if name.startswith("bare"):
        return OTHER_BARE
    return SPARE[sum(map(ord, name)) % len(SPARE)]


def is_ours(name):
    """What the eye is to find first; variants of it only have its colour."""
    return name in (OURS, "new")


def title_of(name):
    return PEERS_BY_NAME[name].title if name in PEERS_BY_NAME else name


# What stands where


def _row_of(entry):
    key = (entry["suite"], entry["load"], entry["metric"])
    return next((row for row in ROWS if (row.suite, row.load, row.metric) == key), None)


def compared(rows):
    """Rows that set peers side by side."""
    return [entry for entry in rows if len(entry["median"]) > 1 and entry["x"] is None]


def throughput(rows, udp, metrics):
    """Of a fixed rate, what was reached says nothing."""
    return [entry for entry in compared(rows)
            if entry["metric"] in metrics and not entry["suite"].endswith("-fixed")
            and SUITES_BY_NAME[entry["suite"]].udp == udp and entry["load"] not in ("fixed", "half")]


def costs(rows, *units):
    return [entry for entry in compared(rows)
            if (row := _row_of(entry)) and row.is_cost and entry["unit"] in units]


def latencies(samples):
    """[(suite, load, unit, {peer: {percentile: median}})], of loads that report percentiles."""
    found = {}
    for sample in samples:
        for metric in sample.get("figures", {}):
            percentile, _, unit = metric.partition("_")
            if percentile in PERCENTILES and unit in ("ms", "us") and sample["round"]:
                found.setdefault((sample["suite"], sample["load"], unit), set()).add(percentile)
    panels = []
    for (suite, load, unit), percentiles in found.items():
        mine = stats.of_load(samples, suite, load)
        of_peers = {}
        for percentile in (each for each in PERCENTILES if each in percentiles):
            for peer, values in stats.by_round(mine, f"{percentile}_{unit}").items():
                of_peers.setdefault(peer, {})[percentile] = stats.median(values.values())
        if (len(of_peers) > 1 and len(percentiles) > 1 and suite in SUITES_BY_NAME
                and not SUITES_BY_NAME[suite].axis):
            panels.append((suite, load, unit, of_peers))
    return panels


def memories(rows, samples):
    """[(suite, row of KiB per connection, {peer: ((0, KiB), (connections, KiB))})]: the larger end."""
    found = []
    for entry in compared(rows):
        if entry["metric"] != "kb_per_connection":
            continue
        mine = stats.of_load(samples, entry["suite"], entry["load"])
        held, base = stats.by_round(mine, "connections"), stats.by_round(mine, "base_kb")
        lines = {}
        for peer, each in entry["median"].items():
            if peer not in held or peer not in base:
                continue
            count, empty = stats.median(held[peer].values()), stats.median(base[peer].values())
            lines[peer] = ((0, empty), (count, empty + count * each))
        found.append((entry["suite"], entry, lines))
    return found


# Drawing


def _heading(suite, title):
    return textwrap.fill(f"{suite}: {title}", TITLE_CHARACTERS)


def _digits(value):
    """Three significant digits."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}".replace(",", " ") if value > 0 else "0"


def _grid(pyplot, counts, columns=COLUMNS):
    """Panels in lines, for so many peers each: the figure, and for each panel its axis and how many peers its
    line has room for, so that all bars are of one height."""
    columns = min(columns, len(counts))
    rooms = [max(counts[n:n + columns]) for n in range(0, len(counts), columns)]
    heights = [PANEL_MARGIN + BAR_HEIGHT * room for room in rooms]
    figure, axes = pyplot.subplots(len(rooms), columns, squeeze=False, height_ratios=heights,
                                   figsize=(max(7, PANEL_WIDTH * columns), HEAD + sum(heights)))
    panels = [(axis, room) for line, room in zip(axes, rooms) for axis in line]
    for axis, _ in panels[len(counts):]:
        axis.set_visible(False)
    return figure, panels[:len(counts)]


def _plain(axis, heading):
    axis.set_title(heading, fontsize=9, loc="left")
    axis.tick_params(labelsize=8, length=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)


def _logarithmic(pyplot, axis):
    """axis: one of x or y. Labelled at 1, 2 and 5, because many panels have less than a decade."""
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    ticker = pyplot.matplotlib.ticker
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:,g}".replace(",", " "))
    axis.set_minor_formatter(ticker.NullFormatter())


def _names(axis, names, room):
    """A line for each peer, the first one on top; this program's name is bold."""
    titles = [textwrap.fill(title_of(name), NAME_CHARACTERS) for name in names]
    axis.set_yticks(range(len(names)), titles)
    axis.set_ylim(room - 0.4, -0.6)
    for name, label in zip(names, axis.get_yticklabels()):
        if "\n" in label.get_text():
            label.set(fontsize=7, linespacing=0.9)
        if is_ours(name):
            label.set(fontweight="bold", color=colour_of(name))


def _bars(axis, entry, room):
    """The best on top: the median, and a line from the lowest to the highest round."""
    median = entry["median"]
    names = sorted(median, key=lambda name: median[name], reverse=entry["better"] == "more")
    axis.barh(range(len(names)), [median[name] for name in names],
              color=[colour_of(name) for name in names], height=0.72)
    top = max(entry["highest"].values()) or 1
    for at, name in enumerate(names):
        low, high = entry["lowest"][name], entry["highest"][name]
        if entry["rounds"][name] > 1:
            axis.plot((low, high), (at, at), color="black", linewidth=0.9, marker="|", markersize=4)
        axis.text(max(high, median[name]) + 0.02 * top, at, _digits(median[name]), va="center", fontsize=7.5,
                  fontweight="bold" if is_ours(name) else None)
    axis.set_xlim(0, 1.17 * top)
    axis.grid(axis="x", alpha=0.25)
    _plain(axis, _heading(entry["suite"], entry["title"]))
    _names(axis, names, room)
    axis.set_xlabel(entry["unit"] + ("; less is better" if entry["better"] == "less" else ""), fontsize=8)


def _draw_bars(pyplot, entries):
    # Those with as many peers stand beside each other.
    entries = sorted(entries, key=lambda entry: -len(entry["median"]))
    figure, panels = _grid(pyplot, [len(entry["median"]) for entry in entries])
    for (axis, room), entry in zip(panels, entries):
        _bars(axis, entry, room)
    return figure


def _draw_latencies(pyplot, panels):
    panels = sorted(panels, key=lambda panel: -len(panel[3]))
    figure, places = _grid(pyplot, [len(of_peers) for _, _, _, of_peers in panels])
    for (axis, room), (suite, load, unit, of_peers) in zip(places, panels):
        names = sorted(of_peers, key=lambda name: of_peers[name].get("p99", of_peers[name].get("p50", 0)))
        for at, name in enumerate(names):
            values = of_peers[name]
            colour, is_thick = colour_of(name), is_ours(name)
            axis.plot([*values.values()], [at] * len(values), color=colour, linewidth=3 if is_thick else 1.6)
            for percentile, value in values.items():
                axis.plot(value, at, PERCENTILES[percentile], color=colour, markersize=7 if is_thick else 5.5,
                          markeredgewidth=2 if percentile == "max" else 0.5,
                          markeredgecolor=colour if percentile == "max" else "white")
        _logarithmic(pyplot, axis.xaxis)
        axis.grid(axis="x", alpha=0.25)
        _plain(axis, f"{suite}, {load}" if len(SUITES_BY_NAME[suite].loads) > 1 else suite)
        _names(axis, names, room)
        axis.set_xlabel(unit, fontsize=8)
    handles = [pyplot.Line2D([], [], color="black", marker=marker, linestyle="", markersize=6, label=name)
               for name, marker in PERCENTILES.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="upper right", fontsize=8, frameon=False)
    return figure


def _line(axis, name, xs, ys, **more):
    axis.plot(xs, ys, color=colour_of(name), linewidth=3 if is_ours(name) else 1.6, marker="o", markersize=4,
              zorder=3 if is_ours(name) else 2, **more)


def _draw_memories(pyplot, panels):
    counts = [max(6, len(entry["median"])) for _, entry, _ in panels for _ in range(2)]
    figure, places = _grid(pyplot, counts, 2)
    for (left, _), (right, room), (suite, entry, lines) in zip(places[::2], places[1::2], panels):
        for name, points in lines.items():
            _line(left, name, [count for count, _ in points], [kib / 1024 for _, kib in points])
        _logarithmic(pyplot, left.yaxis)
        left.grid(alpha=0.25)
        _plain(left, f"{suite}: a whole process, the larger end")
        left.set_xlabel("idle connections", fontsize=8)
        left.set_ylabel("MiB", fontsize=8)
        _bars(right, entry, room)
    return figure


def _draw_curves(pyplot, curves, axis_name):
    figure, panels = _grid(pyplot, [12] * len(curves))
    names = dict.fromkeys(name for points in curves for point in points for name in point["median"])
    for (axis, _), points in zip(panels, curves):
        for name in names:
            mine = [point for point in points if name in point["median"]]
            xs = [point["x"] for point in mine]
            axis.fill_between(xs, [point["lowest"][name] for point in mine],
                              [point["highest"][name] for point in mine],
                              color=colour_of(name), alpha=0.15, linewidth=0)
            _line(axis, name, xs, [point["median"][name] for point in mine])
        if _is_wide([point["x"] for point in points]):
            _logarithmic(pyplot, axis.xaxis)
            axis.xaxis.set_major_locator(pyplot.matplotlib.ticker.LogLocator())
        else:
            axis.set_xticks([point["x"] for point in points])
        if _is_wide([value for point in points for value in point["median"].values()]):
            _logarithmic(pyplot, axis.yaxis)
        else:
            axis.set_ylim(0)
        axis.grid(alpha=0.25)
        _plain(axis, _heading(points[0]["suite"], points[0]["title"]))
        axis.set_xlabel(axis_name, fontsize=8)
        axis.set_ylabel(points[0]["unit"], fontsize=8)
    handles = [pyplot.Line2D([], [], color=colour_of(name), linewidth=3 if is_ours(name) else 1.6,
                             label=title_of(name)) for name in names]
    panels[0][0].legend(handles=handles, fontsize=7, frameon=False, loc="best")
    return figure


def _is_wide(values):
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def plan(rows, samples):
    """[(file, title, function(pyplot) -> figure)] of all plots that have something to show."""
    bars = [
        ("throughput", "Throughput", throughput(rows, False, ("gbps",))),
        ("requests", "Requests and connections a second", throughput(rows, False, ("rps",))),
        ("datagrams", "UDP: round trips and datagrams a second", throughput(rows, True, ("rps", "rate"))),
        ("cpu-per-gb", "CPU of both ends per GB", costs(rows, "s/GB")),
        ("cpu-per-request", "CPU of both ends per request and visitor",
         costs(rows, "us/request", "us/visitor")),
        ("cpu-per-datagram", "CPU of both ends per datagram and round trip",
         costs(rows, "us/datagram", "us/round trip")),
        ("cpu-per-login", "CPU of the server per login", costs(rows, "us/login")),
    ]
    found = [(name, title, lambda pyplot, entries=entries: _draw_bars(pyplot, entries))
             for name, title, entries in bars if entries]
    if panels := latencies(samples):
        found.append(("latency", "Latency: median, p90, p99, the slowest; the best p99 on top",
                      lambda pyplot: _draw_latencies(pyplot, panels)))
    if idle := memories(rows, samples):
        found.append(("memory", "Memory by idle connections", lambda pyplot: _draw_memories(pyplot, idle)))
    for suite in SUITES_BY_NAME.values():
        curves = curves_of([entry for entry in rows if entry["suite"] == suite.name])
        if curves:
            found.append((f"by-{suite.name}", suite.title,
                          lambda pyplot, curves=curves, axis=suite.axis: _draw_curves(pyplot, curves, axis)))
    return found


def curves_of(rows):
    """The rows of one suite that are points, a list for each figure, by x."""
    found = {}
    for row in rows:
        if row["x"] is not None:
            found.setdefault(row["metric"], []).append(row)
    return [sorted(points, key=lambda row: row["x"]) for points in found.values()]


def shrink(path):
    """Bars and letters need few colours: a palette takes a third of the bytes, and docs/ keeps the files."""
    from PIL import Image  # of matplotlib's own needs

    with Image.open(path) as image:
        few = image.convert("RGB").quantize(COLOURS_MAX, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def draw(directory, rows, samples):
    """Returns ([(title, path below directory)], None), or ([], why there are none)."""
    planned = plan(rows, samples)
    if not planned:
        return [], "nothing to compare"
    try:
        import matplotlib
    except ImportError:
        return [], "matplotlib is not installed (scripts/setup soak)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    os.makedirs(os.path.join(directory, DIRECTORY), exist_ok=True)
    found = []
    for name, title, make in planned:
        figure = make(pyplot)
        figure.text(0.01, 1 - HEAD / 4 / figure.get_figheight(), title, va="top", fontsize=11,
                    fontweight="bold")
        figure.tight_layout(rect=(0, 0, 1, 1 - HEAD / figure.get_figheight()))
        path = f"{DIRECTORY}/{name}.png"
        # Without a date, and without the version of matplotlib: the same figures make the same file.
        figure.savefig(os.path.join(directory, path), dpi=DPI, metadata={"Software": None})
        pyplot.close(figure)
        shrink(os.path.join(directory, path))
        found.append((title, path))
    return found, None
