"""What docs/trust.md claims of the source and of the program: the checks pass, and each can fail."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PROGRAM = os.environ.get("RATHOLE_URING_BIN", ROOT / "build-test/rathole-uring")


def run(script, *arguments, **environment):
    return subprocess.run([sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True,
                          env=dict(os.environ, **environment))


# ---- SECURITY.md ----


def test_numbers_of_the_threat_model_are_those_of_the_source():
    result = run("check_security")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("old, new, complaint", [
    ("`max_pending_handshakes = 256`", "`max_pending_handshakes = 257`", "is 256, not 257"),
    ("`LIMIT_GATE_WAITING = 16384`", "`LIMIT_GATE_WAITING = 16385`", "is 16384, not 16385"),
    ("`LIMIT_TLS_HELLO = 16384`", "`LIMIT_TLS_HELO = 16384`", "no such constant"),
])
def test_a_wrong_number_is_found(tmp_path, old, new, complaint):
    for folder in ("include", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    text = (ROOT / "SECURITY.md").read_text()
    assert old in text
    (tmp_path / "SECURITY.md").write_text(text.replace(old, new))
    result = run("check_security", "--root", tmp_path)
    assert result.returncode == 1 and complaint in result.stdout, result.stdout


# ---- lines that read what strangers send ----


def test_exposed_lines_are_counted_for_each_transport():
    result = run("count_exposed_lines")
    assert result.returncode == 0, result.stdout
    counts = {what: int(lines) for lines, what in
              re.findall(r"^ *(\d+) lines, .*functions  (\w+)", result.stdout, re.MULTILINE)}
    for what in ("tcp", "noise", "tls", "websocket", "visitors", "status", "in"):
        assert counts[what] > 50, result.stdout


def test_the_list_of_exposed_functions_gets_old(tmp_path):
    for folder in ("include", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "src/server/login.c"
    path.write_text(path.read_text().replace("login_read_done", "login_read_over"))
    result = run("count_exposed_lines", "--root", tmp_path)
    assert result.returncode == 1 and "login_read_done: no such function" in result.stdout
    path.write_text(path.read_text().replace("login_read_over", "login_read_done"))
    link = tmp_path / "src/net/link.c"
    link.write_text(link.read_text().replace("link->ops->open(", "link->ops->unseal("))
    result = run("count_exposed_lines", "--root", tmp_path)
    assert result.returncode == 1 and "unseal(): not in TABLES" in result.stdout


# ---- the list of components ----

# SPDX 2.3, sections 6, 7, 8 and 11: what has to be there.
DOCUMENT_FIELDS = ("spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo")
PACKAGE_FIELDS = ("name", "SPDXID", "downloadLocation", "licenseConcluded", "licenseDeclared",
                  "copyrightText", "versionInfo", "supplier")
FILE_FIELDS = ("fileName", "SPDXID", "checksums", "licenseConcluded", "copyrightText")
ID = re.compile(r"^SPDXRef-[A-Za-z0-9.-]+$")


@pytest.fixture(scope="module")
def sbom():
    first, second = (run("make_sbom", SOURCE_DATE_EPOCH="1800000000", TZ=zone)
                     for zone in ("UTC", "Asia/Tokyo"))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    return json.loads(first.stdout)


def test_sbom_has_what_spdx_requires(sbom):
    assert all(sbom.get(field) for field in DOCUMENT_FIELDS)
    assert sbom["spdxVersion"] == "SPDX-2.3" and sbom["dataLicense"] == "CC0-1.0"
    assert sbom["SPDXID"] == "SPDXRef-DOCUMENT"
    assert re.match(r"^https?://[^#\s]+$", sbom["documentNamespace"])
    assert sbom["creationInfo"]["created"] == "2027-01-15T08:00:00Z"
    assert all(re.match(r"^(Tool|Person|Organization): ", who) for who in sbom["creationInfo"]["creators"])
    for package in sbom["packages"]:
        assert all(package.get(field) for field in PACKAGE_FIELDS), package["name"]
        assert re.match(r"^(NOASSERTION|git\+https://\S+)$", package["downloadLocation"])
        assert package["filesAnalyzed"] == ("packageVerificationCode" in package)
    assert all(entry.get(field) for entry in sbom["files"] for field in FILE_FIELDS)
    ids = [element["SPDXID"] for element in sbom["packages"] + sbom["files"]] + ["SPDXRef-DOCUMENT"]
    assert len(set(ids)) == len(ids) and all(map(ID.match, ids))
    for relation in sbom["relationships"]:
        assert relation["spdxElementId"] in ids and relation["relatedSpdxElement"] in ids
    assert ["DESCRIBES"] == [relation["relationshipType"] for relation in sbom["relationships"]
                             if relation["spdxElementId"] == "SPDXRef-DOCUMENT"]


def test_sbom_is_that_of_this_tree(sbom):
    packages = {package["name"]: package for package in sbom["packages"]}
    assert set(packages) == {"rathole-uring", "liburing", "libsodium", "inih", "openssl"}
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    for name in ("rathole-uring", "liburing", "libsodium"):
        assert re.search(rf"{name} {re.escape(packages[name]['versionInfo'])}\b", said), said
    files = {entry["fileName"]: entry for entry in sbom["files"]}
    for path in (ROOT / "src").rglob("*.c"):
        checksums = {sum["algorithm"]: sum["checksumValue"]
                     for sum in files["./" + path.relative_to(ROOT).as_posix()]["checksums"]}
        assert checksums["SHA256"] == hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the program ----


def readelf(program, *options):
    return subprocess.run(["readelf", "-W", *options, program], capture_output=True, text=True,
                          check=True).stdout


def hardening_of(program):
    """What of the packagers' hardening the program has."""
    segments, dynamic = readelf(program, "-l"), readelf(program, "-d")
    symbols = readelf(program, "--dyn-syms")
    stack = re.search(r"GNU_STACK.*", segments)
    return {
        "position-independent": "Elf file type is DYN" in segments,
        "no executable stack": bool(stack) and "E" not in stack.group().split()[-2],
        "no segment that is both writable and executable": not re.search(r"LOAD.* RWE ", segments),
        "read-only after relocation": "GNU_RELRO" in segments,
        "bound at the start": "BIND_NOW" in dynamic or " NOW" in dynamic,
        "stack protector": "__stack_chk_fail" in symbols,
        "fortified": bool(re.search(r"__\w+_chk\b(?<!stack_chk_fail)", symbols)),
    }


