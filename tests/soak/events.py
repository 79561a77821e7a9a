"""What happens to the tunnels of the soak, and what each event may cost whom.

An event is a function of a Stage. It says what it may break by permits, waits until all is as before, and
complains if that took longer than documented. What is not permitted is an unplanned error, so most events
permit nothing: a reload, a renewed certificate, strangers, a short stop of a process.
"""

import contextlib
import random
import threading
import time

import tunnels
from harness import wait_until, within
from judge import Permit
from traffic import PATIENCE_S
from tunnels import BACK_S, DRAIN_S, EXTRA_PORT, HEARTBEAT_TIMEOUT_S

SILENT_S = 65  # a connection over a cut path is reset within 60 s (docs/operations.md)
RELOAD_S = 5   # a changed file holds within a second, and a new service logs in within three


class Interrupted(Exception):
    """Somebody wants the soak to end."""


class Stage:
    """The groups, a random generator, and where events and complaints are written."""

    def __init__(self, groups, seed, is_short, note, until):
        self.groups = {group.name: group for group in groups}
        self.random = random.Random(seed)
        self.is_short = is_short
        self.note = note        # note(kind, **what): a line of the record
        self.until = until      # monotonic time
        self.permits, self.complaints = [], []
        self.stalls = []        # permits, for when the machine had no core or no memory for the load
        self.drops = 0          # seconds in which the kernel dropped packets
        self.interrupted = threading.Event()

    def permit(self, pairs, what="any", late_s=5):
        permit = Permit(frozenset(pair.name for pair in pairs), what, time.monotonic(), None, late_s)
        self.permits.append(permit)
        return permit

    def permit_upgrade(self, pair):
        """Datagrams on their way; connections that outlast the old process. Returns both."""
        cut = self.permit([pair], "cut")
        cut.after_s = DRAIN_S
        return self.permit([pair], "udp"), cut

    def complain(self, pair, what):
        self.complaints.append({"at": time.monotonic(), "pair": pair.name, "what": what})
        self.note("complaint", pair=pair.name, what=what)

    def stalled(self, group, begin, end):
        """The traffic of a group has noticed that it did not run."""
        permit = Permit(frozenset(pair.name for pair in group.pairs), "stall", begin, end)
        self.stalls.append(permit)
        self.permits.append(permit)

    def machine_is_out(self, pairs):
        """The kernel has no memory for TCP sockets, of all namespaces and programs together, and resets
        connections. Called every second while that is so."""
        now = time.monotonic()
        last = self.stalls[-1] if self.stalls else None
        if last and last.what == "any" and now - last.end < 10:
            last.end = now + 1
            return
        names = frozenset(pair.name for pair in pairs)
        permit = Permit(names, "any", now - 3, now + 1, late_s=PATIENCE_S + 5)
        self.stalls.append(permit)
        self.permits.append(permit)

    def machine_dropped_packets(self, pairs, begin, end):
        """The kernel had no room for packets of any namespace in a queue: datagrams may be lost."""
        permit = Permit(frozenset(pair.name for pair in pairs), "udp", begin, end)
        self.drops += 1
        self.permits.append(permit)

    def expect(self, pair, condition, seconds, what):
        """Waits, and complains if it is not so within that time, unless the machine stood still."""
        begun = time.monotonic()
        while True:
            try:
                wait_until(condition, within(seconds), what)
                return True
            except AssertionError as error:
                is_stall = any(stall.end >= begun for stall in self.stalls[-20:])
                if not is_stall or time.monotonic() - begun > 10 * within(seconds) + 60:
                    self.complain(pair, str(error))
                    return False
                self.note("stall", pair=pair.name, what=what)

    def pause(self, seconds):
        """Interruptible; not beyond the end."""
        self.interrupted.wait(max(0, min(seconds, self.until - time.monotonic())))
        if self.interrupted.is_set():
            raise Interrupted

    def pair(self, group):
        return self.random.choice(self.groups[group].pairs)

    def role(self):
        return self.random.choice(tunnels.ROLES)


