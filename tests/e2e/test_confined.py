"""`sandbox`: which threads are in it, what a reload and an upgrade may still do, and a kernel that lacks
parts of it. What it forbids is shown in tests/app/test_sandbox.c."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import urllib.request

import pytest

from harness import BINARIES, OURS, TOKEN, free_port, wait_until, within
from limits import Limits
from services import Echo, answers, ping
from upgrades import upgrade


LANDLOCK_CREATE_RULESET, PR_SET_SECCOMP = 444, 22  # the same number on every machine
PRCTL = {"x86_64": 157, "aarch64": 167}.get(os.uname().machine)

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif("this build has no other" in subprocess.run(
        [BINARIES[OURS], "--version"], capture_output=True, text=True).stdout,
        reason="a build without the sandbox"),
]
LIMITS = Limits(watch_look=0.05, watch_again=0.03, watch_doubt=0.5, retry_min=0.1, upgrade_hold=1)
has_landlock = pytest.mark.skipif("Landlock (version" not in subprocess.run(
    [BINARIES[OURS], "--version"], capture_output=True, text=True).stdout, reason="no Landlock here")


def threads(process):
    """{name: the facts of /proc/PID/task/TID/status}"""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found[facts["Name"]] = facts
    return found


@pytest.fixture
def make(tunnel, processes):
    def make(services, **kwargs):
        t = tunnel(services, start=False, limits=LIMITS, **kwargs)
        t.kept = processes
        return t

    return make


@pytest.mark.parametrize("mode", ["on", "off"])
def test_which_threads(make, service, mode):
    """The main thread and the resolver may look names up, so they have no list of calls."""
    t = make({"echo": service(Echo).port}, server_options={"sandbox": mode},
             client_options={"sandbox": mode}, local_host="localhost")
    status = {"server": free_port(), "client": free_port()}
    plain = t.config
    t.config = lambda role: plain(role) + f'\n[status]\nbind_addr = "127.0.0.1:{status[role]}"\n'
    t.start()
    ping(t.port())
    for role, process in (("server", t.server), ("client", t.client)):
        found = threads(process)
        confined = {name for name, facts in found.items() if facts["Seccomp"] == "2"}
        assert all(facts["NoNewPrivs"] == "1" for facts in found.values())
        assert confined == ({"worker 0", "worker 1", "status"} if mode == "on" else set())
        assert role == "server" or "resolver" in found
        said = f"sandbox: {mode}, no_new_privs: on"
        said += ", seccomp: on" if mode == "on" else ", seccomp: off, landlock: off, landlock_main: off"
        assert said in process.log()
        with urllib.request.urlopen(f"http://127.0.0.1:{status[role]}/status") as answer:
            facts = json.load(answer)["program"]["sandbox"]
        assert facts["on"] == facts["seccomp"] == (mode == "on") and facts["no_new_privs"]
        assert facts["refused_total"] == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{status[role]}/metrics") as answer:
            text = answer.read().decode()
        assert f'sandbox{{part="seccomp"}} {int(mode == "on")}\n' in text
        assert "sandbox_refused_calls_total 0\n" in text


@has_landlock
def test_upgrades_add_no_layers(make, service, place):
    """There may be 16 layers of Landlock: a chain of upgrades must not use them up. A worker adds its own
    each time, so it could not after 16."""
    t = make({"echo": service(Echo).port}, threads=1).start()
    first = t.server
    for _ in range(20):
        old, new = upgrade(t)
        assert old.wait(within(10)) == 0
    t.wait_ready(20)  # the client has seen none of them for long enough to log in
    ping(t.port())
    said = [line for line in first.log().splitlines() if "sandbox: " in line]
    assert len(said) == 21, said
    assert all("landlock: on, landlock_main: on" in line for line in said), said
    # What the first one has given up stays given up.
    secret = place("elsewhere")
    (secret / "token").write_text(TOKEN)
    (secret / "token").chmod(0o600)
    t.token = f"file:{secret}/token"
    since = len(new.log())
    t.rewrite()
    new.wait_log(r"reload: nothing is changed: .*restart it", within(10), since)


@pytest.fixture
def place(tmp_path_factory):
    """place(name) -> a directory that is not below the configuration's, nor the one above it."""
    def place(name):
        directory = tmp_path_factory.mktemp(name) / name
        directory.mkdir()
        return directory

    return place