@pytest.fixture(scope="module")
def is_static():
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here")
    return "INTERP" not in readelf(PROGRAM, "-l")


def test_program_is_hardened(is_static):
    found = hardening_of(PROGRAM)
    if re.search(rb"__[at]san_", pathlib.Path(PROGRAM).read_bytes()):
        pytest.skip("a sanitizer's build")
    if is_static:
        # scripts/build-static says why it has no more than these.
        wanted = ("no executable stack", "no segment that is both writable and executable")
    else:
        wanted = found
    assert [what for what in wanted if not found[what]] == []


@pytest.mark.parametrize("options, missing", [
    (["-no-pie"], "position-independent"),
    (["-Wl,-z,execstack"], "no executable stack"),
    (["-Wl,-z,norelro"], "read-only after relocation"),
    (["-Wl,-z,lazy"], "bound at the start"),
    (["-fno-stack-protector"], "stack protector"),
    (["-U_FORTIFY_SOURCE"], "fortified"),
])
def test_missing_hardening_is_found(tmp_path, options, missing):
    source = tmp_path / "x.c"
    source.write_text("#include <string.h>\nint main(int n, char **v)\n"
                      "{\n    char text[8];\n    strcpy(text, v[n - 1]);\n    return text[0];\n}\n")
    all_of_it = ["-O2", "-fPIE", "-pie", "-Wl,-z,relro,-z,now", "-fstack-protector-strong",
                 "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
    program = tmp_path / "x"
    subprocess.run(["gcc", *all_of_it, source, "-o", program], check=True)
    assert all(hardening_of(program).values()), hardening_of(program)
    subprocess.run(["gcc", *all_of_it, *options, source, "-o", program], check=True)
    assert not hardening_of(program)[missing]


def fortify_level(compiler, *options):
    """What the C library makes of it, 0 to 3."""
    done = subprocess.run([*compiler, "-O2", "-E", "-P", "-x", "c", "-", *options], capture_output=True,
                          text=True, input="#include <stdio.h>\n__USE_FORTIFY_LEVEL\n")
    last = done.stdout.split()[-1:]
    return int(last[0]) if last and last[0].isdigit() else 0


def test_fortify_is_of_the_highest_level(is_static):
    """What is checked at run time at level 3 can't be told from the program: its build has to say."""
    commands = pathlib.Path(PROGRAM).parent / "compile_commands.json"
    if is_static or not commands.exists():
        pytest.skip("a static program, or one that was not built here")
    files = [entry for entry in json.loads(commands.read_text()) if re.search(r"(^|/)src/", entry["file"])]
    if any("-fsanitize=" in entry["command"] or " -O0 " in entry["command"] for entry in files):
        pytest.skip("a sanitizer's build, or one without optimisation")
    compiler = files[0]["command"].partition(" -I")[0].split()
    best = fortify_level(compiler, "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3")
    assert best >= 2
    for entry in files:
        level = re.findall(r"-D_FORTIFY_SOURCE=(\d)", entry["command"])[-1:]
        assert level == [str(best)], entry["file"]


# ---- valgrind ----


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind here")
@pytest.mark.parametrize("size, code", [("4", 99), ("16", 0)])
def test_valgrind_sees_children(tmp_path, size, code):
    """Criterion's tests are children that end well whatever valgrind says."""
    source = tmp_path / "x.c"
    source.write_text("#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\nint main(void)\n"
                      "{\n    if (fork() == 0) {\n        volatile int *p = calloc(1, %s);\n"
                      "        p[1] = 1;\n        _exit(0);\n    }\n"
                      "    wait(NULL);\n    return 0;\n}\n" % size)
    subprocess.run(["gcc", "-g", source, "-o", tmp_path / "x"], check=True)
    result = subprocess.run([SCRIPTS / "under_valgrind", tmp_path / "x"],
                            capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    assert ("Invalid write" in result.stderr) == (code == 99)


# ---- the analyzers ----


@pytest.fixture
def faulty_tree(tmp_path):
    (tmp_path / "src/base").mkdir(parents=True)
    (tmp_path / "include").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "src/base/x.c").write_text(
        "#include <stdlib.h>\nint twice(int a);\nint twice(int a)\n{\n    int *p = malloc(sizeof(*p));\n"
        "    if (p == NULL)\n        return 0;\n    *p = a;\n    free(p);\n    free(p);\n    return a;\n}\n")
    return tmp_path


@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="no cppcheck here")
def test_analyzers_find_and_accept_explanations(faulty_tree):
    result = run("check_analyzers", "--root", faulty_tree)
    assert result.returncode == 1, result.stdout
    assert "analyzer-double-free" in result.stdout and "[doubleFree]" in result.stdout
    explained = faulty_tree / "scripts/analyzer_findings"
    explained.write_text("src/base/x.c | analyzer-double-free | free | planted\n"
                         "src/base/x.c | doubleFree | p | planted\n")
    result = run("check_analyzers", "--root", faulty_tree)
    assert result.returncode == 0, result.stdout
    explained.write_text(explained.read_text() + "src/base/x.c | analyzer-double-free | free\n")
    assert run("check_analyzers", "--root", faulty_tree).returncode != 0


