"""The completions: that each has the flags of the program."""

import re
import subprocess

import pytest

import test_dist
from test_dist import ROOT, need, output

ZSH = ROOT / "dist" / "completion" / "_rathole-uring"
FISH = ROOT / "dist" / "completion" / "rathole-uring.fish"


# --- completion ---------------------------------------------------------------------------------


def zsh_flags(text):
    """Of the specifications, one a line: '(excluded)'{-a,--b=}'[meaning]' or '(excluded)--b[meaning]'"""
    specs = re.findall(r"^ +'(?:\([^)]*\))?(?:'\{([^}]*)\}|(-[\w-]+))", text, re.M)
    return [flag.rstrip("=") for several, one in specs for flag in (several or one).split(",")]


def fish_flags(text):
    lines = [re.sub(r"'[^']*'", "", line) for line in text.splitlines() if line.startswith("complete -c ")]
    return [{"s": "-", "l": "--"}[kind] + name for line in lines
            for kind, name in re.findall(r" -([sl]) (\S+)", line)]


def test_flags_of_bash(tmp_path):
    assert test_dist.complete(tmp_path, "-") == sorted(test_dist.flags())


@pytest.mark.parametrize("path, flags_in, extra", [
    (ZSH, zsh_flags, "    '(-x)'{-x,--extra}'[more]' \\\n"),
    (FISH, fish_flags, "complete -c rathole-uring -s x -l extra -d more\n"),
], ids=["zsh", "fish"])
def test_flags_of_others(path, flags_in, extra):
    text = path.read_text()
    assert sorted(flags_in(text)) == sorted(test_dist.flags())
    assert sorted(flags_in(text + extra)) == sorted([*test_dist.flags(), "-x", "--extra"])
    meanings = re.findall(r"^  (?:-\w, |    )--[\w-]+ +(\S.*)$", output(test_dist.PROGRAM, "--help"), re.M)
    for meaning in meanings:
        assert meaning in text.replace("\\", ""), meaning


@pytest.mark.parametrize("shell, path", [
    ("bash", test_dist.COMPLETION), ("sh", ROOT / "debian" / "rathole-uring.postrm"), ("zsh", ZSH),
    ("fish", FISH),
], ids=lambda value: getattr(value, "name", value))
def test_shells_understand_it(tmp_path, shell, path):
    need(shell)
    output(shell, "-n", path)
    broken = tmp_path / path.name
    broken.write_text(path.read_text() + "\nif (\n")
    assert subprocess.run([shell, "-n", broken], capture_output=True).returncode != 0
