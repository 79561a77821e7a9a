"""From raw samples to rows, ratios, targets, JSON and Markdown."""

import json
import os

import plots
import stats
from peers import PEERS_BY_NAME
from suites import ROWS, SUITES

NOISY_SHARE = 0.15


def summarise(samples):
    """One entry per row that has figures: each peer's median and spread, our ratios, the targets."""
    return [entry for row in ROWS if (entry := _summarise_row(row, samples))]


def _summarise_row(row, samples):
    mine = stats.of_load(samples, row.suite, row.load)
    found = stats.by_round(mine, row.metric)
    if not found:
        return None
    entry = {
        "suite": row.suite,
        "load": row.load,
        "metric": row.metric,
        "title": row.title,
        "unit": row.unit,
        "better": row.better,
        "digits": row.digits,
        "x": row.x,
        "subject": row.subject,
        "median": {name: stats.median(values.values()) for name, values in found.items()},
        "lowest": {name: min(values.values()) for name, values in found.items()},
        "highest": {name: max(values.values()) for name, values in found.items()},
        "rounds": {name: len(values) for name, values in found.items()},
        "ratios": {},
        "ratios_by_round": {},
    }
    if row.ends:
        ends = [stats.by_round(mine, f"{row.metric}_{end}") for end in ("server", "client")]
        entry["ends"] = {
            name: [stats.median(end[name].values()) for end in ends]
            for name in found
            if all(name in end for end in ends)
        }
    for name in found:
        rounds = stats.ratios(found.get(row.subject, {}), found[name]) if name != row.subject else []
        if rounds:
            entry["ratios"][name] = stats.median(rounds)
            entry["ratios_by_round"][name] = rounds
    entry["targets"] = [_target(row, target, found) for target in row.targets]
    return entry


def _target(row, target, found):
    """Reached or missed by the median: of our figures, or of the ratios within rounds."""
    subject = target.subject or row.subject
    ours = found.get(subject, {})
    if target.beside:
        beside = found.get(target.beside, {})
        ours = {number: value - beside[number] for number, value in ours.items() if number in beside}
    rounds = stats.ratios(ours, found.get(target.peer, {})) if target.peer else [*ours.values()]
    value = stats.median(rounds)
    return {
        "target": target.text(row.unit),
        "peer": target.peer,
        "subject": subject,
        "value": value,
        "by_round": rounds,
        "reached": None if value is None else target.reached(value),
    }


def write(directory, document):
    """bench.json, bench.md and the plots of a document: machine, versions, digests, settings (of each run
    whose samples it has) and samples. Returns (rows, text of bench.md)."""
    rows = summarise(document["samples"])
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "bench.json"), "w") as out:
        json.dump({**document, "rows": rows}, out, indent=1)
        out.write("\n")
    return rows, rewrite(directory, document, rows)


def rewrite(directory, document, rows):
    """All that follows from bench.json."""
    os.makedirs(directory, exist_ok=True)
    pictures, why_none = plots.draw(directory, rows, document["samples"])
    text = markdown(document, rows, pictures, why_none)
    with open(os.path.join(directory, "bench.md"), "w") as out:
        out.write(text)
    return text


def markdown(document, rows, pictures=(), why_none=None):
    samples = document["samples"]
    parts = ["# Benchmark\n", _header(document), _targets(rows)]
    if pictures or why_none:
        parts.append("## Plots\n")
        parts += [f"![{title}]({path})\n" for title, path in pictures]
    if why_none:
        parts.append(f"None: {why_none}.\n")
    for suite in SUITES:
        mine = [row for row in rows if row["suite"] == suite.name]
        if mine:
            parts += [
                f"## {suite.title} (`{suite.name}`)\n",
                *_tables(suite, mine, samples),
                _call_tables(suite.name, samples),
            ]
    parts.append(_problems(samples))
    return "\n".join(part for part in parts if part) + "\n"