def stand_in(path, version, code):
    """A program of that version, that otherwise does what the shell's code says."""
    path.write_text(f"#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'x (y 1.1) {version}'; exit; fi\n"
                    f"{code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name, code", [
    ("gcc", "exit 1"), ("gcc", "kill -SEGV $$"), ("cppcheck", "exit 1"), ("cppcheck", "kill -SEGV $$"),
    ("cppcheck", "echo 'cppcheck: error: unrecognized command line option' >&2"),
])
def test_an_analyzer_that_fails_is_no_clean_run(faulty_tree, name, code):
    programs = {"gcc": stand_in(faulty_tree / "gcc", "12.2.0", "exit 0"),
                "cppcheck": stand_in(faulty_tree / "cppcheck", "2.10", "exit 0")}
    options = [f"--{tool}={path}" for tool, path in programs.items()]
    assert run("check_analyzers", "--root", faulty_tree, *options).returncode == 0
    stand_in(programs[name], "1.0", code)  # of any version
    result = run("check_analyzers", "--root", faulty_tree, *options)
    assert result.returncode == 1 and f"{programs[name]} of src/base/x.c" in result.stdout, result.stdout


@pytest.mark.parametrize("name, version", [
    ("gcc", "14.2.0"), ("gcc", "120.0"), ("cppcheck", "2.17.1"), ("cppcheck", "2.1"), ("cppcheck", "")])
def test_analyzers_of_another_version_are_a_skip(faulty_tree, name, version):
    """A101: what they find is printed, and is not what the explanations are for."""
    finding = "echo 'src/base/x.c|9|doubleFree|planted' >&2"
    programs = {"gcc": stand_in(faulty_tree / "gcc", "12.2.0", "exit 0"),
                "cppcheck": stand_in(faulty_tree / "cppcheck", "2.10.3", finding)}
    options = [f"--{tool}={path}" for tool, path in programs.items()]
    assert run("check_analyzers", "--root", faulty_tree, *options).returncode == 1
    stand_in(programs[name], version, finding if name == "cppcheck" else "exit 0")
    result = run("check_analyzers", "--root", faulty_tree, *options)
    assert result.returncode == 77, result.stdout
    assert "[doubleFree]" in result.stdout and f"other versions than {name}" in result.stdout