@has_landlock
@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGUSR2])
def test_a_directory_that_is_replaced(make, service, place, sent):
    """A rule of Landlock follows the directory, and not its name: the one above it is allowed as well."""
    t = make({"echo": service(Echo).port})
    release = place("release")
    (release / "conf").mkdir()
    (release / "conf" / "token").write_text(TOKEN)
    (release / "conf" / "token").chmod(0o600)
    t.token = f"file:{release}/conf/token"
    t.start()
    (release / "new").mkdir()
    (release / "new" / "token").write_text(TOKEN)
    (release / "new" / "token").chmod(0o600)
    os.rename(release / "conf", release / "old")
    os.rename(release / "new", release / "conf")
    if sent == signal.SIGHUP:
        t.server.signal(sent)
        t.server.wait_log(r"reload: nothing has changed", within(10))
    else:
        old, _ = upgrade(t)
        assert old.wait(within(15)) == 0
    wait_until(lambda: answers(t.port()), within(15), "the service")


@has_landlock
def test_a_reload_with_another_directory(make, service, place):
    """A clear error, and all else stays; a restart then takes it. A new file in a known directory is fine."""
    here, there = place("here"), place("there")
    for path in (here / "token", there / "token"):
        path.write_text(TOKEN)
        path.chmod(0o600)
    t = make({"echo": service(Echo).port})
    first, t.token = t.token, f"file:{here}/token"
    t.start()
    (here / "next").write_text(TOKEN)
    t.token = f"file:{here}/next"
    t.rewrite()
    t.server.wait_log(r"reload: nothing has changed", within(10))
    t.token = f"file:{there}/token"
    t.rewrite()
    t.server.wait_log(r"reload: nothing is changed: .*/there/token.*the sandbox.*: restart it", within(10))
    ping(t.port())
    assert "ERROR" not in t.server.log().replace("ERROR reload: nothing is changed", "")
    # An upgrade is no restart: the next process would inherit all of this.
    since = len(t.server.log())
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log(r"/there/token.*restart it", within(15), since)
    t.server.wait_log(r"this process goes on serving", within(15), since)
    ping(t.port())
    t.server.signal(signal.SIGTERM)
    assert t.server.wait(within(10)) == 0
    t.start_server()
    t.wait_ready(20)
    assert first  # the same secret all the time


@has_landlock
def test_a_socket_in_another_directory(make, service, place):
    here, there = place("sockets"), place("others")
    t = make({"one": service(Echo).port}, service_options={"one": {"bind_addr": f"unix:{here}/one"}})
    t.start_server()
    t.start_client()
    wait_until((here / "one").exists, within(10), "the socket")
    t.service_options["one"]["bind_addr"] = f"unix:{here}/two"
    t.rewrite()
    wait_until((here / "two").exists, within(10), "the socket beside it")
    wait_until(lambda: not (here / "one").exists(), within(10), "the end of the first")
    t.service_options["one"]["bind_addr"] = f"unix:{there}/three"
    t.rewrite()
    t.server.wait_log(r"others/three.*the sandbox.*: restart it", within(10))
    assert (here / "two").is_socket()


PARTS = {
    "no landlock": ((LANDLOCK_CREATE_RULESET,), errno.ENOSYS,
                    "seccomp: on, landlock: [a-z ]+, landlock_main: [a-z ]+$"),
    "no seccomp": (((PRCTL, 0, PR_SET_SECCOMP),), errno.EPERM, "seccomp: operation not permitted, "),
    "nothing": (((PRCTL, 0, PR_SET_SECCOMP), LANDLOCK_CREATE_RULESET), errno.EPERM,
                "seccomp: operation not permitted, landlock: operation not permitted, "
                "landlock_main: operation not permitted$"),
}


@pytest.mark.parametrize("missing", PARTS)
def test_the_rest_is_used(make, service, missing):
    *forbidden, said = PARTS[missing]
    t = make({"echo": service(Echo).port}).start(forbidden=forbidden)
    for process in (t.server, t.client):
        process.wait_log(r"WARN  sandbox: on, no_new_privs: on, " + said.rstrip("$"), within(5))
    ping(t.port())
