"""README.md does what it says: its two machines are namespaces here, with its files and its commands. The
build is left out: tests/systems/first_byte does all of it from nothing (scripts/test newcomer). And its
figures are those of docs/benchmark.md."""

import os
import pathlib
import re

import pytest

import readme
import spaces
from harness import BINARIES, OURS, wait_until, within

pytestmark = pytest.mark.ours
ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_steps_of_a_page():
    page = ("# x\n## Two machines\n\nBoth:\n\n    make it\n\n**On the VPS** write `server.ini`:\n\n"
            "```ini\n[server]\n\n```\n\n    x/rathole-uring server.ini\n\n**Anywhere**:\n\n    ssh x\n\n"
            "**To keep it running**\n\n    no\n")
    found = readme.steps(page)
    assert found == [("both", None, "make it"), ("vps", "server.ini", "[server]\n\n"),
                     ("vps", None, "x/rathole-uring server.ini"), ("anywhere", None, "ssh x")]
    assert readme.commands(found) == ["make it", "x/rathole-uring server.ini", "ssh x"]


def test_five_commands():
    found = readme.steps()
    assert 3 <= len(readme.commands(found)) <= 5
    assert all("type = noise" in step.text for step in found if step.file)


@pytest.mark.skipif(spaces.why_not() is not None, reason=str(spaces.why_not()))
def test_two_machines(tmp_path):
    """With the program that is there: the first byte comes over Noise, from a third namespace."""
    def build(command):
        for name in re.findall(r"scripts/\S+", command):
            assert os.access(ROOT / name, os.X_OK), name
        for machine in ("vps", "home"):
            (tmp_path / machine / "build").mkdir(parents=True)
            (tmp_path / machine / "build" / "rathole-uring").symlink_to(BINARIES[OURS])

    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{readme.ADDRESSES['vps']} {readme.NAME}\n")

    def place(machine):
        shell = 'mount --bind "$1" /etc/hosts && cd "$2" && exec bash -c "$3"'
        directory = tmp_path / machine
        return directory, ["unshare", "--mount", "bash", "-c", shell, "bash", hosts, directory]

    first = readme.walk(readme.steps(), build, place,
                        lambda ask: wait_until(ask, within(20), "the first byte"))
    assert first == readme.BANNER[:1]


# --- figures -----------------------------------------------------------------------------------------

# The words of a row: (suite, column) of docs/benchmark.md.
FIGURES = {
    "TCP bulk, 8 streams, Gbit/s": ("tcp-bulk", "8 streams, Gbit/s"),
    "at a fixed 3.2 Gbit/s, CPU s/GB of both ends": ("tcp-fixed", "8 streams at 400 Mbit/s, CPU, s/GB"),
    "HTTP, 64 connections kept alive, requests/s": ("http-keepalive", "requests, 1/s"),
    "HTTP, a connection per request, requests/s": ("http-close", "new connections, 1/s"),
    "Noise, 8 streams, Gbit/s": ("noise-bulk", "8 streams, Gbit/s"),
    "TLS, 8 streams, Gbit/s": ("tls-bulk", "8 streams, Gbit/s"),
    "UDP, 64 bytes, 256 in flight, round trips/s": ("udp-rtt-64", "256 in flight, 1/s"),
    "an idle connection, KiB of the larger end": ("idle", "per connection, the larger end, KiB"),
}
PROGRAMS = ["rathole-uring", "rathole", "HAProxy chain, splice"]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def measured(suite, column):
    """{program: the median in that column of the suite's table}"""
    text = (ROOT / "docs" / "benchmark.md").read_text()
    table = re.search(rf"\(`{suite}`\)\n(?:[^|\n].*\n|\n)+((?:\|.*\n)+)", text)[1].splitlines()
    place = cells(table[0]).index(column)
    rows = {cells(line)[0]: cells(line)[place] for line in table[2:]}
    return {name: float(re.match(r"[\d. ]+", cell)[0].replace(" ", ""))
            for name, cell in rows.items() if cell}


def is_rounded(figure, value):
    """Whether 13.9 stands for 13.88, 10,600 for 10 610: as many digits as are written."""
    digits = figure.replace(",", "")
    step = 10.0 ** -len(digits.partition(".")[2])
    if "." not in digits:
        step = 10.0 ** (len(digits) - len(digits.rstrip("0")))
    return abs(float(digits) - value) <= step / 2 + 1e-9


def test_figures_are_those_of_the_benchmark():
    text = (ROOT / "README.md").read_text()
    table = re.search(r"^\| \| rathole-uring \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.M)[1]
    rows = {row[0]: row[1:] for row in map(cells, table.splitlines())}
    assert rows.keys() == FIGURES.keys()
    for words, figures in rows.items():
        medians = measured(*FIGURES[words])
        for program, figure in zip(PROGRAMS, figures):
            is_right = is_rounded(figure, medians[program]) if program in medians else figure == ""
            assert is_right, (words, program)


def test_a_figure_that_is_not_measured():
    assert is_rounded("13.9", 13.88) and is_rounded("10,600", 10610) and is_rounded("57,500", 57540)
    assert not is_rounded("13.8", 13.88) and not is_rounded("10,700", 10610)
