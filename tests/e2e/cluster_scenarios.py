"""What happens to a cluster under load, and what its visitors may notice of it.

    result = play("kill_node", workdir, SMALL)
    assert not result.broken_claims()

Shared by test_cluster.py (SMALL) and bench/cluster (FULL).
"""

import dataclasses
import signal
import time

from cluster import ADDRESSES, CHECK_S, CLIENTS, CONNECT_TIMEOUT_S, NODES, RESOLVE_S, Cluster, Load
from harness import wait_until, within
from limits import Limits


@dataclasses.dataclass
class Size:
    rate: float          # visitors a second
    steady_s: float      # between two things that happen
    slack_s: float       # what a loaded machine may add to a bound of time
    limits: Limits


SMALL = Size(100, 1, 3, Limits(silent=3, ask=1, sweep=0.2, user_timeout=2))
FULL = Size(1000, 3, 0.5, Limits())

POOL_MAX = 256  # LIMIT_POOL_MAX of include/base/limits.h
DYING_S = 0.2  # the kernel releases a killed process's sockets only a moment later
SCENARIOS = {}


def scenario(title):
    def keep(function):
        SCENARIOS[function.__name__] = (title, function)
        return function
    return keep


class Result:
    def __init__(self, name):
        self.name, self.title = name, SCENARIOS[name][0]
        self.events = []  # (seconds since the first visitor, what happened)
        self.claims = []  # (what should hold, whether it does, what was seen)
        self.figures = {}

    def broken_claims(self):
        return [f"{text}: {seen}" for text, holds, seen in self.claims if not holds]

    def as_dict(self):
        return {"name": self.name, "title": self.title, "passed": not self.broken_claims(),
                "figures": self.figures,
                "events": [{"at_s": round(at, 3), "what": what} for at, what in self.events],
                "claims": [{"claim": text, "holds": holds, "seen": seen}
                           for text, holds, seen in self.claims]}


class Play:
    """One scenario while it runs: its cluster, its load and its result."""

    def __init__(self, result, cluster, size, tell):
        self.result, self.cluster, self.size, self.tell = result, cluster, size, tell
        self.load = Load(cluster, size.rate, patience=2 * size.limits.silent + 10)
        self.outcome = None
        self.steady()

    def event(self, what):
        """Notes what happens now; returns the time."""
        now = time.monotonic()
        self.result.events.append((now - self.load.begun_at, what))
        self.tell(self.result.name, what, self.load.progress())
        return now

    def sleep(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.25, max(0, end - time.monotonic())))
            self.tell(self.result.name, None, self.load.progress())

    def steady(self, times=1):
        self.sleep(times * self.size.steady_s)

    def took(self, what, since):
        """A time that the scenario shows, in seconds."""
        seconds = round(time.monotonic() - since, 2)
        self.result.figures.setdefault("times_s", {})[what] = seconds
        self.event(f"{what} after {seconds:g} s")
        return seconds

    def finish(self):
        self.steady()
        self.event("no more visitors")
        self.outcome = self.load.finish()
        self.result.figures.update(self.outcome.figures(), balancer_said=self.load.balancer_said())
        lines = self.outcome.complaints()
        self.claim("each request reached one local service, once, with its visitor's address", not lines,
                   f"{len(lines)} did not, {lines[:3]}" if lines else f"{len(self.outcome.visits)} visitors")
        return self.outcome

    def claim(self, text, holds, seen=""):
        self.result.claims.append((text, bool(holds), str(seen)))

    def claim_within(self, text, seconds, bound):
        self.claim(f"{text} within {bound:g} s", seconds <= within(bound + self.size.slack_s),
                   f"{seconds:g} s")

    def claim_failed(self, text, may=lambda visit: False):
        """may: whether this visitor may have failed."""
        failed = [visit for visit in self.outcome.failed if not may(visit)]
        shown = [f"visitor {visit.id}: {visit.outcome}, came at {visit.begun - self.load.begun_at:.3f} s, "
                 f"stayed {visit.ended - visit.begun:.3f} s, {self.outcome.node_of(visit)}, "
                 f"{self.outcome.services_of(visit) or 'no service'}" for visit in failed[:4]]
        others = len(self.outcome.failed) - len(failed)
        self.claim(text, not failed, f"{len(failed)} that may not: {shown}" if failed else f"{others} failed")

    def note_failed(self, name, since):
        """The failed ones, those that came after `since` apart."""
        failed = self.outcome.failed
        new = [visit for visit in failed if visit.begun > since]
        self.result.figures[name] = {
            "failed": len(failed), "came_later": len(new),
            "last_came_after_s": round(max((visit.begun for visit in failed), default=since) - since, 3)}

    # --- what happens ---

    def kill(self, name):
        since = self.event(f"kill -9 {name}")
        getattr(self.cluster, name).kill9()
        return since

    def terminate(self, name):
        """SIGTERM, and its end."""
        process = getattr(self.cluster, name)
        since = self.event(f"SIGTERM to {name}")
        process.signal(signal.SIGTERM)
        process.expected_death = process.is_asked_to_stop = True
        while process.alive():
            self.sleep(0.1)
            assert time.monotonic() < since + within(60), f"{name} does not end"
        self.claim(f"{name} exits with 0", process.popen.returncode == 0, process.popen.returncode)
        self.took(f"{name} has ended", since)

    def start_node(self, name):
        since = self.event(f"{name} starts")
        self.cluster.start_node(name)
        self.cluster.wait_sessions(name, len(CLIENTS))
        self.cluster.wait_balanced()
        self.took(f"{name} is back with its clients", since)

    def start_client(self, name):
        since = self.event(f"{name} starts")
        self.cluster.start_client(name)
        for node in NODES:
            self.cluster.wait_sessions(node, len(CLIENTS))
        self.took(f"{name} is logged in at all nodes", since)

    def upgrade(self, name):
        since = self.event(f"SIGUSR2 to {name}")
        old = self.cluster.upgrade(name)
        self.took(f"{name}'s successor serves", since)
        wait_until(lambda: not old.alive(), within(40), f"the end of the old {name}")
        self.claim(f"{name}'s predecessor exits with 0", old.popen.returncode == 0, old.popen.returncode)
        for node in NODES:
            self.cluster.wait_sessions(node, len(CLIENTS))
        self.cluster.wait_balanced()


