"""Several bench.json made one, if they are of the same machine and the same programs."""

import json
import os

# What ratios and figures depend on. The load average does not belong here: each sample has its own.
MACHINE = ("cpu", "cores_usable", "memory_gib", "kernel", "architecture", "congestion_control",
           "default_qdisc", "pipe_user_pages_soft", "user")
LOAD = ("seconds", "connections", "visitors", "rtt", "burst_gap")


class Mismatch(Exception):
    """The files are not of one kind; the text says why."""


def read(path):
    """A document, of an older format too: that had one table of settings, and no digests."""
    with open(path) as text:
        document = json.load(text)
    if "samples" not in document:
        raise Mismatch(f"{path}: no samples: not written by bench/run")
    settings = document["settings"]
    if isinstance(settings, dict):
        document["settings"] = [settings | {"suites": suites_of(document["samples"])}]
    document.setdefault("digests", {})
    document["name"] = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return document


def suites_of(samples):
    return list(dict.fromkeys(sample["suite"] for sample in samples))


def differences(one, other):
    """Why the two are not of the same machine and programs, in words."""
    found = [f"{key} is {one['machine'].get(key)} and {other['machine'].get(key)}"
             for key in MACHINE if one["machine"].get(key) != other["machine"].get(key)]
    for what, those, these in (("version", one["versions"], other["versions"]),
                               ("version", one["machine"]["tools"], other["machine"]["tools"]),
                               ("file", one["digests"], other["digests"])):
        found += [f"{what} of {name} is {those[name]} and {these[name]}"
                  for name in those if name in these and those[name] != these[name]]
    for mine in one["settings"]:
        for theirs in other["settings"]:
            shared = [suite for suite in mine["suites"] if suite in theirs["suites"]]
            if shared and mine == theirs:
                found.append(f"the run of {mine.get('started')} is in both")
            found += [f"{key} of {', '.join(shared)} is {mine.get(key)} and {theirs.get(key)}"
                      for key in LOAD if shared and mine.get(key) != theirs.get(key)]
    return found


def merged(documents, force=False):
    """The rounds of a suite that is in several files are numbered on, so that a ratio stays within its
    round. Round 0 is no round: the reference of a suite, measured before the first."""
    first, *others = documents
    result = {"machine": dict(first["machine"], tools=dict(first["machine"]["tools"])),
              "versions": dict(first["versions"]), "digests": dict(first["digests"]),
              "settings": list(first["settings"]), "samples": list(first["samples"]),
              "forced": list(first.get("forced", []))}
    for document in others:
        found = differences(result, document)
        if found and not force:
            raise Mismatch(f"{document.get('name', 'a file')} differs: " + "; ".join(found))
        result["forced"] += found + document.get("forced", [])
        for key in ("versions", "digests"):
            result[key] = {**document[key], **result[key]}
        result["machine"]["tools"] = {**document["machine"]["tools"], **result["machine"]["tools"]}
        result["settings"] += document["settings"]
        last = {}
        for sample in result["samples"]:
            last[sample["suite"]] = max(last.get(sample["suite"], 0), sample["round"])
        result["samples"] += [
            sample | {"round": sample["round"] + last.get(sample["suite"], 0)} if sample["round"] else sample
            for sample in document["samples"]
        ]
    return result
