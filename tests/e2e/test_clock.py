"""A27: the time of day jumps by an hour, forwards and back (clock_shim.c; the machine's own clock is not
touched). Only what is a date may follow: lines of the log, certificates. Nothing else may notice."""

import datetime
import mmap
import re
import struct
import time

import pytest

import harness
import noise_peer
from capabilities import needs_tls
from harness import BINARIES, OURS, SANITIZED, within
from limits import Limits
from services import Echo, Prober, ping
from tls_peer import Tls

SHIM = BINARIES[OURS].parent / "tests" / "e2e" / "libclock_shim.so"
HOUR_NS = 3600 * 10**9
LIMITS = Limits(second=0.25, silent=6, ask=2, sweep=0.2, watch_look=0.05, watch_again=0.02)
STAY_S = 60 if harness.FULL else 0.5

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(SANITIZED or not SHIM.exists(),
                       reason="no clock_shim in this build, or a sanitizer that wants to be loaded first"),
]


class Clock:
    """The time of day of the programs that are started with `env`."""

    def __init__(self, directory):
        path = directory / "clock"
        path.write_bytes(bytes(8))
        self.file = open(path, "r+b")
        self.shift_ns = mmap.mmap(self.file.fileno(), 8)
        self.env = {"LD_PRELOAD": str(SHIM), "CLOCK_SHIM": str(path)}

    def jump(self, shift_ns):
        self.shift_ns[:] = struct.pack("q", shift_ns)


def stamps(process, since):
    """The times of the log's lines from there on, in seconds since 1970."""
    text = process.log().encode()[since:].decode()
    return [datetime.datetime.fromisoformat(f"{stamp}+00:00").timestamp()
            for stamp in re.findall(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z ", text, re.M)]


@pytest.mark.parametrize("transport", [
    None, noise_peer.Noise("NK"), pytest.param(Tls(), marks=needs_tls)], ids=["tcp", "noise", "tls"])
def test_clock_jumps(tunnel, service, tmp_path, transport):
    local = service(Echo)
    clock = Clock(tmp_path)
    t = tunnel({"echo": local.port}, start=False, transport=transport, limits=LIMITS,
               server_options={"heartbeat_interval": 2}, client_options={"heartbeat_timeout": 4},
               service_options={"echo": {"idle_timeout": 30}})
    t.start(env=clock.env)
    ends = t.server, t.client
    with Prober(t.port()) as prober:
        for number, shift_ns in enumerate((HOUR_NS, 0, -HOUR_NS, 0)):
            cpu = sum(process.cpu_seconds() for process in ends)
            asked = prober.count
            begun = time.time()
            clock.jump(shift_ns)
            since = t.server.log_size()
            time.sleep(STAY_S)
            ping(t.port())
            # A storm of timers would keep a core busy; answers cost some CPU.
            used = sum(process.cpu_seconds() for process in ends) - cpu
            assert used < within(0.3 * STAY_S + 0.001 * (prober.count - asked)), f"{used} s of CPU"
            # A reload is noticed: the watch goes by the file's own times.
            t.server_options["half_close_timeout"] = 20 + number
            (t.workdir / "server.ini").write_text(t.config("server"))
            t.server.wait_log(r"reload: .*took", within(5), since)
            shown = stamps(t.server, since)
            assert shown, "no line"
            first, last = (moment + shift_ns / 1e9 for moment in (begun, time.time()))
            assert all(first - 60 < stamp < last + 60 for stamp in shown), (first, shown, last)
    for process in ends:
        assert process.log().count("control channel established") == 1, "a session was lost"
        metrics = process.metrics()
        if harness.FULL:  # which has the machine for itself: a busy one is absent now and then
            assert sum(worker.get("absences", 0) for worker in metrics) == 0
        assert sum(worker.get("relays_silent", 0) for worker in metrics) == 0


@needs_tls
def test_a_certificate_that_is_not_valid_yet(tunnel, service, tmp_path):
    """Certificates go by the time of day: years away from it no login succeeds and the log says why; back
    in time, one does. A session that is up is not touched."""
    clock = Clock(tmp_path)
    t = tunnel({"echo": service(Echo).port}, start=False, transport=Tls(), limits=LIMITS)
    t.start(env=clock.env)
    with Prober(t.port()):
        clock.jump(-20 * 365 * 24 * HOUR_NS)
        time.sleep(0.5)
    since = t.client.log_size()
    t.kill_server()
    t.start_server(env=clock.env)
    t.client.wait_log("valid from .* on: is this machine.s clock right", within(10), since)
    clock.jump(0)
    t.wait_ready()
    ping(t.port())
