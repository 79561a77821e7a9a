"""From raw samples to rows, ratios, targets, JSON and Markdown."""

import json
import os

from peers import PEERS_BY_NAME
from suites import ROWS, SUITES

NOISY_SHARE = 0.15


def summarise(samples):
    """One entry per row that has figures: each peer's best sample, our ratios, the targets."""
    return [entry for row in ROWS if (entry := _summarise_row(row, samples))]


def _summarise_row(row, samples):
    mine = [
        s for s in samples if s["suite"] == row.suite and s["load"] == row.load and "figures" in s
    ]
    best = {}
    for name in dict.fromkeys(s["peer"] for s in mine):
        sample = row.best([s for s in mine if s["peer"] == name])
        if sample:
            best[name] = sample["figures"]
    if not best:
        return None
    values = {name: figures[row.metric] for name, figures in best.items()}
    entry = {
        "suite": row.suite,
        "load": row.load,
        "metric": row.metric,
        "title": row.title,
        "unit": row.unit,
        "better": row.better,
        "best": values,
        "ratios": {},
        "ratios_by_round": {},
        "targets": [],
    }
    if row.ends:
        entry["ends"] = {
            name: [figures[f"{row.metric}_{end}"] for end in ("server", "client")]
            for name, figures in best.items()
            if f"{row.metric}_server" in figures
        }
    if row.subject in values:
        for name in values:
            if name != row.subject and values[name]:
                entry["ratios"][name] = values[row.subject] / values[name]
                entry["ratios_by_round"][name] = _by_round(row, mine, row.subject, name)
    entry["targets"] = [_target(row, target, values, mine) for target in row.targets]
    return entry


def _target(row, target, values, samples):
    subject = target.subject or row.subject
    value, rounds = values.get(subject), []
    if target.peer is not None:
        other = values.get(target.peer)
        value = value / other if value is not None and other else None
        rounds = _by_round(row, samples, subject, target.peer)
    return {
        "target": target.text(row.unit),
        "peer": target.peer,
        "subject": subject,
        "value": value,
        "by_round": rounds,
        "reached": None if value is None else target.reached(value),
    }


def _by_round(row, samples, subject, peer):
    rounds = {}
    for sample in samples:
        if sample["peer"] in (subject, peer) and row.metric in sample["figures"]:
            rounds.setdefault(sample["round"], {})[sample["peer"]] = sample["figures"][row.metric]
    return [r[subject] / r[peer] for r in rounds.values() if subject in r and r.get(peer)]


def write(directory, machine, versions, settings, samples):
    rows = summarise(samples)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "bench.json"), "w") as out:
        json.dump(
            {
                "machine": machine,
                "versions": versions,
                "settings": settings,
                "rows": rows,
                "samples": samples,
            },
            out,
            indent=1,
        )
        out.write("\n")
    text = markdown(machine, versions, settings, samples, rows)
    with open(os.path.join(directory, "bench.md"), "w") as out:
        out.write(text)
    return rows, text


def markdown(machine, versions, settings, samples, rows):
    parts = ["# Benchmark\n", _header(machine, versions, settings, samples)]
    parts.append(_targets(rows))
    for suite in SUITES:
        mine = [row for row in rows if row["suite"] == suite.name]
        if mine:
            parts += [
                f"## {suite.title} (`{suite.name}`)\n",
                _table(mine, samples),
                _call_tables(suite.name, samples),
            ]
    parts.append(_problems(samples))
    return "\n".join(part for part in parts if part) + "\n"


def _header(machine, versions, settings, samples):
    tools = ", ".join(f"{k} {v}" for k, v in {**versions, **machine["tools"]}.items() if v)
    busy = max((s.get("busy_before", 0) for s in samples), default=0)
    noisy = sum(s.get("busy_before", 0) > NOISY_SHARE for s in samples)
    return "\n".join(
        [
            f"{machine['cores_usable']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
            f"Linux {machine['kernel']}, {machine['congestion_control']}, {machine['user']}. "
            f"{settings['rounds']} rounds of {settings['seconds']} s, interleaved; "
            "each cell is the best round.\n",
            f"Versions: {tools}.\n",
            f"Other work on the machine just before a measurement: at most {busy:.0%} of all "
            f"cores; {noisy} of {len(samples)} samples above {NOISY_SHARE:.0%}.\n",
        ]
    )


def _number(value, unit_digits):
    return f"{value:,.{unit_digits}f}".replace(",", " ")


def _digits(entry):
    return next(
        r.digits
        for r in ROWS
        if (r.suite, r.load, r.metric) == (entry["suite"], entry["load"], entry["metric"])
    )


def _cell(entry, name):
    if name not in entry["best"]:
        return ""
    digits = _digits(entry)
    cell = _number(entry["best"][name], digits)
    if name in entry.get("ends", {}):
        cell += " (" + " + ".join(_number(v, digits) for v in entry["ends"][name]) + ")"
    if name in entry["ratios"]:
        cell += f" [{entry['ratios'][name]:.2f}]"
    return cell


def _table(rows, samples):
    names = dict.fromkeys(s["peer"] for s in samples if s["suite"] == rows[0]["suite"])
    lines = [
        "Figures; (server + client); [ours / this one].\n",
        "| | " + " | ".join(f"{row['title']}, {row['unit']}".rstrip(", ") for row in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for name in sorted(names, key=list(PEERS_BY_NAME).index):
        lines.append(
            f"| {PEERS_BY_NAME[name].title} | "
            + " | ".join(_cell(row, name) for row in rows)
            + " |"
        )
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
            value = (
                "not measured"
                if target["value"] is None
                else _number(target["value"], 2 if target["value"] >= 0.2 else 3)
            )
            rounds = target["by_round"]
            spread = f"{min(rounds):.2f} to {max(rounds):.2f}" if len(rounds) > 1 else ""
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
