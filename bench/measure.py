"""Measures suites: rounds of all peers in turn, each measurement with new processes. Used by bench/run
and bench/guard."""

import glob
import os
import resource
import shutil
import tempfile

import loads
import netns
import procs
import progress
import report
from peers import BARE, PEERS_BY_NAME, Tunnel, compiler
from suites import parts, peers_for

HERE = os.path.dirname(os.path.abspath(__file__))
SETTLE_S = 0.5
BUILD_OPTIONS = {BARE: ("-D_GNU_SOURCE", "-luring")}
START_AND_STOP_S = 1.5  # of the processes of one measurement, about


class Bench:
    def __init__(self, options, names):
        self.options, self.names = options, names
        self.directory = tempfile.mkdtemp(prefix="rathole-uring-bench-")
        self.supervisor = procs.Supervisor(self.directory)
        self.samples = []
        self.progress = None
        self.programs = {}  # the C programs of this directory that were built

    def close(self):
        self.supervisor.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, suites):
        """suites: rows of SUITES, or such with changes."""
        load_s = SETTLE_S + self.options.seconds
        self.progress = progress.Progress([
            progress.Part(suite.name,
                          self.rounds(suite) * len(peers_for(suite, self.names)) * len(parts(suite)),
                          START_AND_STOP_S + len(suite.loads) / len(parts(suite)) * load_s)
            for suite in suites
        ])
        for number, suite in enumerate(suites, 1):
            self.progress.begin(number)
            try:
                self.run_suite(suite)
            finally:
                self.progress.end()

    def rounds(self, suite):
        return min(self.options.rounds, suite.rounds_max or self.options.rounds)

    def run_suite(self, suite):
        log = self.progress.say
        missing = [program for program in suite.programs if not shutil.which(program)]
        if missing:
            log(f"{suite.name}: left out, needs {', '.join(missing)}")
            return
        if suite.namespaces and not netns.supported():
            log(f"{suite.name}: left out, needs root and ip(8) to make network namespaces")
            return
        if suite.shaped and not netns.can_shape():
            log(f"{suite.name}: left out, needs tc(8) and a kernel with tbf")
            return
        needed = ["delay_relay"] * suite.relay + ["udp_load"] * suite.udp
        if not all(self.build(name) for name in needed):
            log(f"{suite.name}: left out, needs a C compiler for {', '.join(needed)}")
            return
        tunnels = [part for part in parts(suite) if self.has_descriptors(part)]
        names = [n for n in peers_for(suite, self.names) if self.prepare(PEERS_BY_NAME[n])]
        reference = self.measure_reference(suite, names) if names else None
        for number in range(self.rounds(suite)):
            # Each round begins with another peer, so that no peer always follows the same one.
            first = number * max(1, len(names) // 2) % max(1, len(names))
            for name in names[first:] + names[:first]:
                for part in tunnels:
                    self.measure(part, PEERS_BY_NAME[name], number + 1, reference)

    def has_descriptors(self, suite):
        """A point of a curve that needs more is left out, and the message says so."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if suite.descriptors > limit:
            self.progress.say(f"{suite.name} {suite.loads[0][0]}: left out, needs {suite.descriptors} "
                              f"descriptors, and ulimit -n is {limit}")
        return suite.descriptors <= limit

    def measure_reference(self, suite, names):
        """Measure the suite's reference peer, whose figure the loads need."""
        if not suite.reference:
            return None
        peer, metric = suite.reference.peer, suite.reference.metric
        value = None
        if peer in names:
            alone = (("reference", suite.reference.load),)
            (sample,) = self.measure(suite, PEERS_BY_NAME[peer], 0, suite_loads=alone)
            value = sample.get("figures", {}).get(metric)
        if not value:
            self.progress.say(f"{suite.name}: no {metric} of {peer}, {suite.reference.fallback:g} instead")
        return value or suite.reference.fallback

    def measure(self, suite, peer, number, reference=None, suite_loads=None):
        suite_loads = suite_loads or suite.loads
        place = tunnel = None
        self.progress.measures(peer.name, number, self.rounds(suite))
        samples = [
            {"suite": suite.name, "load": load, "peer": peer.name, "round": number, "notes": []}
            for load, _ in suite_loads
        ]
        try:
            if peer.alone:
                for sample in samples:
                    sample["busy_before"] = self.settle()
                    sample["figures"] = peer.alone(peer, self.options.seconds)
                return self.add(samples, number)
            place = suite.place()
            port = procs.free_port()
            tunnel = Tunnel(self.supervisor, peer, place, port, suite,
                            self.start_relay if suite.relay else None)
            arguments = (self.supervisor, place, place.service_host(peer), port)
            suite.service(*arguments, *((self.programs["udp_load"],) if suite.udp else ()))
            for sample, (_, load) in zip(samples, suite_loads):
                sample["busy_before"] = self.settle()
                run = loads.Run(
                    self.supervisor,
                    place,
                    tunnel,
                    self.options.seconds,
                    self.options.rtt,
                    self.options.visitors,
                    self.options.burst_gap,
                    self.options.connections,
                    self.programs.get("udp_load"),
                    reference,
                )
                sample["notes"] = run.notes
                sample["figures"] = load(run)
                tunnel.check()
        except procs.BenchError as error:
            for sample in samples:
                if "figures" not in sample:
                    sample["error"] = str(error)
        finally:
            self.supervisor.stop()
            if place:
                place.close()
        return self.add(samples, number)

    def settle(self):
        """Wait for other work to end. Returns the share of the cores that it has."""
        return round(procs.settle(SETTLE_S, report.NOISY_SHARE, self.options.quiet_wait), 3)

    def add(self, samples, number):
        self.samples += samples
        self.progress.measured(number)
        for sample in samples:
            self.progress.say(describe(sample))
        return samples

    def prepare(self, peer):
        """Compile the peer's program, if it is of this directory. False: it can't take part."""
        if not peer.compiled:
            return True
        (name,) = peer.programs
        try:
            self.build(name)
        except procs.BenchError as error:
            self.progress.say(f"{peer.name}: left out: {error}")
            return False
        peer.paths[name] = self.programs[name]
        return True

    def build(self, name):
        """Compile NAME.c or NAME/*.c of this directory, once. False without a compiler."""
        if name in self.programs:
            return True
        command = compiler()
        if not command:
            return False
        program = os.path.join(self.directory, name)
        sources = glob.glob(os.path.join(HERE, name, "*.c")) or [os.path.join(HERE, f"{name}.c")]
        options = BUILD_OPTIONS.get(name, ())
        procs.run([*command.split(), "-O2", "-pthread", "-o", program, *sources, *options], 60)
        self.programs[name] = program
        return True

    def start_relay(self, listen, target):
        argv = [
            self.programs["delay_relay"],
            listen[0],
            str(listen[1]),
            target[0],
            str(target[1]),
            str(self.options.rtt),
        ]
        child = self.supervisor.spawn("delay_relay", argv)
        procs.wait_listening(child, listen[1])
        return child


def describe(sample):
    head = f"{sample['suite']:21} {sample['load']:6} {sample['peer']:13} round {sample['round']}: "
    if "error" in sample:
        return head + "FAILED: " + sample["error"]
    figures = [f"{k} {v:.4g}" for k, v in sample["figures"].items() if isinstance(v, (int, float))]
    return head + ", ".join(figures) + "".join(f"; {note}" for note in sample["notes"])
