"""What the soak keeps: lines of JSON on disk, and the series that it judges.

soak.jsonl has one object a line: "type" is sample (one process), traffic (one group, every 5 s), event,
error or complaint, "at" are seconds since the start.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import threading
import time

SAMPLE_S = 5
COUNTERS = ("out_of_memory", "cq_overflows", "mailbox_full", "submit_retries", "absences",
"visitors_timed_out",
            "pipes_exhausted", "buffers_exhausted", "accept_paused", "late_completions", "relays_aborted",
            "strangers_accepted", "reloads_applied", "logins")
GAUGES = ("pool_channels", "visitor_connections_open", "visitors_waiting", "bulk_flows")
KINDS_OF_FD = (("socket:", "socket"), ("pipe:", "pipe"), ("anon_inode:[io_uring]", "ring"),
               ("anon_inode:", "anon"))


class Record:
    def __init__(self, path):
        self.begun = time.monotonic()
        self.file = open(path, "w")
        self.lock = threading.Lock()
        self.stalled = lambda group, begin, end: None
        self.events, self.errors = [], []
        self.counts, self.bytes = {}, {}  # by group: the last report's
        # (pair, role): {pid: [sample]}; samples are flat dicts
        self.lives = collections.defaultdict(dict)
        self.latencies = collections.defaultdict(list)  # pair: [(at, p50, p99)], without the reference's p50
        self.answers = collections.defaultdict(list)    # pair: [us]; kept by reservoir
        self.cpu = collections.defaultdict(float)

    def write(self, line_type, **what):
        line = {"type": line_type, "at": round(time.monotonic() - self.begun, 2), **what}
        with self.lock:
            self.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return line

    def note(self, line_type, **what):
        line = self.write(line_type, **what)
        if line_type == "event":
            self.events.append(line)
        return line

    def hear(self, group, line):
        """From the traffic of a group."""
        if "error" in line:
            error = line["error"]
            self.errors.append(error)
            self.write("error", **{**error, "t0": round(error["t0"] - self.begun, 2),
                                   "t1": round(error["t1"] - self.begun, 2)})
        elif "report" in line:
            self._report(group, line["report"])
        elif "stall" in line:
            begun, ended = line["stall"]
            self.stalled(group, begun, ended)
            self.write("stall", group=group.name, seconds=round(ended - begun, 2))
        elif "strangers" in line:
            self.write("strangers", group=group.name, **line["strangers"])

    def _report(self, group, report):
        self.counts[group.name], self.bytes[group.name] = report["counts"], report["bytes"]
        times = {name: sorted(values) for name, values in report["times_us"].items()}
        at = report["at"] - self.begun
        reference = times.pop("reference", None)
        quantiles = {name: (quantile(values, 0.5), quantile(values, 0.99)) for name, values in times.items()}
        below = quantile(reference, 0.5) if reference else None
        for name, (p50, p99) in quantiles.items():
            if below is not None and " " not in name:
                self.latencies[name].append((at, p50 - below, p99))
                self.answers[name] += times[name]
        self.answers[f"{group.name} reference"] += reference or []
        self.write("traffic", group=group.name, running=report["running"], counts=report["counts"],
                   bytes=report["bytes"], reference_us=below,
                   us={name: list(values) for name, values in quantiles.items()})

    def close(self):
        with self.lock:
            self.file.close()


def quantile(values, part):
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * part))]


# --- one process --------------------------------------------------------------------------------


def descriptors(pid):
    """{kind: count}"""
    found = collections.Counter()
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{directory}/{name}")
            found[next((kind for start, kind in KINDS_OF_FD if target.startswith(start)), "file")] += 1
    return found


def look(pair, role):
    """A sample of one process; raises OSError if it has just ended."""
    process = getattr(pair, role)
    pid = process.pid
    fds = descriptors(pid)
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(),
    re.M))
    sample = {"pid": pid, "age_s": round(time.monotonic() - pair.begun[role], 1),
              "rss_kib": int(rows["Rss"]), "pss_kib": int(rows["Pss"]),
              "anon_kib": int(rows["Anonymous"]) + int(rows["Swap"]),
              "fds": sum(fds.values()), "fds_by_kind": dict(fds), "pipes": fds["pipe"],
              "fds_other": sum(fds.values()) - fds["socket"] - fds["pipe"],
              "threads": len(os.listdir(f"/proc/{pid}/task")), "cpu_s": process.cpu_seconds()}
    if role not in pair.stopped:
        with contextlib.suppress(OSError):  # stopped, or its successor is about to answer
            metrics = pair.metrics(role)
            is_open = metrics.get("visitor_connections_open", [])
            tcp, udp = (sum(value for labels, value in is_open if ('"udp"' in labels) == is_udp)
                        for is_udp in (False, True))
            # A visitor over TCP has two sockets at either end, one over UDP has one at the client.
            sample["sockets_own"] = int(fds["socket"] - 2 * tcp - (udp if role == "client" else 0))
            for name in GAUGES:
                sample[name] = int(sum(value for _, value in metrics.get(name, [])))
            for name in COUNTERS:
                sample[name] = int(sum(value for _, value in metrics.get(f"{name}_total", [])))
    return sample


def is_out_of_tcp_memory():
    """Sockets have over nine tenths of what the kernel presses for: net.ipv4.tcp_mem, of all namespaces."""
    pressure = int(pathlib.Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[1])
    used = re.search(r"^TCP: .* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(), re.M)
    return int(used[1]) > 0.9 * pressure


def count_dropped_packets(text):
    """/proc/net/softnet_stat: what did not fit into the queues of packets that wait for a core
    (net.core.netdev_max_backlog). All namespaces and programs share these. TCP sends such a packet again, of
    UDP it is lost."""
    return sum(int(line.split()[1], 16) for line in text.splitlines())


def dropped_packets():
    return count_dropped_packets(pathlib.Path("/proc/net/softnet_stat").read_text())


class Sampler:
    """Looks at each process every few seconds, and at the machine every second, from a thread."""

    def __init__(self, record, groups, stage):
        self.record, self.groups, self.complain, self.stage = record, groups, stage.complain, stage
        self.ending = threading.Event()
        self.last = {}  # (pair, role): the last sample
        self.dropped, self.dropped_at = dropped_packets(), time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        due = time.monotonic()
        while not self.ending.is_set():
            self.look()
            due = max(due + SAMPLE_S, time.monotonic() + 0.5)
            while not self.ending.wait(max(0, min(1, due - time.monotonic()))) and time.monotonic() < due:
                pairs = [pair for group in self.groups for pair in group.pairs]
                if is_out_of_tcp_memory():
                    self.record.write("out of tcp memory")
                    self.stage.machine_is_out(pairs)
                self._look_at_packets(pairs)

    def _look_at_packets(self, pairs):
        dropped, now = dropped_packets(), time.monotonic()
        if dropped != self.dropped:
            self.record.write("dropped packets", count=dropped - self.dropped)
            self.stage.machine_dropped_packets(pairs, self.dropped_at, now)
        self.dropped, self.dropped_at = dropped, now

    def look(self):
        for group in self.groups:
            for pair in group.pairs:
                for complaint in pair.look():
                    self.complain(pair, complaint)
                for role in ("server", "client"):
                    with contextlib.suppress(OSError, AttributeError, KeyError):
                        self._sample(pair, role)

    def _sample(self, pair, role):
        sample = look(pair, role)
        line = self.record.write("sample", pair=pair.name, role=role, **sample)
        before = self.last.get((pair.name, role))
        spent = sample["cpu_s"] - (before["cpu_s"] if before and before["pid"] == sample["pid"] else 0)
        self.record.cpu[pair.group.name] += spent
        self.last[pair.name, role] = sample
        self.record.lives[pair.name, role].setdefault(sample["pid"], []).append(
            (line["at"], sample["age_s"], {key: value for key, value in sample.items()
                                           if isinstance(value, (int, float))}))

    def stop(self):
        self.ending.set()
        self.thread.join(30)