def _header(document):
    machine, samples = document["machine"], document["samples"]
    tools = ", ".join(f"{k} {v}" for k, v in {**document["versions"], **machine["tools"]}.items() if v)
    busy = max((s.get("busy_before", 0) for s in samples), default=0)
    noisy = sum(s.get("busy_before", 0) > NOISY_SHARE for s in samples)
    lines = [
        f"{machine['cores_usable']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['congestion_control']}, {machine['user']}. Rounds are "
        "interleaved; each cell is the median of the rounds.\n",
    ]
    for run in document["settings"]:
        suites = ", ".join(run["suites"]) if len(document["settings"]) > 1 else ""
        rounds = "1 round" if run["rounds"] == 1 else f"{run['rounds']} rounds"
        lines.append(f"{rounds} of {run['seconds']} s, {run.get('started', 'undated')}"
                     f"{': ' if suites else ''}{suites}.\n")
    if document.get("forced"):
        lines.append("**Merged although** " + "; ".join(document["forced"]) + ".\n")
    lines += [
        f"Versions: {tools}.\n",
        f"Other work on the machine just before a measurement: at most {busy:.0%} of all "
        f"cores; {noisy} of {len(samples)} samples above {NOISY_SHARE:.0%}.\n",
    ]
    unknown = sorted({s["suite"] for s in samples} - {suite.name for suite in SUITES})
    if unknown:
        lines.append(f"Left out, no suites any more: {', '.join(unknown)}.\n")
    return "\n".join(lines)


def _number(value, unit_digits):
    return f"{value:,.{unit_digits}f}".replace(",", " ")


def _value(value):
    """A ratio or a figure of any unit."""
    return _number(value, 2 if value >= 0.2 else 3)


def _cell(entry, name):
    """The median, {lowest .. highest} if there are more rounds, (both ends), [ratio]."""
    if name not in entry["median"]:
        return ""
    digits = entry["digits"]
    cell = _number(entry["median"][name], digits)
    if entry["rounds"][name] > 1:
        cell += " {" + " .. ".join(_number(entry[key][name], digits) for key in ("lowest", "highest")) + "}"
    if name in entry.get("ends", {}):
        cell += " (" + " + ".join(_number(v, digits) for v in entry["ends"][name]) + ")"
    if name in entry["ratios"]:
        cell += f" [{entry['ratios'][name]:.2f}]"
    return cell


def _tables(suite, rows, samples):
    """One for the suite, and one for each curve: its columns are the points."""
    names = in_order({s["peer"] for s in samples if s["suite"] == suite.name})
    plain = [row for row in rows if row["x"] is None]
    yield "Median {lowest .. highest} (server + client) [ours / this one].\n"
    if plain:
        yield _table("", [_titled(row) for row in plain], plain, names)
    for points in plots.curves_of(rows):
        yield f"{_titled(points[0])}, by {suite.axis}:\n"
        yield _table(suite.axis, [f"{row['x']:,g}".replace(",", " ") for row in points], points, names)


def _titled(row):
    return f"{row['title']}, {row['unit']}".rstrip(", ")


def in_order(names):
    """As in the table of peers; others, of another version of it, at the end."""
    order = list(PEERS_BY_NAME)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _table(corner, heads, rows, names):
    lines = [f"| {corner}{' ' * bool(corner)}| " + " | ".join(heads) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in names:
        lines.append(f"| {plots.title_of(name)} | " + " | ".join(_cell(row, name) for row in rows) + " |")
    return "\n".join(lines) + "\n"


def _call_tables(suite, samples):
    lines = []
    for sample in samples:
        for end in ("server", "client"):
            calls = (
                sample.get("figures", {}).get(f"calls_by_name_{end}")
                if sample["suite"] == suite
                else None
            )
            if calls:
                top = sorted(calls.items(), key=lambda item: -item[1])[:6]
                lines.append(
                    f"- {sample['peer']}, {end}: "
                    + ", ".join(f"{name} {count:.3g}" for name, count in top)
                )
    return "\n".join(lines) + "\n" if lines else ""


def _targets(rows):
    lines = []
    for row in rows:
        for target in row["targets"]:
            value = "not measured" if target["value"] is None else _value(target["value"])
            rounds = target["by_round"]
            spread = f"{_value(min(rounds))} to {_value(max(rounds))}" if len(rounds) > 1 else ""
            mark = {True: "yes", False: "**no**", None: ""}[target["reached"]]
            lines.append(
                f"| {row['suite']}: {row['title']} | {target['target']} "
                f"| {value} | {spread} | {mark} |"
            )
    if not lines:
        return ""
    return (
        "\n".join(
            [
                "## Targets\n",
                "| row | target | measured | in single rounds | reached |",
                "|---|---|---|---|---|",
                *lines,
            ]
        )
        + "\n"
    )


def _problems(samples):
    lines = []
    for sample in samples:
        where = f"{sample['suite']} {sample['load']}, {sample['peer']}, round {sample['round']}"
        if "error" in sample:
            lines.append(f"- {where}: {sample['error']}")
        lines += [f"- {where}: {note}" for note in sample.get("notes", [])]
    return "\n".join(["## Notes\n", *lines]) + "\n" if lines else ""
