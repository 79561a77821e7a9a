"""The files of tests/config/files, in the style of people and of generators: --check reports what a
start reports, and our program has to read what rathole reads.

tests/config/test_published.c has the settings that each file results in.
"""

import pathlib
import re
import subprocess

import pytest

import harness
import ledger
from harness import BINARIES, OURS, RATHOLE, ROOT, Process, have, wait_until, within
from services import Echo, ping

pytestmark = pytest.mark.ours

FILES = sorted((ROOT / "tests" / "config" / "files").iterdir())

# Files that rathole refuses: neither program reads them, or only ours does.
RATHOLE_REFUSES = {
    "glued_comments.ini", "inline_lines.toml", "inline_trailing_comma.toml", "inline_unknown.toml",
    "multiline_open.toml", "no_token.toml", "numbers_bad.toml", "quoted_bool.toml",
    "tls_no_pkcs12.toml", "tls_no_table.toml", "tls_no_table_other_half.toml",
    "twice_braces.toml", "twice_dots_and_section.toml", "twice_sections.toml", "unknown_keys.toml",
    "utf16.toml", "utf16_no_mark.toml",
}
# Files that rathole reads and our program refuses on purpose: docs/moving.md has the reasons.
REFUSED_ON_PURPOSE = {
    ("empty_default_token_used.toml", "server"),  # anybody could log in
    ("env_token.toml", "server"),  # the name of a variable, which is not set
    ("ipv6_no_port.toml", "client"),  # rathole tries for ever
    ("other_half_env.toml", "client"),
    ("other_half_tls.toml", "client"),  # like the others with TLS: its files are not here
    ("pattern_ik.toml", "server"),
    ("tls_client.toml", "client"),
    ("tls_server.toml", "server"),
    ("websocket_tls.toml", "client"),
    ("websocket_tls.toml", "server"),
}


def halves_of(path):
    """The roles that a file has. Files of another program or in another encoding have none."""
    text = path.read_bytes().decode("utf-8", "replace").lstrip("\ufeff")
    return [role for role in ("server", "client")
            if re.search(rf'^\s*(\[\s*)?"?{role}"?\s*[].={{]', text, re.M)]


def starts_of(path):
    """The arguments to start the file with: no role, and each role that it has."""
    halves = halves_of(path)
    return [[]] + [[f"--{role}"] for role in halves]


def check(path, flags):
    """(exit code, [message])."""
    result = subprocess.run([BINARIES[OURS], "--check", *flags, path], capture_output=True,
                            text=True, timeout=within(10), cwd="/", stdin=subprocess.DEVNULL)
    lines = result.stderr.splitlines()
    # Only --check says these: `user` is not set, and which half is valid.
    own = re.compile(r"\.user: not given|: valid for --")
    return result.returncode, [line for line in lines if not own.search(line)]


def start(path, flags, workdir, keep):
    """(exit code, or None if the file is good enough to run, [message])."""
    process = keep(Process([BINARIES[OURS], *flags, path], workdir / "log"), "start")
    wait_until(lambda: not process.alive() or " INFO  rathole-uring " in process.log(), within(10),
               "neither running nor refused")
    code = None if process.alive() else process.popen.returncode
    log = process.log()
    process.kill9() if code is None else None
    assert process.verdict() is None
    messages = []
    for line in log.splitlines():
        warning = re.match(r"\S+ WARN  (.*)", line)
        if warning and str(path) in line:
            messages.append(f"warning: {warning.group(1)}")
        elif str(path) in line and not re.match(r"\S+ [A-Z]+ ", line):
            messages.append(line)
    # A port in use is no error of the file, so warnings alone do not count.
    is_refused = any(not message.startswith("warning: ") for message in messages)
    return code if is_refused or code == 2 else None, messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_check_says_what_the_start_says(path, tmp_path, processes):
    for number, flags in enumerate(starts_of(path)):
        workdir = tmp_path / str(number)
        workdir.mkdir()
        checked, said = check(path, flags)
        started, shown = start(path, flags, workdir, processes)
        if started == 2:  # both halves are good, and nothing says which one
            assert not flags and len(halves_of(path)) == 2
            # --check looks into the files of both transports, the start into those that it needs.
            errors = [line for line in said if not line.startswith("warning: ")]
            assert (checked != 0) == bool(errors)
            assert all(re.match(r"\S+ (server|client)\.transport\.", line) for line in errors)
            continue
        assert said == shown, flags
        assert (checked == 0) == (started is None), (flags, said)
        assert checked in (0, 1)
        # Every error names its file. A file of another program gets a single error.
        errors = [line for line in said if not line.startswith("warning: ")]
        assert (checked != 0) == bool(errors)
        if path.name.startswith("frp"):
            assert len(errors) == 1 and re.search("frp.*docs/moving.md", errors[0])


def test_check_names_the_half_that_would_do():
    path = ROOT / "tests" / "config" / "files" / "other_half_tls.toml"
    result = subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, text=True,
                            timeout=within(10), cwd="/")
    assert result.returncode == 1
    assert f"{path}: valid for --server alone" in result.stderr
    assert "--client alone" not in result.stderr
    assert check(path, ["--server"])[0] == 0
    assert check(path, ["--client"])[0] == 1
    # -c means client where a file has both.
    assert check(path, ["-c"])[0] == 1


def test_check_of_a_role_that_the_file_has_not():
    path = ROOT / "tests" / "config" / "files" / "bom_crlf.toml"
    code, said = check(path, ["--client"])
    assert code == 1 and "no [client] section" in said[-1]


@pytest.mark.skipif(not have(RATHOLE), reason="no rathole here")
@pytest.mark.parametrize("path", [path for path in FILES if halves_of(path)],
                         ids=lambda path: path.name)
