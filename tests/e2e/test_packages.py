"""The recipes of packages, the completions and scripts/release: that they fit the program and each other.

What a recipe's own tool says of it is asked only if that tool is here; the rest is read out of its text.
"""

import fnmatch
import os
import re
import shutil
import subprocess

import pytest

import test_dist
from test_dist import INSTALLED, ROOT, need, output

SPEC = ROOT / "dist" / "rpm" / "rathole-uring.spec"
PKGBUILD = ROOT / "dist" / "arch" / "PKGBUILD"
OPENWRT = ROOT / "dist" / "openwrt" / "Makefile"
OPENWRT_INIT = OPENWRT.parent / "files" / "rathole-uring.init"
NIX = ROOT / "dist" / "nix" / "default.nix"
RULES = ROOT / "debian" / "rules"
RECIPES = {"rpm": SPEC, "arch": PKGBUILD, "openwrt": OPENWRT, "nix": NIX, "debian": RULES}
ZSH = ROOT / "dist" / "completion" / "_rathole-uring"
FISH = ROOT / "dist" / "completion" / "rathole-uring.fish"


def version():
    return re.search(r"^  version: '([^']+)',$", (ROOT / "meson.build").read_text(), re.M)[1]


# --- the recipes --------------------------------------------------------------------------------


@pytest.mark.parametrize("path, pattern", [
    (SPEC, r"^Version: +(\S+)$"),
    (SPEC, r"^%changelog\n\* .* - (\S+)-1$"),
    (PKGBUILD, r"^pkgver=(\S+)$"),
    (OPENWRT, r"^PKG_VERSION:=(\S+)$"),
], ids=["spec", "spec-changelog", "PKGBUILD", "Makefile"])
def test_version_is_that_of_the_program(path, pattern):
    assert re.findall(pattern, path.read_text(), re.M) == [version()]


def test_nix_reads_the_version():
    pattern = re.search(r'builtins\.match "([^"]+)"', NIX.read_text())[1]
    found = [re.fullmatch(pattern, line) for line in (ROOT / "meson.build").read_text().split("\n")]
    assert [match[1] for match in found if match] == [version()]


def options_of(text):
    """{an option of meson: its value}"""
    found = dict(re.findall(r"\s-D([a-z]\w*)=(\S+)", text))
    for kind, name, value in re.findall(r'lib\.meson(Bool|Enable) "(\w+)" (\w+)', text):
        words = {"Bool": ("true", "false"), "Enable": ("enabled", "disabled")}[kind]
        found[name] = words[value == "false"]
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_options_are_those_that_meson_knows(name):
    """A package has TLS whatever the builder has, and its build does not need what tests need."""
    known = re.findall(r"^option\('(\w+)'", (ROOT / "meson_options.txt").read_text(), re.M)
    found = options_of(RECIPES[name].read_text())
    assert set(found) <= set(known)
    expected = {"tests": "disabled", "fuzz": "false", "openssl": "enabled"}
    assert {key: found.get(key) for key in expected} == expected
    assert "usdt" in found, "it would depend on what the builder has"
    assert (found.get("systemd") == "false") == (name == "openwrt")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "debian"])
def test_libraries_are_those_that_meson_asks_for(name):
    wanted = set(re.findall(r"dependency\('(\w+)'", (ROOT / "meson.build").read_text()))
    assert {"liburing", "libsodium", "libssl"} <= wanted
    text = RECIPES[name].read_text()
    for library in wanted - {"threads", "criterion"}:
        word = "openssl|libssl" if library in ("libssl", "libcrypto") else library
        assert re.search(rf"\b(lib)?({word})\b", text), library


# --- rpm ----------------------------------------------------------------------------------------

# The directories below /usr that Fedora's macros stand for.
DIRECTORIES = {
    "_bindir": "bin", "_docdir": "share/doc", "_libexecdir": "libexec", "_mandir": "share/man",
    "_unitdir": "lib/systemd/system",
    "_sysusersdir": "lib/sysusers.d", "_tmpfilesdir": "lib/tmpfiles.d",
    "bash_completions_dir": "share/bash-completion/completions",
    "fish_completions_dir": "share/fish/vendor_completions.d",
    "zsh_completions_dir": "share/zsh/site-functions",
}