# --- scenarios --------------------------------------------------------------------------------


@scenario("Nothing happens")
def steady(play):
    play.steady(3)
    outcome = play.finish()
    play.claim_failed("no visitor fails")
    figures = outcome.figures()
    for what, parts in (("node", figures["by_node"]), ("client", figures["by_client"])):
        fair = len(outcome.visits) / len(parts)
        play.claim(f"each {what} gets its part", all(part > fair / 2 for part in parts.values()), parts)


@scenario("Upgrade (SIGUSR2) of one node after the other")
def upgrade_nodes(play):
    for node in NODES:
        play.upgrade(node)
        play.steady()
    play.finish()
    play.claim_failed("no visitor fails")


@scenario("Stop (SIGTERM, drain_delay) and start of one node after the other")
def restart_nodes(play):
    for node in NODES:
        play.terminate(node)
        play.start_node(node)
        play.steady()
    play.finish()
    play.claim_failed("no visitor fails")


@scenario("Upgrade (SIGUSR2) of one client after the other")
def upgrade_clients(play):
    for client in CLIENTS:
        play.upgrade(client)
        play.steady()
    play.finish()
    play.claim_failed("no visitor fails")


@scenario("Stop (SIGTERM) and start of one client after the other")
def restart_clients(play):
    for client in CLIENTS:
        play.terminate(client)
        play.steady()
        play.start_client(client)
        play.steady()
    play.finish()
    play.claim_failed("no visitor fails")


@scenario("kill -9 of a node")
def kill_node(play):
    killed = play.kill("node2")
    play.cluster.wait_balanced({"node1", "node3"})
    play.took("the balancer has noticed", killed)
    play.steady()
    play.start_node("node2")
    outcome = play.finish()
    play.note_failed("after_the_kill", killed)

    until = killed + CHECK_S + play.size.slack_s

    def was_on_node2(visit):
        return outcome.node_of(visit) in (None, "node2") and visit.ended > killed - DYING_S

    play.claim_failed("visitors in flight on the node fail, and new ones for a check's interval",
                      lambda visit: was_on_node2(visit) and visit.begun < until)


@scenario("kill -9 of one of two clients")
def kill_client(play):
    killed = play.kill("client1")
    play.steady(2)
    play.start_client("client1")
    outcome = play.finish()
    play.note_failed("after_the_kill", killed)

    def was_on_client1(visit):
        return "client2" not in outcome.services_of(visit) and visit.ended > killed - DYING_S

    # Those who come while it dies may be handed to it: the server learns of its end with the first reset.
    play.claim_failed("visitors in flight on the client fail, and no new one",
                      lambda visit: was_on_client1(visit) and visit.begun < killed + DYING_S)


