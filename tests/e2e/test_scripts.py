"""The checks of the tree can fail: each is shown a small tree with a violation in it."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
CLEAN = "/* Adds. */\nint add(int a, int b)\n{\n    return a + b;\n}\n"


@pytest.fixture
def tree(tmp_path):
    """A tree that passes both checks."""
    files = {
        "include/base/sum.h": "#pragma once\nint add(int a, int b);\n",
        "src/base/sum.c": '#include "base/sum.h"\n' + CLEAN,
        "tests/base/test_sum.c": '#include "base/sum.h"\n',
        "src/net/stream.c": '#include "base/sum.h"\n#include "io/loop.h"\n#include <poll.h>\n',
        "include/io/loop.h": "#pragma once\n",
        "tests/net/test_stream.c": "",
        "scripts/hello": "echo hello\n",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(script, root):
    result = subprocess.run([sys.executable, SCRIPTS / script, "--root", root],
                            capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("script", ["check_layers", "check_style"])
def test_clean_tree_passes(tree, script):
    assert run(script, tree)[0] == 0


@pytest.mark.parametrize("script", ["check_layers", "check_style"])
def test_empty_tree_fails(tmp_path, script):
    assert run(script, tmp_path)[0] != 0


@pytest.mark.parametrize("name, text, complaint", [
    ("src/base/x.c", '#include "io/loop.h"\n', "higher layer"),
    ("src/io/x.c", '#include "config/config.h"\n', "sibling"),
    ("include/proto/x.h", '#include "relay/relay.h"\n', "higher layer"),
    ("src/net/x.c", '#include <liburing.h>\n', "belongs to io/"),
    ("src/proto/x.c", '#include <sodium.h>\n', "belongs to crypto/"),
    ("src/app/x.c", '#  include <ini.h>\n', "belongs to config/"),
    ("src/app/x.c", '#include "relay/relay_priv.h"\n', "private to relay/"),
    ("src/app/run.c", '#include "server/server.h"\n', "names a role"),
    ("src/app/run.c", '#include "client/reload.h"\n', "names a role"),
    ("include/app/main.h", '#include "server/server.h"\n', "names a role"),
    ("src/app/x.c", '#include "../net/relay.h"\n', "not beside|reaches into"),
    ("src/other/x.c", '#include "base/sum.h"\n', "is no layer"),
])
def test_layer_violations(tree, name, text, complaint):
    write(tree, name, text)
    code, output = run("check_layers", tree)
    assert code == 1
    assert any(part in output for part in complaint.split("|")), output


def test_main_alone_knows_the_roles(tree):
    write(tree, "src/app/main.c", '#include "client/client.h"\n#include "server/server.h"\n')
    assert run("check_layers", tree)[0] == 0


def test_a_circle_of_includes(tree):
    """Three files of a role may include each other, four may not."""
    def ring(count):
        for n in range(count):
            write(tree, f"include/server/f{n}.h", f'#include "server/f{(n + 1) % count}.h"\n')
    ring(3)
    assert run("check_layers", tree)[0] == 0
    ring(4)
    code, output = run("check_layers", tree)
    assert code == 1 and "4 files include each other in a circle: server/f0" in output


LONG = "int f(void)\n{\n" + "    f();\n" * 68 + "}\n"


@pytest.mark.parametrize("text, complaint", [
    (LONG, "function of 71 lines"),
    ("int x;\n" * 796, "801 lines in a file"),
    ("int " + "x" * 97 + ";\n", "102 columns"),
    ("    n = atoi(text);\n", "atoi() is banned"),
    ("    strcpy(a, b);\n", "strcpy() is banned"),
    ("    sprintf (a, b);\n", "sprintf() is banned"),
    ("    signal(1, f);\n", "signal() is banned"),
    ("    if (memcmp(token, other, 32))\n", "leaks time"),
    ("    io_uring_prep_splice(sqe);\n", "splice(2)"),
    ("    /* TO" "DO: later */\n", "unfinished"),
    ("int x; \n", "white space"),
], ids=lambda value: value if "\n" not in value else "")
def test_style_violations(tree, text, complaint):
    write(tree, "src/base/sum.c", CLEAN + text)
    code, output = run("check_style", tree)
    assert code == 1
    assert complaint in output


def test_a_static_name_in_two_files(tree):
    write(tree, "src/base/sum.c", CLEAN + "static int carry(int a)\n{\n    return a;\n}\n")
    assert run("check_style", tree)[0] == 0
    write(tree, "src/net/stream.c", "static void carry(void)\n{\n}\n")
    code, output = run("check_style", tree)
    assert code == 1 and "static carry() stands in src/base/sum.c" in output


@pytest.mark.parametrize("named, is_there", [
    ("`test_sum.c`", True), ("`test_sum.c::adds`", True), ("`tests/base/test_sum.c::adds`", True),
    ("`tests/net/test_sum.c`", False), ("`test_sum.c::subtracts`", False), ("`test_gone.py`", False),
    ("`test_sums.py::test_one`", True), ("`test_sums.py::test_on`", False),
])
def test_a_test_that_the_table_names(tree, named, is_there):
    write(tree, "docs/robustness.md", f"| A01 | sums | full | {named} |\n")
    write(tree, "tests/base/test_sum.c", "Test(sum, adds)\n{\n}\n")
    write(tree, "tests/e2e/test_sums.py", "def test_one():\n    pass\n")
    code, output = run("check_style", tree)
    assert (code == 0) == is_there, output


@pytest.mark.parametrize("text", [
    LONG.replace("    f();\n", "", 1),
    "    /* atoi() would be wrong here */\n",
    '    log("strcpy(a, b)");\n',
    "    memcmp(token, other, 32); /* style: a public value */\n",
    "    snprintf(a, 1, b);\n",
    "    x->signal(1);\n",
], ids=["70-lines", "comment", "string", "excused", "snprintf", "member"])
def test_style_accepts(tree, text):
    write(tree, "src/base/sum.c", CLEAN + text)
    code, output = run("check_style", tree)
    assert code == 0, output


@pytest.mark.parametrize("text, complaint", [
    ("[two](docs/two.md), [web](https://example.org/x), [mail](mailto:a@example.org)", None),
    ("[a\nline](docs/two.md#the-second-one), [here](#one), ![picture](docs/two.png)", None),
    ("`[code](gone.md)`\n\n```\n[code](gone.md)\n```\n", None),
    ("[two](docs/three.md)", "README.md:3: there is no file docs/three.md"),
    ("![picture](docs/three.png)", "README.md:3: there is no file docs/three.png"),
    ("[two](docs/two.md#the-third)", "README.md:3: there is no heading docs/two.md#the-third"),
    ("[here](#two)", "README.md:3: there is no heading #two"),
    ("<!-- why -->", None),
    ("<!-- integ" "rator: measure this -->", "README.md:3: a note of its writers"),
    ("| x | <!-- later\n(integ" "rator: y) --> |", "README.md:3: a note of its writers"),
])
def test_pages(tree, text, complaint):
    """What the pages (*.md) link to exists, and what their writers told each other is not in them."""
    write(tree, "docs/two.md", "# Two\n\n## The `second` one\n\n[back](../README.md#one)\n")
    write(tree, "docs/two.png", "")
    write(tree, "README.md", f"# One\n\n{text}\n")
    code, output = run("check_style", tree)
    assert code == (1 if complaint else 0), output
    assert (complaint or "0 problems") in output


def test_unfinished_word_in_a_script(tree):
    write(tree, "scripts/hello", "# FIX" "ME\n")
    assert run("check_style", tree)[0] == 1


@pytest.mark.parametrize("script, tool, good, bad", [
    ("check_shell", "shellcheck", "#!/bin/sh\necho hello\n", "#!/bin/sh\ncd /nowhere\nrm $1\n"),
    ("check_python", "ruff", "#!/usr/bin/env python3\n", "#!/usr/bin/env python3\nimport os\n"),
])
def test_scripts_are_checked(tmp_path, script, tool, good, bad):
    """Scripts without a file extension are checked too, and before they are committed."""
    for name in (script, "check_style", "run"):
        write(tmp_path, f"scripts/{name}", (SCRIPTS / name).read_text())
    shutil.copy(SCRIPTS.parent / "ruff.toml", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def check():
        result = subprocess.run(["bash", tmp_path / "scripts" / script], capture_output=True, text=True)
        if result.returncode == 77:
            pytest.skip(f"no {tool}")
        return result

    write(tmp_path, "scripts/hello", good)
    write(tmp_path, "hello.py", "")
    assert check().returncode == 0
    write(tmp_path, "scripts/hello", bad)
    result = check()
    assert result.returncode not in (0, 77) and "hello" in result.stdout + result.stderr


SOME_FAILED = 10  # exit code of "count_tests add"
ROWS = [
    {"name": "a / unit1", "result": "OK", "returncode": 0,
     "stderr": "[\x1b[0;1;32mPASS\x1b[0m] list::order: (0.01s)\n"
               "[====] Synthesis: Tested: 9 | Passing: 7 | Failing: 1 | Crashing: 1 \n"},
    {"name": "plain", "result": "OK", "returncode": 0, "duration": 7.2},
    {"name": "bad", "result": "FAIL", "returncode": 1, "stdout": "boom"},
    {"name": "slow", "result": "TIMEOUT", "returncode": -9},
    {"name": "none", "result": "SKIP", "returncode": 77},
    {"name": "b / py", "result": "OK", "returncode": 0},
    {"name": "killed", "result": "TIMEOUT", "returncode": -9},
]
CASE = '<testcase classname="tests.e2e.test_x" name="%s">%s</testcase>'
REPORT = (
    "<testsuites><testsuite>" + CASE % ("one", "") + CASE % ("two", "<failure message='m'/>")
    + CASE % ("three", "<skipped message='why'/>") + CASE % ("four", "<error message='e'/>")
    + "</testsuite></testsuites>")


@pytest.fixture
def count(tmp_path):
    """count(argument...) -> a run of count_tests with a file of results of this test's own."""

    def run_it(what, *arguments):
        return subprocess.run([sys.executable, SCRIPTS / "count_tests", what, tmp_path / "results",
                               *arguments], capture_output=True, text=True)

    return run_it