def rpm_patterns(text):
    """The lines of %files below /usr, as patterns of paths there."""
    for line in re.search(r"^%files\n(.*?)\n\n%changelog", text, re.S | re.M)[1].splitlines():
        path = line.split()[-1]
        if line.startswith(("#", "%license")) or path.startswith("%{_sysconfdir}"):
            continue
        path = re.sub(r"%\{(\w+)\}", lambda macro: {**DIRECTORIES, "name": "rathole-uring"}[macro[1]], path)
        yield path + "*" if path.endswith("/") else path


def strangers(patterns, files):
    """What only one of both has."""
    patterns = list(patterns)
    return ([path for path in files if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]
            + [pattern for pattern in patterns if not fnmatch.filter(files, pattern)])


def test_rpm_lists_what_is_installed():
    text = SPEC.read_text()
    assert strangers(rpm_patterns(text), INSTALLED) == []
    line = "%{_bindir}/%{name}\n"
    assert text.count(line) == 1
    assert strangers(rpm_patterns(text.replace(line, "")), INSTALLED) == ["bin/rathole-uring"]
    assert strangers(rpm_patterns(text.replace(line, line + "%{_bindir}/more\n")), INSTALLED) == ["bin/more"]


def test_rpm_directory_is_that_of_tmpfiles():
    mode, user, group = re.search(r"^d /etc/rathole-uring (\d+) (\S+) (\S+) -$",
                                  (ROOT / "dist" / "tmpfiles.conf").read_text(), re.M).groups()
    found = re.search(r"^%dir %attr\((\d+),(\S+),(\S+)\) %\{_sysconfdir\}/%\{name\}$", SPEC.read_text(), re.M)
    assert found.groups() == (mode, user, group.replace("rathole-uring", "%{name}"))


def test_rpm_is_understood():
    need("rpmspec")
    output("rpmspec", "--parse", SPEC)


# --- arch ---------------------------------------------------------------------------------------


def test_pkgbuild_has_what_makepkg_needs():
    names = ("pkgname", "pkgver", "pkgrel", "pkgdesc", "arch", "license", "depends", "makedepends", "source",
             "sha256sums")
    script = ('set -eu; source "$0"; for name; do declare -n value=$name; echo "$name ${value[*]}"; done; '
              'declare -F')
    lines = output("bash", "-c", script, PKGBUILD, *names).splitlines()
    found = dict(line.split(" ", 1) for line in lines[:len(names)])
    assert all(found[name] for name in names)
    assert found["pkgname"] == "rathole-uring"
    assert found["source"] == f"rathole-uring-{version()}.tar.gz", "scripts/release names it so"
    assert len(found["source"].split()) == len(found["sha256sums"].split())
    assert {line.split()[-1] for line in lines[len(names):]} == {"build", "package"}


def test_pkgbuild_packages_all_that_is_installed(tmp_path):
    """The calls of build() and package(), with an arch-meson and a meson that only say them."""
    script = ('source "$0"; arch-meson() { echo arch-meson "$@"; }; meson() { echo meson "$@"; }; '
              'pkgdir=/pkg; build; package')
    first, *others = output("bash", "-c", script, PKGBUILD, cwd=tmp_path).splitlines()
    assert first.startswith(f"arch-meson rathole-uring-{version()} build -D")
    assert others == ["meson compile -C build", "meson install -C build --destdir /pkg"]


# --- nix ----------------------------------------------------------------------------------------


def test_nix_is_understood():
    need("nix-instantiate")
    output("nix-instantiate", "--parse", NIX)


def test_nix_builds_this_tree():
    default = re.search(r"\bsrc \? lib\.cleanSource (\S+),", NIX.read_text())[1]
    assert (NIX.parent / default).resolve() == ROOT


# --- openwrt ------------------------------------------------------------------------------------


def section(name):
    pattern = rf"^define Package/rathole-uring{name}\n(.*?)^endef"
    return re.search(pattern, OPENWRT.read_text(), re.S | re.M)[1]


def test_openwrt_installs_what_there_is():
    text = section("/install")
    built = re.findall(r"\$\(PKG_INSTALL_DIR\)/usr/(\S+)", text)
    assert built == ["bin/rathole-uring"] and set(built) <= set(INSTALLED)
    own = re.findall(r"\./(\S+) \$\(1\)(\S+)", text)
    assert {OPENWRT.parent / name for name, _ in own} == set((OPENWRT.parent / "files").iterdir())
    # Both kinds of configuration survive an update of the system.
    kept = section("/conffiles").split()
    assert "/etc/rathole-uring/" in kept
    for name, target in own:
        assert (target in kept) == name.endswith(".config"), target