@scenario("A client and a node are cut from each other, and joined again")
def partition(play):
    limits = play.size.limits
    # The node finds out by the data channels that it asks for in vain, the client by its heartbeats.
    notice_s = limits.user_timeout + limits.ask + 5
    cut = play.event("node1 and client1 are cut from each other")
    play.cluster.cut("node1", "client1")
    play.cluster.wait_sessions("node1", len(CLIENTS) - 1, timeout=notice_s + 60)
    noticed = time.monotonic()
    noticed_s = play.took("node1 has given up its session with client1", cut)
    play.steady(2)
    healed = play.event("they are joined again")
    play.cluster.heal("node1")
    play.cluster.wait_sessions("node1", len(CLIENTS), timeout=60)
    back_s = play.took("client1 is logged in at node1 again", healed)
    play.steady(2)
    outcome = play.finish()
    play.note_failed("after_the_cut", cut)

    def was_on_the_path(visit):
        return (outcome.node_of(visit) in (None, "node1") and "client2" not in outcome.services_of(visit)
                and visit.ended > cut - DYING_S)

    play.claim_within("the node notices", noticed_s, notice_s)
    play.claim_within("the client is back", back_s, CONNECT_TIMEOUT_S + 2)
    play.claim_failed("visitors of the cut path fail, until the node has noticed",
                      lambda visit: was_on_the_path(visit) and visit.begun < noticed)
    play.claim("no more of them than channels can be parked, and were in flight",
               len(outcome.failed) <= POOL_MAX + play.size.rate / len(NODES), len(outcome.failed))


@scenario("A node leaves DNS, drained, and joins again")
def dns_record(play):
    since = play.event("node3 leaves DNS, and gets SIGTERM")
    play.cluster.publish(["node1", "node2"])
    play.terminate("node3")
    # The client follows the record: it no longer tries to reach the node that has gone.
    play.sleep(max(0, since + 2 * RESOLVE_S + 1 - time.monotonic()))
    logs = {client: len(getattr(play.cluster, client).log()) for client in CLIENTS}
    play.steady(2)
    tried = {client: getattr(play.cluster, client).log()[at:].count(ADDRESSES["node3"])
             for client, at in logs.items()}
    play.event("node3 starts, and is not in DNS")
    play.cluster.start_node("node3")
    play.cluster.wait_balanced()
    play.steady(2)
    uninvited = play.cluster.sessions("node3")
    since = play.event("node3 is in DNS again")
    play.cluster.publish(NODES)
    play.cluster.wait_sessions("node3", len(CLIENTS))
    joined_s = play.took("both clients are logged in at node3", since)
    play.finish()
    play.claim("no client tries to reach the node that has left", not any(tried.values()), tried)
    play.claim("nobody logs in at a node that is not in DNS", uninvited == 0, uninvited)
    play.claim_within("logins follow the new record", joined_s, RESOLVE_S + 1)
    play.claim_failed("no visitor fails")


@scenario("A node's record is removed while it serves")
def dns_removed(play):
    since = play.event("node3 leaves DNS, and goes on serving")
    play.cluster.publish(["node1", "node2"])
    play.cluster.wait_sessions("node3", 0)
    left_s = play.took("both clients have left node3", since)
    left = time.monotonic()
    play.steady()
    since = play.event("node3 is in DNS again")
    play.cluster.publish(NODES)
    play.cluster.wait_sessions("node3", len(CLIENTS))
    joined_s = play.took("both clients are logged in at node3", since)
    outcome = play.finish()
    # Two look-ups in a row have to agree.
    play.claim_within("clients leave", left_s, 2 * RESOLVE_S + 1)
    play.claim_within("logins follow the new record", joined_s, RESOLVE_S + 1)
    # The node refuses visitors once its last client has left, and resets those in its accept queue.
    play.claim_failed("none but visitors who were about to be served by the node, which was not drained",
                      lambda visit: outcome.node_of(visit) == "node3" and not outcome.services_of(visit)
                      and left - 1 < visit.begun < left)


def play(name, workdir, size, kept=None, tell=lambda name, what, progress: None):
    """tell(scenario, what happened or None, the load's progress) is called several times a second."""
    limits = size.limits
    some_cluster = Cluster(workdir, limits=limits, kept=kept, options={
        # The node's wait for open relays has to be longer than a visitor is held.
        "server": {"drain_timeout": 20, "heartbeat_interval": 2}, "client": {"heartbeat_timeout": 5}})
    result = Result(name)
    try:
        some_cluster.start()
        SCENARIOS[name][1](Play(result, some_cluster, size, tell))
    except (AssertionError, OSError) as error:
        result.claims.append(("the scenario can be played", False, f"{type(error).__name__}: {error}"))
    finally:
        complaints = some_cluster.close()
    result.claims.append(("all programs end well", not complaints, complaints or "all"))
    return result