def test_what_rathole_takes_is_taken(path, tmp_path, processes):
    for role in halves_of(path):
        process = processes(Process([BINARIES[RATHOLE], f"--{role}", path], tmp_path / role), role)
        wait_until(lambda: not process.alive() or "Start watching the config" in process.log(),
                   within(10), "neither running nor refused")
        is_taken = "Configuration is invalid" not in process.log()
        assert is_taken == (path.name not in RATHOLE_REFUSES), process.log()
        process.kill9() if process.alive() else None
        is_ours = check(path, [f"--{role}"])[0] == 0
        if is_taken:
            assert is_ours == ((path.name, role) not in REFUSED_ON_PURPOSE)


# --- secrets in files of other systems ------------------------------------------------------------


@pytest.mark.parametrize("form", ["mark", "white space"])
def test_a_token_in_a_file_of_another_editor(tunnel, service, form):
    """A byte order mark or a blank at the end would be a wrong token for ever."""
    t = tunnel({"echo": service(Echo).port}, start=False)
    secret = t.workdir / "token"
    secret.write_bytes(b"\xef\xbb\xbf" + t.token.encode() + b"\r\n" if form == "mark"
                       else t.token.encode() + b" \n\n")
    secret.chmod(0o600)
    t.client_options["default_token"] = f"file:{secret}"
    t.start()
    ping(t.port())
    assert ("white space at the end of the file is left out" in t.client.log()) == (form != "mark")
    assert t.token not in t.client.log()


def test_a_token_in_a_variable_with_a_line_end(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, start=False)
    t.client_options["default_token"] = "env:E2E_TOKEN"
    t.start_server()
    t.start_client(env={"E2E_TOKEN": t.token + "\r"})
    t.wait_ready()
    ping(t.port())
    assert "white space at the end of the variable is left out" in t.client.log()


def test_a_reload_looks_at_the_half_that_runs(tunnel, service):
    """An error in the half that does not run is only a warning, and the reload is applied."""
    t = tunnel({"echo": service(Echo).port})
    path = pathlib.Path(t.server.argv[-1])
    more = '\n[client]\nremote_addr = "127.0.0.1:1"\ndefault_token = "env:RU_NO_SUCH_TOKEN"\n'
    with path.open("a") as file:
        file.write(f'\n[server.services.late]\nbind_addr = "127.0.0.1:{harness.free_port()}"\n'
                   + more)
    t.server.wait_log("reload: services: 1 added", within(5))
    assert "RU_NO_SUCH_TOKEN" in t.server.log()
    assert "nothing is changed" not in t.server.log()
    ping(t.port())


def test_a_reload_reads_the_files_of_tls(tunnel, service):
    """Nothing is changed if a certificate can't be read."""
    t = tunnel({"echo": service(Echo).port})
    path = pathlib.Path(t.server.argv[-1])
    text = path.read_text()
    assert "[server.transport]" not in text
    path.write_text(text + '\n[server.transport]\ntype = "tls"\n[server.transport.tls]\n'
                    'pkcs12 = "/nonexistent/id.pfx"\npkcs12_password = "x"\n')
    t.server.wait_log(r"reload: nothing is changed: \S+ server\.transport\.", within(5))
    ping(t.port())


# --- the same value out of every form -------------------------------------------------------------

FORMS = {
    "braces": """\
server = {{ bind_addr = "127.0.0.1:{control}", services = {{ echo = {{ bind_addr = "127.0.0.1:{port}", token = "a}},{{ \\u00e9 # b" }} }} }}
client = {{ remote_addr = "127.0.0.1:{control}", services = {{ echo = {{ local_addr = "127.0.0.1:{local}", token = 'a}},{{ é # b' }} }} }}
""",  # noqa: E501
    "dots": """\
server.bind_addr = "127.0.0.1:{control}"
"server".services."e.c\\"ho".bind_addr = '127.0.0.1:{port}'
server . services . 'e.c"ho' . token = "x"
[client]
remote_addr = "127.0.0.1:{control}"
services.'e.c"ho' = {{ local_addr = "127.0.0.1:{local}", token = 'x' }}
""",
    "long strings": """\
[server]
bind_addr = \"\"\"127.0.0.1:{control}\"\"\"
default_token = \"\"\"
  two lines, "" quotes \\
     \\ttab\\\\
  and more\"\"\"\"\"
[server.services.echo]
bind_addr = '''127.0.0.1:{port}'''
[client]
remote_addr = "127.0.0.1:{control}"
default_token = "  two lines, \\"\\" quotes \\ttab\\\\\\n  and more\\"\\""
[client.services.echo]
local_addr = "127.0.0.1:{local}"
""",
}
FORMS["long strings of another system"] = FORMS["long strings"].replace("\n", "\r\n")


@pytest.mark.skipif(not have(RATHOLE), reason="no rathole here")
@pytest.mark.parametrize("server, client", [(OURS, RATHOLE), (RATHOLE, OURS)])
@pytest.mark.parametrize("form", FORMS)
def test_both_read_the_same_value(service, tmp_path, processes, form, server, client):
    """Both programs read the same bytes: with rathole at one end, names and tokens must match."""
    path = tmp_path / "both.toml"
    port = harness.free_port()
    local = service(Echo).port
    ledger.current.note_route(port, local)
    text = FORMS[form].format(control=harness.free_port(), port=port, local=local)
    path.write_bytes(text.encode())
    for role, implementation in (("server", server), ("client", client)):
        processes(Process([BINARIES[implementation], f"--{role}", path], tmp_path / role), role)

    def answers():
        try:
            ping(port)
            return True
        except (OSError, AssertionError):
            return False

    wait_until(answers, within(10), "the two do not understand each other")