@pytest.fixture
def counted(tmp_path, count):
    """counted(build, rows, report) -> count_tests add"""

    def add(build, rows, report=None):
        junit = tmp_path / f"junit-{build}"
        junit.mkdir()
        (tmp_path / "log.json").write_text("\n".join(json.dumps(row) for row in rows))
        if report:
            (junit / "py.xml").write_text(report)
            (junit / "killed.xml").write_text("<testsuites><testsuite/></testsuites>")
        return count("add", build, tmp_path / "log.json", junit)

    return add


def test_count_tests(counted, count):
    added = counted("build-a", ROWS, REPORT)
    assert added.returncode == SOME_FAILED
    assert added.stdout.strip() == "9 passed, 7 failed, 2 skipped; plain 7 s"
    assert "FAILED bad" in added.stderr and "SKIPPED py: 1 cases: why" in added.stderr
    ended = count("sum")
    assert ended.returncode == 1
    said = ended.stdout.splitlines()
    assert said[-1] == "9 passed, 7 failed, 2 skipped"
    assert "FAILED test_x.py::two in build-a: m" in said
    assert "FAILED slow in build-a: TIMEOUT (exit -9)" in said
    assert "FAILED killed in build-a: TIMEOUT (exit -9)" in said


def test_a_test_of_two_builds_counts_once(counted, count):
    good = REPORT.replace("<failure message='m'/>", "").replace("<error message='e'/>", "")
    rows = [row for row in ROWS if row["name"] in ("plain", "b / py")]
    assert counted("build-a", rows, good).returncode == 0
    assert counted("build-b", rows, good).returncode == 0
    ended = count("sum")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-2:] == [
        "4 distinct tests passed; 10 runs over 2 builds", "4 passed, 0 failed, 1 skipped"]
    counted("build-c", rows, REPORT)
    ended = count("sum")
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "2 passed, 2 failed, 1 skipped"
    assert "FAILED test_x.py::four in build-c: e" in ended.stdout


