"""The completions and scripts/release: that they fit the program."""

import os
import re
import shutil
import subprocess

import pytest

import test_dist
from test_dist import ROOT, need, output

ZSH = ROOT / "dist" / "completion" / "_rathole-uring"
FISH = ROOT / "dist" / "completion" / "rathole-uring.fish"


def version():
    return re.search(r"^  version: '([^']+)',$", (ROOT / "meson.build").read_text(), re.M)[1]


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
    ("bash", test_dist.COMPLETION), ("bash", ROOT / "scripts" / "release"),
    ("sh", ROOT / "debian" / "rathole-uring.postrm"), ("zsh", ZSH), ("fish", FISH),
], ids=lambda value: getattr(value, "name", value))
def test_shells_understand_it(tmp_path, shell, path):
    need(shell)
    output(shell, "-n", path)
    broken = tmp_path / path.name
    broken.write_text(path.read_text() + "\nif (\n")
    assert subprocess.run([shell, "-n", broken], capture_output=True).returncode != 0


# --- scripts/release ----------------------------------------------------------------------------


def git(directory, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    environment = dict(os.environ, GIT_COMMITTER_DATE="1800000000 +0000", GIT_AUTHOR_DATE="1800000000 +0000")
    return output("git", "-C", directory, *identity, *arguments, env=environment)


def make_tree(directory):
    """A small repository, with what the script needs of this tree."""
    for name in ("scripts/release", "scripts/make_sbom", "scripts/build-static", "meson.build",
                 "meson_options.txt", "LICENSE", "README.md", ".gitignore"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    for name in ("include/base", "src/app"):
        shutil.copytree(ROOT / name, directory / name)
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "all")
    return directory


@pytest.fixture
def tree(tmp_path):
    for program in ("git", "gzip", "pkg-config", "sha256sum"):
        need(program)
    return make_tree(tmp_path / "tree")


def add_static(directory):
    """A program that only says its version, and the versions of what it would be made of."""
    build = directory / "build-static"
    for library in ("musl-dev", "liburing-dev", "libsodium-dev", "libinih-dev"):
        (build / "deps" / library).mkdir(parents=True)
        (build / "deps" / library / "upstream-version").write_text("1.0\n")
    program = build / "rathole-uring"
    program.write_text(f"#!/bin/sh\necho rathole-uring {version()}\necho built with: nothing\n")
    program.chmod(0o775)
    return program


def release(directory, umask=0o022, **environment):
    kept = {name: value for name, value in os.environ.items()
            if name not in ("RELEASE_SIGN", "SOURCE_DATE_EPOCH")}
    return subprocess.run([directory / "scripts" / "release"], capture_output=True, text=True, timeout=60,
                          umask=umask, env={**kept, **environment})


def test_releases_of_a_commit_are_the_same(tree, tmp_path):
    """From two paths, with another time zone, umask, language and other times of the files."""
    add_static(tree)
    first = release(tree, TZ="UTC", LC_ALL="C.UTF-8")
    assert first.returncode == 0, first.stderr
    other = tmp_path / "a-longer-path" / "tree"
    git(tmp_path, "clone", "-q", tree, other)
    add_static(other)
    for path in other.rglob("*"):
        if ".git" not in path.parts and path.name != "rathole-uring":
            os.utime(path, (1600000000, 1600000000))
    git(other, "config", "tar.umask", "0077")
    second = release(other, umask=0o077, TZ="Asia/Tokyo", LC_ALL="C")
    assert second.returncode == 0, second.stderr
    sums = [(place / "build-release" / "SHA256SUMS").read_text() for place in (tree, other)]
    assert sums[0] == sums[1]
    assert sums[0] in first.stdout, "it says what it made"


def test_what_a_release_consists_of(tree):
    name = f"rathole-uring-{version()}"
    static = f"{name}-{os.uname().machine}-static"
    add_static(tree)
    assert release(tree).returncode == 0
    made = tree / "build-release"
    archives = [f"{name}.tar.gz", f"{static}.tar.gz"]
    lists = [f"{name}.spdx.json", f"{static}.spdx.json"]
    assert sorted(path.name for path in made.iterdir()) == sorted([*archives, *lists, "SHA256SUMS"])
    output("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=made)
    assert len((made / "SHA256SUMS").read_text().splitlines()) == 4
    listed = output("tar", "-tzf", made / archives[0]).splitlines()
    committed = [f"{name}/{path}" for path in git(tree, "ls-files").splitlines()]
    assert sorted(path for path in listed if not path.endswith("/")) == committed
    rows = [line.split() for line in output("tar", "-tvzf", made / archives[1]).splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("drwxr-xr-x", "0/0", f"{static}/"), ("-rw-r--r--", "0/0", f"{static}/LICENSE"),
        ("-rw-r--r--", "0/0", f"{static}/README.md"), ("-rwxr-xr-x", "0/0", f"{static}/rathole-uring")]


def test_a_release_without_a_static_program(tree):
    assert release(tree).returncode == 0
    assert sorted(path.suffix for path in (tree / "build-release").iterdir()) == ["", ".gz", ".json"]


@pytest.mark.parametrize("name", ["README.md", "src/app/new.c"], ids=["changed", "new"])
def test_an_unclean_tree_is_refused(tree, name):
    with (tree / name).open("a") as file:
        file.write("more\n")
    result = release(tree)
    assert result.returncode == 1 and name in result.stderr
    assert not (tree / "build-release").exists()


def test_an_old_static_program_is_refused(tree):
    program = add_static(tree)
    os.utime(program, (1600000000, 1600000000))
    result = release(tree)
    assert result.returncode == 1 and "older than the sources" in result.stderr
    program.write_text("#!/bin/sh\necho rathole-uring 0.0.1\n")
    result = release(tree)
    assert result.returncode == 1 and f"is not version {version()}" in result.stderr


def test_signing(tree):
    """The command may have arguments with spaces. Without it the script says that nothing is signed."""
    made = tree / "build-release"
    result = release(tree, RELEASE_SIGN="false")
    assert result.returncode == 1 and "not signed: false SHA256SUMS failed" in result.stderr
    signer = tree.parent / "sign it"
    signer.write_text('#!/bin/sh\nprintf "%s\\n" "$#" "$@" >"$2.sig"\n')
    signer.chmod(0o755)
    result = release(tree, RELEASE_SIGN=f"'{signer}' 'a key'")
    assert result.returncode == 0, result.stderr
    assert (made / "SHA256SUMS.sig").read_text() == "2\na key\nSHA256SUMS\n"
    result = release(tree)
    assert result.returncode == 0 and "not signed" in result.stderr
    assert not (made / "SHA256SUMS.sig").exists()
