"""What bench/ makes of its samples: medians, ratios within rounds, targets."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import merge
import plots
import procs
import pytest
import report
import stats
import suites
from peers import PEERS_BY_NAME


def sample(peer, number, suite="tcp-fixed", load="8", **figures):
    return {"suite": suite, "load": load, "peer": peer, "round": number, "figures": figures, "notes": []}


def rows_of(samples):
    return {(row["suite"], row["load"], row["metric"]): row for row in report.summarise(samples)}


def cpu(peer, *values):
    return [sample(peer, number, cpu_s_per_gb=value) for number, value in enumerate(values, 1)]


def row_of(samples):
    return rows_of(samples)["tcp-fixed", "8", "cpu_s_per_gb"]


def test_a_cell_is_the_median_not_the_best():
    row = row_of(cpu("ours", 0.4, 0.2, 0.3))
    assert (row["median"], row["lowest"], row["highest"]) == ({"ours": 0.3}, {"ours": 0.2}, {"ours": 0.4})
    assert row["rounds"] == {"ours": 3}


def test_a_ratio_is_the_median_of_those_within_rounds():
    # In the second round the machine was slow for both; the medians alone would say 0.75.
    row = row_of(cpu("ours", 0.2, 0.6, 0.3) + cpu("rathole", 0.4, 1.2, 0.4))
    assert row["ratios_by_round"]["rathole"] == pytest.approx([0.5, 0.5, 0.75])
    assert row["ratios"] == {"rathole": pytest.approx(0.5)}


def test_a_round_that_one_peer_lacks_has_no_ratio():
    samples = cpu("ours", 0.2, 0.3, 0.4) + cpu("rathole", 0.4, 0.5, 1.0)
    failed = {key: value for key, value in samples[4].items() if key != "figures"} | {"error": "broke"}
    samples[4] = failed
    assert row_of(samples)["ratios_by_round"]["rathole"] == pytest.approx([0.5, 0.4])
    assert stats.ratios({1: 2.0, 2: 3.0}, {1: 0.0, 3: 1.0}) == []


def target_of(row, peer):
    return next(target for target in row["targets"] if target["peer"] == peer)


@pytest.mark.parametrize("ours, reached", [((0.30, 0.33, 0.50), True), ((0.30, 0.34, 0.39), False)])
def test_a_target_is_met_by_the_median(ours, reached):
    target = target_of(row_of(cpu("ours", *ours) + cpu("rathole", 1.0, 1.0, 1.0)), "rathole")
    assert target["value"] == pytest.approx(ours[1])
    assert target["reached"] is reached


def test_without_the_other_peer_a_target_is_open():
    target = target_of(row_of(cpu("ours", 0.3)), "rathole")
    assert (target["value"], target["reached"]) == (None, None)


def noise(peer, *values):
    return [{**each, "suite": "noise-fixed"} for each in cpu(peer, *values)]


def test_a_figure_beside_is_taken_off_first_in_its_round():
    # In the second round the machine was slow for all; in the third the cipher was not measured.
    samples = noise("ours", 2.0, 4.2, 9.0) + noise("bare-copy", 1.0, 2.0, 1.0) + noise("aead", 0.9, 1.8)
    row = rows_of(samples)["noise-fixed", "8", "cpu_s_per_gb"]
    target = target_of(row, "bare-copy")
    assert target["target"] == "<= aead + 1.2 x bare-copy"
    assert target["by_round"] == pytest.approx([1.1, 1.2])
    assert (target["value"], target["reached"]) == (pytest.approx(1.15), True)
    assert row["ratios_by_round"]["bare-copy"] == pytest.approx([2.0, 2.1, 9.0])


def test_without_the_figure_beside_a_target_is_open():
    samples = noise("ours", 2.0) + noise("bare-copy", 4.0)
    target = target_of(rows_of(samples)["noise-fixed", "8", "cpu_s_per_gb"], "bare-copy")
    assert (target["value"], target["by_round"], target["reached"]) == (None, [], None)


def test_bounds_are_in_the_suites_that_name_them_alone():
    bounds = [peer.name for peer in PEERS_BY_NAME.values() if peer.bound]
    assert suites.peers_for(suites.SUITES_BY_NAME["tcp-bulk"], bounds) == ["bare-splice"]
    assert suites.peers_for(suites.SUITES_BY_NAME["noise-fixed"], bounds) == ["bare-copy", "aead"]
    assert suites.peers_for(suites.SUITES_BY_NAME["idle"], bounds) == []
    named = {name for suite in suites.SUITES for name in suite.bounds}
    assert named == set(bounds)


def test_variants_are_in_the_suites_that_name_them_alone():
    variants = [peer.name for peer in PEERS_BY_NAME.values() if peer.variant]
    for suite in suites.SUITES:  # which have the transport, and UDP
        assert suites.peers_for(suite, variants) == [name for name in variants if name in suite.variants]
    assert {name for suite in suites.SUITES for name in suite.variants} == set(variants)


def test_a_variant_has_a_ratio():
    row = row_of(cpu("ours", 0.2) + cpu("ours-1", 0.4))
    assert row["ratios"] == {"ours-1": pytest.approx(0.5)}
    assert "| rathole-uring, 1 thread | 0.400 [0.50] |" in report._table("", ["CPU"], [row], ["ours-1"])


def test_a_target_of_its_own_has_the_rounds_too():
    samples = [sample("ours", number, "idle", "idle", kb_per_connection=value)
               for number, value in enumerate((0.6, 1.2, 0.7), 1)]
    target = target_of(rows_of(samples)["idle", "idle", "kb_per_connection"], None)
    assert (target["value"], target["by_round"], target["reached"]) == (0.7, [0.6, 1.2, 0.7], True)


def test_the_reference_before_the_first_round_is_in_no_row():
    samples = [sample("rathole", 0, "udp-oneway-1200", "reference", rate=1.0)]
    assert not report.summarise(samples)


def test_both_ends_have_medians():
    samples = [sample("ours", number, cpu_s_per_gb=a + b, cpu_s_per_gb_server=a, cpu_s_per_gb_client=b)
               for number, (a, b) in enumerate(((1.0, 5.0), (2.0, 4.0), (9.0, 1.0)), 1)]
    assert row_of(samples)["ends"] == {"ours": [2.0, 4.0]}


def test_no_two_rows_are_of_the_same_figure():
    keys = [(row.suite, row.load, row.metric) for row in suites.ROWS]
    assert len(keys) == len(set(keys))


def test_each_row_is_of_a_suite_and_a_load():
    loads = {(suite.name, load) for suite in suites.SUITES for load, _ in suite.loads}
    assert {(row.suite, row.load) for row in suites.ROWS} - loads == set()


def test_a_curve_has_all_its_points():
    for suite in suites.SUITES:
        wanted = {int(load): load for load, _ in suite.loads} if suite.axis else {}
        rows = [row for row in suites.ROWS if row.suite == suite.name]
        assert all((row.x is not None) == bool(suite.axis) for row in rows), suite.name
        for metric in {row.metric for row in rows if row.x is not None}:
            assert {row.x: row.load for row in rows if row.metric == metric} == wanted, (suite.name, metric)
        assert bool(suite.varies) <= bool(suite.axis), suite.name


def test_curves_are_measured_only_when_named():
    curves = {suite.name for suite in suites.SUITES if suite.axis}
    assert curves == {"scale-connections", "scale-services", "scale-workers", "scale-workers-http",
                      "scale-nodes"}
    assert not any(suites.SUITES_BY_NAME[name].default for name in curves)


WITHOUT_COST = {"idle", "noise-idle", "tls-idle", "websocket-idle",  # memory
                "syscalls", "syscalls-http"}  # strace takes more than the work


def test_each_load_has_its_cost():
    loads = {(suite.name, load) for suite in suites.SUITES for load, _ in suite.loads
             if suite.name not in WITHOUT_COST}
    assert loads - {(row.suite, row.load) for row in suites.ROWS if row.is_cost} == set()


def stat_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_processor_time_is_that_of_the_process():
    spin = subprocess.Popen([sys.executable, "-c", "while sum(range(100000)): print(flush=True)"],
                            stdout=subprocess.PIPE)
    try:
        while stat_seconds(spin.pid) < 0.1:
            spin.stdout.readline()
        spin.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, spin.pid, os.WSTOPPED)
        # Both of its parts are rounded down to 10 ms there.
        assert 0 <= procs.cpu_seconds(spin) - stat_seconds(spin.pid) < 0.03
    finally:
        spin.kill()
        spin.wait()
        spin.stdout.close()


def document(samples, **changes):
    settings = {"rounds": 2, "seconds": 4, "rtt": 50.0, "started": changes.pop("started", "monday"),
                "suites": merge.suites_of(samples)}
    return {"machine": {"cpu": "abacus", "tools": {"wrk": "4"}, "load_average": "0.1"},
            "versions": {"ours": "0.2.0", "rathole": "0.5.0"}, "digests": {"ours": "aa"},
            "settings": [settings | {key: changes.pop(key) for key in ("seconds",) if key in changes}],
            "samples": samples, **changes}


MACHINE = {"cores_usable": 2, "memory_gib": 1, "kernel": "6", "congestion_control": "bbr", "user": "root"}


def whole_document(samples):
    made = document(samples)
    made["machine"] |= MACHINE
    return made


def test_merged_files_have_the_suites_of_each():
    idle = [sample("ours", 1, "idle", "idle", kb_per_connection=0.6)]
    both = merge.merged([document(cpu("ours", 0.2)),
                         document(idle, started="tuesday", seconds=9, versions={"frp": "0.70"})])
    assert rows_of(both["samples"]).keys() == {("tcp-fixed", "8", "cpu_s_per_gb"),
                                               ("idle", "idle", "kb_per_connection")}
    assert both["versions"] == {"ours": "0.2.0", "rathole": "0.5.0", "frp": "0.70"}
    assert [run["started"] for run in both["settings"]] == ["monday", "tuesday"]
    assert not both["forced"]


def test_rounds_of_a_suite_in_both_files_are_numbered_on():
    first = cpu("ours", 0.2, 0.4) + cpu("rathole", 0.4, 0.4)
    later = cpu("ours", 0.8) + cpu("rathole", 0.8) + [sample("rathole", 0, load="reference", rate=1)]
    samples = merge.merged([document(first), document(later, started="tuesday")])["samples"]
    row = row_of(samples)
    assert row["rounds"] == {"ours": 3, "rathole": 3}
    assert row["ratios_by_round"]["rathole"] == pytest.approx([0.5, 1.0, 1.0])
    assert [each["round"] for each in samples if each["load"] == "reference"] == [0]


OTHERS = {
    "machine": {"machine": {"cpu": "loom", "tools": {}}},
    "version": {"versions": {"rathole": "0.5.1"}},
    "tool": {"machine": {"cpu": "abacus", "tools": {"wrk": "5"}}},
    "build": {"digests": {"ours": "bb"}},
    "load": {"seconds": 1},
    "same run": {"started": "monday"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_not_merged_unless_forced(what):
    pair = [document(cpu("ours", 0.2)),
            document(cpu("ours", 0.4), **{"started": "tuesday", **OTHERS[what]})]
    with pytest.raises(merge.Mismatch):
        merge.merged(pair)
    both = merge.merged(pair, force=True)
    assert row_of(both["samples"])["median"] == {"ours": pytest.approx(0.3)}
    assert len(both["forced"]) == 1
    both["machine"] |= MACHINE
    assert both["forced"][0] in report.markdown(both, report.summarise(both["samples"]))


def test_a_load_average_is_no_difference():
    others = document(cpu("ours", 0.4), started="tuesday")
    others["machine"]["load_average"] = "9.0"
    assert not merge.differences(document(cpu("ours", 0.2)), others)


def test_a_file_of_before_is_read(tmp_path):
    old = document(cpu("ours", 0.2))
    old["settings"] = {"rounds": 2, "seconds": 4}
    del old["digests"]
    (tmp_path / "bench.json").write_text(json.dumps(old))
    read = merge.read(tmp_path / "bench.json")
    assert (read["settings"][0]["suites"], read["digests"]) == (["tcp-fixed"], {})
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(merge.Mismatch):
        merge.read(tmp_path / "bench.json")


def test_points_of_a_curve_have_a_table_of_their_own(monkeypatch):
    points = suites.curve("tcp-fixed", (1000, 10), "cpu_us_per_visitor", "CPU", "us/visitor", "less")
    suite = dataclasses.replace(suites.SUITES_BY_NAME["tcp-fixed"], axis="connections")
    monkeypatch.setattr(report, "ROWS", suites.ROWS + points)
    samples = cpu("ours", 0.2) + [sample("ours", 1, load=load, cpu_us_per_visitor=value)
                                  for load, value in (("10", 5.0), ("1000", 7.0))]
    rows = report.summarise(samples)
    assert [[row["x"] for row in points] for points in plots.curves_of(rows)] == [[10, 1000]]
    text = "\n".join(report._tables(suite, rows, samples))
    assert "| connections | 10 | 1 000 |\n|---|---|---|\n| rathole-uring | 5.00 | 7.00 |" in text


def everything():
    """Two rounds of three peers in each row; this program is the best of them."""
    samples = []
    for suite in suites.SUITES:
        for load in {row.load: None for row in suites.ROWS if row.suite == suite.name}:
            for number, (peer, value) in enumerate((("ours", 1.0), ("rathole", 2.0), ("none", 3.0))):
                figures = {row.metric: value for row in suites.ROWS
                           if (row.suite, row.load) == (suite.name, load)}
                figures |= {"p50_ms": 1.0, "p90_ms": 2.0} if load == "64" else {}
                figures |= {"connections": 100, "base_kb": 1024} if load == "idle" else {}
                samples += [sample(peer, number % 2 + 1, suite.name, load, **figures)]
    return samples


def test_a_plot_has_the_rows_that_it_says():
    rows = report.summarise(everything())
    found = {(entry["suite"], entry["load"]) for entry in plots.throughput(rows, False, ("gbps",))}
    assert {("tcp-bulk", "1"), ("tcp-bulk", "8"), ("noise-bulk", "8")} <= found
    assert not any(suite.endswith("fixed") or "udp" in suite for suite, _ in found)
    assert {entry["suite"] for entry in plots.costs(rows, "us/login")} == {
        "logins", "noise-logins", "tls-logins"}
    names = [name for name, _, _ in plots.plan(rows, everything())]
    assert names == ["throughput", "requests", "datagrams", "cpu-per-gb", "cpu-per-request",
                     "cpu-per-datagram", "cpu-per-login", "latency", "memory", "by-scale-connections",
                     "by-scale-services", "by-scale-workers", "by-scale-workers-http",
                     "by-scale-nodes"]


def test_every_cost_is_in_a_plot():
    rows = report.summarise(everything())
    wanted = {row.unit for row in suites.ROWS if row.is_cost}
    assert wanted == {"s/GB", "us/request", "us/visitor", "us/datagram", "us/round trip", "us/login"}
    assert all(plots.costs(rows, unit) for unit in wanted)


def test_one_peer_alone_is_not_compared():
    samples = [each for each in everything() if each["peer"] == "ours"]
    rows = [row for row in report.summarise(samples) if row["x"] is None]  # a curve compares its points
    assert plots.plan(rows, samples) == []
    text = report.markdown(whole_document(samples), report.summarise(samples), *plots.draw("nowhere", [], []))
    assert "None: nothing to compare." in text


def test_percentiles_are_medians_of_the_rounds():
    samples = [sample("ours", n, "http-close", "64", p50_ms=a, p99_ms=b) for n, (a, b) in
               enumerate(((1, 10), (2, 30), (3, 20)), 1)] + [
        sample("rathole", 1, "http-close", "64", p50_ms=4, p99_ms=5)]
    assert plots.latencies(samples) == [("http-close", "64", "ms", {
        "ours": {"p50": 2, "p99": 20}, "rathole": {"p50": 4, "p99": 5}})]


def test_percentiles_of_a_curve_are_rows_and_no_panels():
    samples = [sample(peer, 1, "scale-connections", "10", p50_ms=1, p99_ms=2) for peer in ("ours", "rathole")]
    assert plots.latencies(samples) == []
    assert ("scale-connections", "10", "p99_ms") in rows_of(samples)


def test_memory_grows_from_the_process_to_all_connections():
    samples = [sample(peer, 1, "idle", "idle", connections=100, base_kb=1000, kb_per_connection=each)
               for peer, each in (("ours", 0.5), ("rathole", 10))]
    (_, _, lines), = plots.memories(report.summarise(samples), samples)
    assert lines == {"ours": ((0, 1000), (100, 1050)), "rathole": ((0, 1000), (100, 2000))}


def test_peers_have_colours_of_their_own():
    names = [name for name in PEERS_BY_NAME if not name.startswith("bare")]
    assert len({plots.colour_of(name) for name in names}) == len(names)
    assert plots.colour_of("something new") == plots.colour_of("something new")


def test_without_matplotlib_the_report_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.write(tmp_path, whole_document(everything()))
    text = (tmp_path / "bench.md").read_text()
    assert "None: matplotlib is not installed" in text
    assert not (tmp_path / "plots").exists()


def test_plots_are_drawn_and_linked(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    points = suites.curve("tcp-fixed", (10, 1000), "cpu_us_per_visitor", "CPU", "us/visitor", "less")
    monkeypatch.setattr(report, "ROWS", suites.ROWS + points)
    samples = [each for each in everything() if each["suite"] in ("http-close", "idle")] + [
        sample("ours", 1, load=str(row.x), cpu_us_per_visitor=2.0) for row in points]
    report.write(tmp_path, whole_document(samples))
    text = (tmp_path / "bench.md").read_text()
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["by-tcp-fixed.png", "cpu-per-request.png", "latency.png", "memory.png", "requests.png"]
    assert all(f"(plots/{name})" in text for name in drawn)
    assert all((tmp_path / "plots" / name).stat().st_size > 5000 for name in drawn)