def test_criterion_tests_count_by_name(counted, count):
    """Tests whose names were lost in a crash are counted by the number that Criterion gives."""
    lines = "[PASS] a::one: (0.0s)\n[FAIL] a::two: CRASH!\n"
    for build, synthesis in (("build-a", (2, 1, 0, 1)), ("build-b", (3, 2, 0, 1))):
        counted(build, [{"name": "unit", "result": "FAIL", "returncode": 1, "stderr": lines +
                         "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d "
                         % synthesis}])
    ended = count("sum")
    assert "FAILED unit::a::two in build-a, build-b" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"


def test_a_leak_in_a_program_whose_tests_pass(counted, count):
    counted("build-a", [{"name": "unit", "result": "FAIL", "returncode": 1, "stderr":
                         "[====] Synthesis: Tested: 1 | Passing: 1 | Failing: 0 | Crashing: 0 "}])
    assert "FAILED unit in build-a: FAIL (exit 1)" in count("sum").stdout


def test_what_cannot_be_read_is_a_failure(counted, count):
    """A report and a log that end in the middle, as of a killed process or on a full disk: the rest
    is counted, and what is missing has failed."""
    cut = counted("build-a", ROWS, REPORT[:-20])
    assert cut.returncode == SOME_FAILED
    said = count("sum").stdout
    assert "FAILED py in build-a: unreadable report" in said and "FAILED bad in build-a" in said