# --- reloads: nothing that is open or comes meanwhile may fail ---------------------------------


def _write(pair, roles=tunnels.ROLES):
    for role in roles:
        pair.write(role)


def _applied(pair, role, result="applied"):
    return pair.metric(role, "reloads_total", f'"{result}"')


def add_service(stage, group):
    pair = stage.pair(group)
    if pair.has_extra:
        return remove_service(stage, group, pair)
    pair.has_extra = True
    _write(pair)
    stage.expect(pair, lambda: pair.answers(EXTRA_PORT), RELOAD_S, "an answer of the added service")
    return {"pair": pair.name}


def remove_service(stage, group, pair=None):
    pair = pair or stage.pair(group)
    if not pair.has_extra:
        return add_service(stage, group)
    pair.has_extra = False
    _write(pair)
    stage.expect(pair, lambda: pair.refuses(EXTRA_PORT), RELOAD_S, "the removed service's port is closed")
    return {"pair": pair.name}


def change_limits(stage, group):
    pair = stage.pair(group)
    before = {role: _applied(pair, role) for role in tunnels.ROLES}
    pair.changes += 1
    _write(pair)
    for role in tunnels.ROLES:
        stage.expect(pair, lambda: _applied(pair, role) > before[role], RELOAD_S, f"the {role}'s reload")
    return {"pair": pair.name}


def change_address(stage, group):
    """The tunnel leads to another local service, which does the same."""
    pair = stage.pair(group)
    before = _applied(pair, "client")
    pair.local = (pair.local + 1) % len(pair.group.pairs)
    _write(pair, ["client"])
    stage.expect(pair, lambda: _applied(pair, "client") > before, RELOAD_S, "the client's reload")
    return {"pair": pair.name}


def break_file(stage, group):
    """A file with an error changes nothing; it is refused once it is two seconds old."""
    pair, role = stage.pair(group), stage.role()
    before = _applied(pair, role, "refused")
    pair.write(role, pair.text(role) + "\n[nonsense\n")
    stage.expect(pair, lambda: _applied(pair, role, "refused") > before, RELOAD_S,
                 "the refusal of a bad file")
    pair.write(role)
    return {"pair": pair.name, "role": role}


def renew_certificate(stage, group):
    pair = next(pair for pair in stage.groups[group].pairs if pair.transport_name == "tls")
    pair.transport.renew()
    pair.server.signal(1)  # SIGHUP
    serial = pair.transport.current.serial

    def is_shown():
        with contextlib.suppress(OSError):
            return pair.shown_serial() == serial

    stage.expect(pair, is_shown, RELOAD_S, "the renewed certificate")
    return {"pair": pair.name}


# --- processes ---------------------------------------------------------------------------------


def upgrade(stage, group):
    pair, role = stage.pair(group), stage.role()
    permits = stage.permit_upgrade(pair)
    took = pair.upgrade(role)
    stage.expect(pair, lambda: pair.is_up(role), 10, f"all services at the new {role}")
    for permit in permits:
        permit.end = time.monotonic() + 1
    return {"pair": pair.name, "role": role, "took_s": round(took, 2)}


def _restart(stage, pair, role, permit):
    begun = time.monotonic()
    pair.start(role)
    is_back = stage.expect(pair, lambda: pair.is_up("client"), BACK_S,
                           f"all services, after the {role}'s start")
    if not is_back:  # that is a complaint, but the soak goes on
        stage.expect(pair, lambda: pair.is_up("client"), 60, f"all services, after the {role}'s start")
    took = time.monotonic() - begun
    permit.end = time.monotonic() + 0.5
    return {"pair": pair.name, "role": role, "back_s": round(took, 2)}


def kill(stage, group):
    pair, role = stage.pair(group), stage.role()
    permit = stage.permit([pair])
    getattr(pair, role).kill9()
    return _restart(stage, pair, role, permit)


