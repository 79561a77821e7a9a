"""The files that are installed besides the program: their location, and that they match the program."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("RATHOLE_URING_BIN") or ROOT / "build" / "rathole-uring")
BUILD = PROGRAM.parent
PAGES = {"rathole-uring": BUILD / "dist" / "rathole-uring.1",
         "rathole-uring.ini": BUILD / "dist" / "rathole-uring.ini.5"}
COMPLETION = ROOT / "dist" / "completion" / "rathole-uring"
UNIT = ROOT / "dist" / "systemd" / "rathole-uring@.service.in"
EXPOSURE_MAX = 2.0


def output(*argv, **kwargs):
    return subprocess.run([str(item) for item in argv], check=True, capture_output=True, text=True,
                          timeout=60, **kwargs).stdout


def need(program):
    if not shutil.which(program):
        pytest.skip(f"no {program} here")


def flags(word=None):
    """The flags in --help: ["-s", "--server", ...]. word: those behind this first word, "" for a file."""
    found = re.findall(r"^  (?:(-\w), |    )(--[\w-]+) +(?:(server|client|both): )?",
                       output(PROGRAM, "--help"), re.M)
    assert len(found) >= 16
    for_word = {None: ("", "server", "client", "both"), "": ("",), "server": ("server", "both"),
                "client": ("client", "both"), "init": ()}[word]
    return [flag for *row, place in found for flag in row
            if flag and (place in for_word or (word and flag in ("-h", "--help", "-V", "--version")))]


def rows():
    """The table of options: [(key, meaning)]"""
    text = output(BUILD / "dist" / "print_tables", "options")
    found = [[cell.strip(" `") for cell in line.strip("|").split(" | ")]
             for line in text.splitlines()[2:]]
    assert len(found) > 40
    return [(row[0], row[3]) for row in found]


# --- manual pages -------------------------------------------------------------------------------


def rendered(page):
    """The manual page as a terminal shows it, with all whitespace reduced to single spaces."""
    need("groff")
    text = output("groff", "-man", "-Tascii", "-P-c", "-rHY=0", "-dAD=l", "-rLL=1000n", page)
    return " ".join(re.sub(r".\x08", "", text).split())


def test_manual_names_every_argument():
    text = rendered(PAGES["rathole-uring"])
    for row in re.findall(r"^  (?:-|    -).*", output(PROGRAM, "--help"), re.M):
        assert " ".join(row.split()) in text


def test_manual_names_every_option():
    text = rendered(PAGES["rathole-uring.ini"])
    for key, meaning in rows():
        # A further column may stand in the brackets.
        assert f" {key.split('.')[-1]} {' '.join(meaning.replace('`', '').split())} (" in text, key


@pytest.mark.parametrize("page", PAGES)
def test_manual_renders_without_warnings(page):
    need("groff")
    result = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", PAGES[page]],
                            capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert not re.search(r"@\w+@", PAGES[page].read_text()), "a place of the template is not filled in"


@pytest.mark.parametrize("page", PAGES)
def test_manual_passes_lint(page):
    need("mandoc")
    result = subprocess.run(["mandoc", "-Tlint", "-Wwarning", PAGES[page]], capture_output=True,
                            text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "")


def test_a_section_that_a_template_leaves_out(tmp_path):
    template = tmp_path / "page.in"
    template.write_text("@OPTIONS role@\n")
    result = subprocess.run([ROOT / "scripts" / "make_man", template, tmp_path / "page", "1",
                             BUILD / "dist" / "print_tables"], capture_output=True, text=True)
    assert result.returncode == 1 and "services.NAME" in result.stderr


# --- completion ---------------------------------------------------------------------------------


def complete(directory, *words):
    """The completions that bash offers for the last of these words."""
    script = ('source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rathole_uring; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    return sorted(output("bash", "-c", script, COMPLETION, "rathole-uring", *words,
                         cwd=directory).split())


def test_completion_of_arguments(tmp_path):
    assert complete(tmp_path, "-") == sorted(flags(""))
    for word in ("server", "client", "init"):
        assert complete(tmp_path, word, "-") == sorted(flags(word))
        assert complete(tmp_path, word, "x", "-") == sorted(flags(word))
        assert complete(tmp_path, word[:2]) == [word]
    assert complete(tmp_path, "server", "--ports", "") == complete(tmp_path, "client", "") == []
    assert complete(tmp_path, "--ge") == ["--genkey"]
    assert complete(tmp_path, "--genkey", "") == ["x25519"]
    assert complete(tmp_path, "--version", "-") == []


def test_completion_of_files(tmp_path):
    for name in ("server.ini", "old.toml", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "more").mkdir()
    expected = ["more", "old.toml", "server.ini"]
    for words in ([""], ["-c", ""], ["--config", ""], ["--check", ""], ["--server", ""]):
        assert complete(tmp_path, *words) == expected, words
    assert complete(tmp_path, "se") == ["server", "server.ini"]
    assert complete(tmp_path, "init", "") == ["more"]
    for words in (["--from-frp", ""], ["server", "--token-file", ""]):
        assert complete(tmp_path, *words) == ["more", "notes.txt", "old.toml", "server.ini"]


# --- the unit -----------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path):
    path = tmp_path / "rathole-uring@.service"
    path.write_text(UNIT.read_text().replace("@BINDIR@", "/usr/bin"))
    return path


def test_unit_is_hardened(unit):
    """A72, as measured by systemd itself."""
    need("systemd-analyze")
    text = output("systemd-analyze", "security", "--no-pager", "--offline=yes", unit)
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", text)
    assert exposure and float(exposure.group(1)) <= EXPOSURE_MAX, text


def test_unit_is_understood(unit):
    """The unit has no directive that systemd does not know or would ignore."""
    need("systemd-analyze")
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True,
                            text=True, timeout=60)
    complaints = [line for line in result.stderr.splitlines() if str(unit) in line]
    assert complaints == []


def test_unit_that_is_not_understood(unit):
    """Shows that the check of test_unit_is_understood can fail."""
    need("systemd-analyze")
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True,
                            text=True, timeout=60)
    assert any(str(unit) in line for line in result.stderr.splitlines())


def unit_blocks():
    """[(document, the text of a drop-in or of a socket unit)], and the files that are installed."""
    documents = sorted((ROOT / "docs").glob("*.md"))
    found = [(document.name, text) for document in documents
             for text in re.findall(r"^```\w*\n(.*?)^```$", document.read_text(), re.S | re.M)
             if re.search(r"^\[(Service|Socket)\]", text, re.M)]
    return found + [(path.name, path.read_text()) for path in sorted(UNIT.parent.glob("*.conf"))]


def complaints_of(unit, text):
    """What systemd has to say of a drop-in of the unit, or of a socket unit beside it."""
    is_socket = "[Socket]" in text
    path = unit.parent / ("rathole-uring@server.socket" if is_socket
                          else "rathole-uring@.service.d/test.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", path if is_socket else unit],
                            capture_output=True, text=True, timeout=60)
    path.unlink()
    return [line for line in result.stderr.splitlines() if str(unit.parent) in line]


def test_drop_ins_and_sockets_are_understood(unit):
    """Those in dist/ and those in the documents; and one that is not is found."""
    need("systemd-analyze")
    found = unit_blocks()
    assert len(found) >= 4 and any("[Socket]" in text for _, text in found)
    for where, text in found:
        assert complaints_of(unit, text) == [], where
        directive = re.search(r"^(\w+)=", text, re.M).group(1)
        assert complaints_of(unit, text.replace(directive, directive + "s")), where


# --- installation -------------------------------------------------------------------------------

INSTALLED = """
bin/rathole-uring
lib/systemd/system/rathole-uring@.service
lib/sysusers.d/rathole-uring.conf
lib/tmpfiles.d/rathole-uring.conf
libexec/rathole-uring/rathole-uring-convert
libexec/rathole-uring/rathole_uring_convert/__init__.py
libexec/rathole-uring/rathole_uring_convert/document.py
libexec/rathole-uring/rathole_uring_convert/frp.py
libexec/rathole-uring/rathole_uring_convert/frp_legacy.py
libexec/rathole-uring/rathole_uring_convert/frp_notes.py
libexec/rathole-uring/rathole_uring_convert/frp_proxies.py
libexec/rathole-uring/rathole_uring_convert/keys.py
libexec/rathole-uring/rathole_uring_convert/main.py
libexec/rathole-uring/rathole_uring_convert/rathole.py
libexec/rathole-uring/rathole_uring_convert/sources.py
share/bash-completion/completions/rathole-uring
share/doc/rathole-uring/ARCHITECTURE.md
share/doc/rathole-uring/README.md
share/doc/rathole-uring/dist/grafana/rathole-uring.json
share/doc/rathole-uring/dist/kubernetes/README.md
share/doc/rathole-uring/dist/kubernetes/base/client/client.ini
share/doc/rathole-uring/dist/kubernetes/base/client/deployment.yaml
share/doc/rathole-uring/dist/kubernetes/base/client/kustomization.yaml
share/doc/rathole-uring/dist/kubernetes/base/client/networkpolicy.yaml
share/doc/rathole-uring/dist/kubernetes/base/client/poddisruptionbudget.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/deployment.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/kustomization.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/networkpolicy.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/poddisruptionbudget.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/server.ini
share/doc/rathole-uring/dist/kubernetes/base/server/service-control.yaml
share/doc/rathole-uring/dist/kubernetes/base/server/service-visitors.yaml
share/doc/rathole-uring/dist/kubernetes/components/client-sidecar/client.ini
share/doc/rathole-uring/dist/kubernetes/components/client-sidecar/kustomization.yaml
share/doc/rathole-uring/dist/kubernetes/components/client-sidecar/sidecar.yaml
share/doc/rathole-uring/dist/kubernetes/overlays/server-daemonset/daemonset.yaml
share/doc/rathole-uring/dist/kubernetes/overlays/server-daemonset/kustomization.yaml
share/doc/rathole-uring/dist/kubernetes/overlays/server-daemonset/server.ini
share/doc/rathole-uring/dist/kubernetes/overlays/sidecar-example/kustomization.yaml
share/doc/rathole-uring/dist/kubernetes/overlays/sidecar-example/web.yaml
share/doc/rathole-uring/dist/prometheus/rathole-uring.rules.yml
share/doc/rathole-uring/dist/seccomp/rathole-uring.json
share/doc/rathole-uring/dist/systemd/balanced.conf
share/doc/rathole-uring/docs/images/run.svg
share/doc/rathole-uring/docs/images/status.svg
share/doc/rathole-uring/docs/moving.md
share/doc/rathole-uring/docs/one-line.md
share/doc/rathole-uring/docs/operations.md
share/doc/rathole-uring/docs/options.md
share/doc/rathole-uring/docs/protocol.md
share/doc/rathole-uring/docs/robustness.md
share/doc/rathole-uring/docs/scale.md
share/doc/rathole-uring/docs/status-dark.png
share/doc/rathole-uring/docs/status-light.png
share/doc/rathole-uring/docs/status.md
share/doc/rathole-uring/docs/transports.md
share/doc/rathole-uring/docs/troubleshooting.md
share/doc/rathole-uring/docs/tuning.md
share/doc/rathole-uring/examples/access-server.ini
share/doc/rathole-uring/examples/balance-server.ini
share/doc/rathole-uring/examples/bandwidth.ini
share/doc/rathole-uring/examples/client.ini
share/doc/rathole-uring/examples/minimal_client.py
share/doc/rathole-uring/examples/names-server.ini
share/doc/rathole-uring/examples/proxy-client.ini
share/doc/rathole-uring/examples/proxy-server.ini
share/doc/rathole-uring/examples/range-client.ini
share/doc/rathole-uring/examples/range-server.ini
share/doc/rathole-uring/examples/rathole-client.toml
share/doc/rathole-uring/examples/rathole-server.toml
share/doc/rathole-uring/examples/server.ini
share/doc/rathole-uring/examples/servers-client.ini
share/doc/rathole-uring/examples/unix-client.ini
share/doc/rathole-uring/examples/unix-server.ini
share/fish/vendor_completions.d/rathole-uring.fish
share/man/man1/rathole-uring.1
share/man/man5/rathole-uring.ini.5
share/zsh/site-functions/_rathole-uring
""".split()


def test_install(tmp_path):
    """Installs every file and no other; the unit names the installed path of the program."""
    need("meson")
    output("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path)
    found = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    prefix = tmp_path / "usr" / "local"
    assert [path.relative_to(prefix).as_posix() for path in found] == INSTALLED
    text = (prefix / "lib/systemd/system/rathole-uring@.service").read_text()
    assert "ExecStart=/usr/local/bin/rathole-uring /etc/rathole-uring/%i.ini\n" in text
    assert "@" not in text.replace("rathole-uring@", "").replace("@system-service", "").replace(
        "~@privileged @resources @keyring @memlock", "")
    mode = (prefix / "bin/rathole-uring").stat().st_mode
    assert mode & 0o777 == 0o755


def test_changelogs_have_the_version_of_the_program():
    """meson.build has the version. The changelogs are written by hand and must not fall behind."""
    version = output(PROGRAM, "--version").split()[1]
    assert re.match(r"rathole-uring \((.+)\) ", (ROOT / "debian" / "changelog").read_text())[1] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


def test_container_file_names_what_there_is():
    text = (ROOT / "dist" / "container" / "Containerfile").read_text()
    scripts = re.findall(r"scripts/[\w-]+", text)
    assert scripts
    for name in scripts:
        assert os.access(ROOT / name, os.X_OK), name
        built = re.search(r"COPY --from=build /source/(\S+)", text).group(1)
        assert built in (ROOT / name).read_text(), built


def links(path):
    """The paths in this tree that a document refers to."""
    return [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
            if "://" not in link]


def test_documents_refer_to_what_there_is():
    documents = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [(document, link) for document in documents for link in links(document)]
    assert len(found) > 5
    for document, link in found:
        assert (document.parent / link).exists(), f"{document.name}: {link}"


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.S | re.M)


def test_examples_in_documents_are_valid(tmp_path):
    """Each whole configuration in the documents passes --check."""
    key = re.search(r"Private Key:\n(\S+)", output(PROGRAM, "--genkey")).group(1)
    whole = [block for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
             for block in blocks(document, "ini") if re.search(r"^(bind|remote)_addr", block, re.M)]
    assert len(whole) >= 4
    for number, block in enumerate(whole):
        # Replace secrets from files or the environment, and keys that a reader has to fill in.
        text = re.sub(r"= (file:|env:)\S+(_key|\.key)\S*", f"= {key}", block)
        text = re.sub(r"= (file:|env:)\S+", "= a-secret", text)
        text = re.sub(r"= <[^>]*>", f"= {key}", text)
        path = tmp_path / f"{number}.ini"
        path.write_text(text)
        result = subprocess.run([PROGRAM, "--check", path], capture_output=True, text=True)
        assert result.returncode == 0, f"{block}\n{result.stderr}"