def test_a_log_that_is_cut_off(count, tmp_path):
    good = json.dumps({"name": "good", "result": "OK", "returncode": 0})
    (tmp_path / "log.json").write_text(good + "\n" + good[:20])
    assert count("add", "build-a", tmp_path / "log.json", tmp_path).returncode == SOME_FAILED
    assert count("sum").stdout.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


def test_a_criterion_program_without_tests_has_failed(counted, count):
    """The linker may drop them all."""
    counted("build-a", [{"name": "unit", "result": "OK", "returncode": 0, "stderr":
                         "[====] Synthesis: Tested: 0 | Passing: 0 | Failing: 0 | Crashing: 0 "}])
    assert "FAILED unit in build-a: no test ran" in count("sum").stdout


def test_notes_are_counted(count):
    """scripts/test notes its own steps: a build that failed, a check of the tree."""
    count("note", "build-a", "passed", "clang-format")
    assert count("sum").returncode == 0
    count("note", "build-b", "failed", "build build-b", "exit 1")
    ended = count("sum")
    assert ended.returncode == 1
    assert "FAILED build build-b in build-b: exit 1" in ended.stdout


FAKE_TOOL = """#!/bin/sh
echo "Debian clang-format version {version}.0.7"
"""


@pytest.mark.parametrize("versions, found", [
    ({"clang-format": 14}, "clang-format"),
    ({"clang-format": 19}, None),
    ({"clang-format": 19, "clang-format-14": 14}, "clang-format-14"),
    ({}, None),
], ids=str)
def test_style_tools_of_another_version_are_a_skip(tmp_path, versions, found):
    """Debian 13 has version 19, whose style differs: a skip that names the version needed, no failure."""
    for name, version in versions.items():
        (tmp_path / name).write_text(FAKE_TOOL.format(version=version))
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "env", "grep", "head"):
        (tmp_path / name).symlink_to(shutil.which(name))
    result = subprocess.run([SCRIPTS / "find_llvm_tool", "clang-format"], capture_output=True,
                            text=True, env={"PATH": str(tmp_path)})
    if found:
        assert result.returncode == 0 and result.stdout.strip() == str(tmp_path / found)
    else:
        assert result.returncode == 77 and result.stdout == ""
        assert "needs version 14" in result.stderr


FAKE_CLANG = """#!/bin/sh
cat >/dev/null
[ {has_fuzzer} = True ]
"""


@pytest.mark.parametrize("compilers, found", [
    ({"clang-14": True, "clang-19": True, "clang": True}, "clang-19"),
    ({"clang-14": True, "clang-19": False}, "clang-14"),
    ({"clang-9": True, "clang-19": True, "clang-format-20": True}, "clang-19"),
    ({"clang": True}, "clang"),
    ({"clang-14": False}, None),
    ({}, None),
], ids=str)
def test_the_newest_clang_with_libfuzzer(tmp_path, compilers, found):
    for name, has_fuzzer in compilers.items():
        (tmp_path / name).write_text(FAKE_CLANG.format(has_fuzzer=has_fuzzer))
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "env", "grep", "sort", "mktemp", "rm", "cat", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    result = subprocess.run([SCRIPTS / "find_llvm_tool", "clang"], capture_output=True, text=True,
                            env={"PATH": str(tmp_path)})
    assert result.stdout.strip() == (str(tmp_path / found) if found else "")
    assert result.returncode == (0 if found else 77)
    assert found or "scripts/setup fuzz" in result.stderr