def terminate(stage, group):
    """Open connections have drain_timeout to finish; then a new process is started, as systemd does."""
    pair, role = stage.pair(group), stage.role()
    permit = stage.permit([pair])
    process = getattr(pair, role)
    process.expected_death = True
    process.signal(15)
    try:
        code = process.wait(within(DRAIN_S + 5))
        if code:
            stage.complain(pair, f"the {role} ended with {code} after SIGTERM")
    except AssertionError:
        stage.complain(pair, f"the {role} does not end after SIGTERM")
        process.kill9()
    process.log_file.close()
    return _restart(stage, pair, role, permit)


def stop_process(stage, group):
    """SIGSTOP, and SIGCONT later. A short stop delays everything and breaks nothing."""
    pair, role = stage.pair(group), stage.role()
    seconds = stage.random.choice((1, 3) if stage.is_short else (1, 3, 3, 8, 25))
    is_brief = seconds <= 3
    permit = stage.permit([pair], "udp" if is_brief else "any", late_s=5 if is_brief else SILENT_S)
    process = getattr(pair, role)
    pair.stopped.add(role)
    process.signal(19)
    try:
        stage.pause(seconds)
    finally:
        process.signal(18)
        pair.stopped.discard(role)
    since = time.monotonic()
    stage.expect(pair, lambda: pair.is_up("client"), HEARTBEAT_TIMEOUT_S + BACK_S,
                 "all services, after SIGCONT")
    stage.expect(pair, pair.answers, BACK_S, "an answer, after SIGCONT")
    permit.end = time.monotonic() + 1
    return {"pair": pair.name, "role": role, "seconds": seconds,
            "back_s": round(time.monotonic() - since, 2)}


def partition(stage, group):
    """The kernel's retransmissions are as far apart as the cut was long, at most; then a session is back."""
    group = stage.groups[group]
    seconds = stage.random.choice((2, 6) if stage.is_short else (2, 8, 20, 45, 75))
    direction = stage.random.choice(("both ways", "to server", "to client"))
    permit = stage.permit(group.pairs, late_s=SILENT_S)
    group.cut(direction)
    try:
        stage.pause(seconds)
    finally:
        group.heal()
    healed = time.monotonic()
    bound = 6 + min(seconds, 30)
    for pair in group.pairs:
        stage.expect(pair, lambda: pair.is_up("client") and pair.answers(),
                     max(1, healed + bound - time.monotonic()), f"an answer, {bound} s after the healing")
    # Connections from before and datagrams may still wait for a retransmission.
    back = time.monotonic()
    permit.end = healed + within(bound)
    return {"direction": direction, "seconds": seconds, "back_s": round(back - healed, 2)}


def strangers(stage, group):
    """At a control port; nobody else may notice."""
    pair = stage.pair(group)
    seconds, rate = (5, 60) if stage.is_short else (20, 100)
    load = pair.group.strangers(pair, rate, seconds, stage.random.randrange(1 << 30))
    until = time.monotonic() + seconds + 15  # the last ones stay for 12 s
    try:
        while load.process.alive() and time.monotonic() < until:
            stage.pause(0.2)
            stage.expect(pair, pair.answers, BACK_S, "an answer, while strangers come")
    finally:
        load.process.expected_death = True
        load.stop(1)  # on a busy machine some of them are still on their way
    return {"pair": pair.name, "rate": rate, "seconds": seconds}


RELOADS = (add_service, remove_service, change_limits, change_address, break_file, renew_certificate)
# What may happen to a group, and how often beside the others.
WHAT = {
    "reloads": {**dict.fromkeys(RELOADS, 1), strangers: 1},
    "upgrades": {**dict.fromkeys(RELOADS, 0.5), upgrade: 5, strangers: 0.5},
    "faults": {**dict.fromkeys(RELOADS, 0.3), upgrade: 1, kill: 2.5, terminate: 1.5, stop_process: 1.5,
               partition: 2, strangers: 0.5},
}


def choose(stage):
    """(event, group). In a short run each kind has its turn, as far as the time goes."""
    group = stage.random.choices(("reloads", "upgrades", "faults"), (3, 3, 5))[0]
    kinds = WHAT[group]
    return stage.random.choices(list(kinds), list(kinds.values()))[0], group