# What rc.common and procd.sh bring: each says what it is told. The configuration has three instances.
RC_COMMON = r"""
for name in procd_open_instance procd_close_instance procd_set_param procd_send_signal procd_open_trigger \
    procd_close_trigger procd_add_config_trigger config_load mkdir chown chmod; do
    eval "$name() { echo $name \"\$@\"; }"
done
client_enabled=1 server_enabled=0 other_enabled=1 other_file=/mnt/other.toml
config_foreach() { for instance in client server other; do "$1" "$instance"; done; }
config_get() { eval "$1=\${$2_$3:-$4}"; }
config_get_bool() { config_get "$@"; }
"""


def run_init(action):
    return output("sh", "-c", RC_COMMON + '. "$0"; "$1"', OPENWRT_INIT, action).splitlines()


def test_openwrt_starts_what_is_enabled():
    lines = run_init("start_service")
    assert "chmod 750 /etc/rathole-uring" in lines and "config_load rathole-uring" in lines
    instances = [line.split()[1] for line in lines if line.startswith("procd_open_instance")]
    assert instances == ["client", "other"] and lines.count("procd_close_instance") == 2
    commands = [line for line in lines if line.startswith("procd_set_param command")]
    assert commands == [f"procd_set_param command /usr/bin/rathole-uring {file}"
                        for file in ("/etc/rathole-uring/client.ini", "/mnt/other.toml")]
    for parameter in ("respawn 3600 2 0", "user rathole-uring"):
        assert lines.count(f"procd_set_param {parameter}") == 2


def test_openwrt_reloads_by_a_signal():
    """Without another signal procd sends SIGHUP."""
    assert run_init("reload_service") == ["procd_send_signal rathole-uring"]


def test_openwrt_starts_what_a_change_enables():
    assert ("procd_add_config_trigger config.change rathole-uring /etc/init.d/rathole-uring start"
            in run_init("service_triggers"))


def test_openwrt_limits_are_those_of_the_unit():
    unit, lines = test_dist.UNIT.read_text(), run_init("start_service")
    files, locked, stop = (int(re.search(rf"^{name}=(\d+)M?$", unit, re.M)[1])
                           for name in ("LimitNOFILE", "LimitMEMLOCK", "TimeoutStopSec"))
    locked <<= 20
    assert f"procd_set_param limits nofile={files} {files} memlock={locked} {locked}" in lines
    assert f"procd_set_param term_timeout {stop}" in lines


# --- completion ---------------------------------------------------------------------------------


def zsh_flags(text):
    """Of the specifications, one a line: '(excluded)'{-a,--b=}'[meaning]', '(excluded)--b[meaning]' or
    '*--b[meaning]'"""
    specs = re.findall(r"^ +'(?:\([^)]*\)|\*)?(?:'\{([^}]*)\}|(-[\w-]+))", text, re.M)
    return [flag.rstrip("=") for several, one in specs for flag in (several or one).split(",")]


def fish_flags(text):
    lines = [re.sub(r"'[^']*'", "", line) for line in text.splitlines() if line.startswith("complete -c ")]
    return [{"s": "-", "l": "--"}[kind] + name for line in lines
            for kind, name in re.findall(r" -([sl]) (\S+)", line)]


def test_flags_of_bash(tmp_path):
    assert test_dist.complete(tmp_path, "-") == sorted(test_dist.flags(""))


@pytest.mark.parametrize("path, flags_in, extra", [
    (ZSH, zsh_flags, "    '(-x)'{-x,--extra}'[more]' \\\n"),
    (FISH, fish_flags, "complete -c rathole-uring -s x -l extra -d more\n"),
], ids=["zsh", "fish"])
def test_flags_of_others(path, flags_in, extra):
    text = path.read_text()
    assert set(flags_in(text)) == set(test_dist.flags())
    assert set(flags_in(text + extra)) == {*test_dist.flags(), "-x", "--extra"}
    meanings = re.findall(r"^  (?:-\w, |    )--[\w-]+ +(\S.*)$", output(test_dist.PROGRAM, "--help"), re.M)
    for meaning in meanings:
        assert meaning in text.replace("\\", ""), meaning


@pytest.mark.parametrize("shell, path", [
    ("bash", test_dist.COMPLETION), ("bash", PKGBUILD), ("bash", ROOT / "scripts" / "release"),
    ("sh", OPENWRT_INIT), ("sh", ROOT / "debian" / "rathole-uring.postrm"), ("zsh", ZSH), ("fish", FISH),
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