def test_count_tests_without_a_run(count, tmp_path):
    added = count("add", "build-a", tmp_path / "none.json", tmp_path)
    assert added.returncode == SOME_FAILED and "0 passed, 1 failed, 0 skipped" in added.stdout
    assert count("sum").stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_nothing_counted_is_a_failure(count):
    assert count("sum").returncode == 1


@pytest.mark.parametrize("script", ["build-static", "run", "setup"])
def test_scripts_say_how_they_are_used(script):
    """They also do nothing for a word that they do not know."""
    said = subprocess.run([SCRIPTS / script, "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and f"scripts/{script}" in said.stdout
    assert "set -" not in said.stdout
    refused = subprocess.run([SCRIPTS / script, "--no-such-word"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stdout == "" and refused.stderr


FAKE_TARGET = """#!/bin/sh
for word; do
    case $word in -artifact_prefix=*) reports=${{word#*=}} ;; esac
done
case "$*" in
    *-merge=1*) exit {merge} ;;
    *-max_total_time=*) {piece} ;;
    *) {replay} ;;
esac
"""
RUNS = "echo '#100 DONE cov: 5 ft: 6 corp: 1'"
REPORTS = RUNS + "; : >${reports}%s; exit 77"


@pytest.mark.parametrize("piece, replay, merge, place, code", [
    (RUNS, "", 0, None, 0),
    ("exit 127", "", 0, None, 1),
    ("exit 1", "", 0, None, 1),
    ("", "", 0, None, 1),
    (RUNS, "", 1, None, 1),
    (REPORTS % "crash-1", "exit 77", 0, "found", 1),
    (REPORTS % "crash-1", "", 0, "unsure", 0),
    (REPORTS % "crash-1", "exit 127", 0, "reported", 1),
    (REPORTS % "slow-unit-1", 'case "$*" in *-timeout=10*) exit 70 ;; esac', 0, "found", 1),
], ids=["well", "not there", "fails", "no executions", "no merge", "crash", "not again", "gone", "slow"])
def test_fuzz_says_what_has_not_run(tmp_path, piece, replay, merge, place, code):
    """A target that does not run at all has found nothing either."""
    target = tmp_path / "tests" / "fuzz" / "fuzz_http"
    write(tmp_path, "tests/fuzz/fuzz_http", FAKE_TARGET.format(piece=piece, replay=replay, merge=merge))
    target.chmod(0o755)
    run_dir = tmp_path / "run"
    ended = subprocess.run([SCRIPTS / "fuzz", "0.000005", "--no-build", "--build", tmp_path, "--dir", run_dir,
                            "--jobs", "1", "--merge"], capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    assert ("fuzz: http: it ended with" in ended.stderr) == (code == 1 and not merge and place != "found")
    assert ("fuzz: http: the merge ended with 1" in ended.stderr) == (merge == 1)
    for name in ("reported", "found", "unsure", "mended"):
        assert len(list(run_dir.glob(f"{name}/http/*"))) == (name == place)
    if place:
        assert len(list((run_dir / "log").glob("http.*-1"))) == 1
    row = (run_dir / "table.md").read_text().splitlines()[2]
    assert row.endswith("| 1 |" if place == "unsure" else "| 0 |"), row


def test_robustness_table_names_tests_that_exist():
    root = SCRIPTS.parent
    named = re.findall(r"`(?:tests/(?:\w+/)*)?(\w+\.(?:py|c))(?:::(\w+))?`",
                       (root / "docs" / "robustness.md").read_text())
    assert len(named) > 50
    for file, test in named:
        texts = [path.read_text() for path in (root / "tests").rglob(file)]
        assert any(re.search(rf"\b{test}\(|, {test}\b", text) for text in texts), (file, test)


def test_every_file_of_tests_is_run():
    """A file that meson.build does not name passes for ever."""
    here = pathlib.Path(__file__).parent
    listed = (here / "meson.build").read_text()
    forgotten = [path.stem for path in here.glob("test_*.py") if f"'{path.stem}'" not in listed]
    assert not forgotten
