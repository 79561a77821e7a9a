"""The dashboard and the alert rules in dist/: each metric, label and value that they name is one that a real
process exports, and each alert is explained in docs/status.md."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from datagrams import UdpEcho, knock
from harness import free_port, wait_until, within
from services import Echo, ping

pytestmark = pytest.mark.ours

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "dist" / "grafana" / "rathole-uring.json"
RULES = ROOT / "dist" / "prometheus" / "rathole-uring.rules.yml"
PAGE = ROOT / "docs" / "status.md"
PROMETHEUS_OWN = {"up": {"job", "instance"}}
TARGET = {"instance", "job"}  # labels that Prometheus adds


def dashboard():
    return json.loads(DASHBOARD.read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules():
    yaml = pytest.importorskip("yaml", reason="no python3-yaml here: the alert rules are not checked")
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions():
    """[(where, PromQL)], with the dashboard's variables as Prometheus would see them."""
    board = dashboard()
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(note["name"], note["expr"]) for note in board["annotations"]["list"]]
    variables = [each for each in board["templating"]["list"] if each["type"] == "query"]
    found += [(each["name"], re.fullmatch(r"label_values\((.*), \w+\)", each["definition"]).group(1))
              for each in variables]
    for old, new in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$service", ".*")):
        found = [(where, expression.replace(old, new)) for where, expression in found]
    assert not any("$" in expression for _, expression in found)
    return found + [(rule["alert"], rule["expr"]) for rule in rules()]


def scrape(port):
    """{family as PromQL names it: {label: its values}}"""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? \S+$", text, re.M):
        family = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            family.setdefault(label, set()).add(value)
    return text, found


@pytest.fixture
def metrics(tunnel, service):
    """What a server and a client export after a visitor of each kind: [(text, {family: labels})]"""
    tcp, udp = service(Echo), service(UdpEcho)
    ports = [free_port(), free_port()]
    t = tunnel({"echo": tcp.port, "dns": udp.port}, udp={"dns"}, start=False)

    def text(role, port):
        return t.config(role) + f"\n[status]\nbind_addr = 127.0.0.1:{port}\n"

    t.start_server(text=text("server", ports[0]))
    t.start_client(text=text("client", ports[1]))
    t.wait_ready()
    ping(t.port("echo"))
    knock(t.port("dns"), visitors=1)
    for port in ports:
        wait_until(lambda: "first_byte_seconds_bucket" in scrape(port)[0], within(5), "a first byte")
    return [scrape(port) for port in ports]


def test_each_name_is_exported(metrics):
    exported = {}
    for _, families in metrics:
        for name, labels in families.items():
            for label, values in labels.items():
                exported.setdefault(name, {}).setdefault(label, set()).update(values)
            exported.setdefault(name, {})
    used, by = set(), re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
    for where, expression in expressions():
        names = re.findall(r"\b(rathole_uring_\w+|process_\w+|up)\b(?:\{([^}]*)\})?",
                           by.sub("", expression))
        assert names, (where, expression)
        for name, matchers in names:
            used.add(name)
            labels = exported.get(name, {})
            assert name in exported or name in PROMETHEUS_OWN, f"{where}: nobody exports {name}"
            for label, how, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
                if label in TARGET or value == ".*":
                    continue
                assert label in labels, f"{where}: {name} has no label {label}"
                # What is left out may come with another option; what is looked for is there.
                assert how.startswith("!") or value in labels[label], f"{where}: no {label}={value} in {name}"
        known = TARGET | {"le"}.union(*(exported.get(name, {}) for name, _ in names))
        for group in by.findall(expression):
            labels = {label.strip() for label in group.split(",")}
            assert labels <= known, f"{where}: {labels - known}"
    assert len(used) > 40


def test_legends_name_labels_that_are_there():
    for panel in panels():
        for target in panel["targets"]:
            group = re.search(r"by \(([^)]*)\)", target["expr"])
            names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            labels = {label.strip() for label in group.group(1).split(",")} if group else names
            assert names <= labels, panel["title"]


def test_the_dashboard_is_whole():
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] == "rathole-uring"
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}" and panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


def test_each_alert_is_explained():
    anchors = {line[4:].strip().lower() for line in PAGE.read_text().splitlines() if line.startswith("### ")}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        assert notes["summary"] and notes["description"] and "instance" in notes["summary"]
        assert notes["runbook"] == f"docs/status.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in anchors, rule["alert"]
    assert {name.lower() for name in names} == {name for name in anchors if name.startswith("ratholeuring")}


def test_each_metric_of_the_page_is_exported(metrics):
    exported = set().union(*(families for _, families in metrics))
    tables = PAGE.read_text().split("## Metrics")[1].split("### Reasons")[0]
    rows = re.findall(r"^\| (`[^|]*) \| (gauge|counter|histogram) \|", tables, re.M)
    assert len(rows) > 18
    for cell, kind in rows:
        for name in re.findall(r"`(\w+)(?:\{[\w,]*\})?`", cell):
            assert f"rathole_uring_{name}" + ("_bucket" if kind == "histogram" else "") in exported, name
    # And each family of a service is in the page.
    for name, labels in metrics[0][1].items():
        short = re.sub(r"_(bucket|count|sum)$", "", name.removeprefix("rathole_uring_"))
        assert not labels or f"`{short}" in tables, f"{name} is not in docs/status.md"


def test_each_reason_is_explained(metrics):
    text = PAGE.read_text().split("### Reasons")[1].split("## JSON")[0]
    reasons = [reason for _, families in metrics
               for name in ("visitor_rejections_total", "visitor_datagram_drops_total")
               for reason in families[f"rathole_uring_{name}"]["reason"]]
    assert len(reasons) > 10
    for reason in reasons:
        assert f"`{reason}`" in text, reason


def test_promtool_takes_them(metrics, tmp_path):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool here (Debian has it in its package prometheus)")

    def check(*argv):
        done = subprocess.run([promtool, *map(str, argv)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    check("check", "rules", RULES)
    board = tmp_path / "dashboard.yml"
    board.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel:{number}", "expr": expression}
        for number, (_, expression) in enumerate(expressions())]}]}))
    check("check", "rules", board)
    # Not `check metrics`: beside the syntax it judges names by the customs of Prometheus's own libraries.
