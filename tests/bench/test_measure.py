"""Which measurements bench/measure.py makes of a suite, and how it waits for what they need."""

import contextlib
import dataclasses
import os
import socket
import types

import measure
import peers
import procs
import pytest
import suites

OPTIONS = types.SimpleNamespace(rounds=2, seconds=1)


@contextlib.contextmanager
def measured(monkeypatch, descriptors, *chosen):
    """[(peer, suite or its part, round)] of what Bench.run would measure, and what it says meanwhile."""
    said, found = [], []
    monkeypatch.setattr(measure.resource, "getrlimit", lambda _: (descriptors, descriptors))
    monkeypatch.setattr(measure.progress.Progress, "say", lambda _, text: said.append(text))
    bench = measure.Bench(OPTIONS, ["ours", "rathole"])
    monkeypatch.setattr(measure.progress.Progress, "end", lambda _: None)  # which forgets what was expected
    monkeypatch.setattr(bench, "measure",
                        lambda suite, peer, number, *_: found.append((peer.name, suite, number)))
    try:
        bench.run([dataclasses.replace(suite, programs=()) for suite in chosen])
        yield found, "\n".join(said), bench.progress
    finally:
        bench.close()


def test_a_suite_has_one_tunnel_for_all_its_loads(monkeypatch):
    suite = suites.SUITES_BY_NAME["tcp-bulk"]
    with measured(monkeypatch, 1000, suite) as (found, _, _):
        assert [(peer, number) for peer, _, number in found] == [
            ("ours", 1), ("rathole", 1), ("rathole", 2), ("ours", 2)]
        assert {part.loads for _, part, _ in found} == {suite.loads}


def test_a_point_of_a_curve_has_a_tunnel_of_its_own(monkeypatch):
    with measured(monkeypatch, 1000, suites.SUITES_BY_NAME["scale-workers"]) as (found, _, told):
        assert [(part.loads[0][0], part.threads) for peer, part, number in found
                if (peer, number) == ("ours", 1)] == [("1", 1), ("2", 2), ("4", 4)]
        assert all(len(part.loads) == 1 for _, part, _ in found)
        assert [part.count for part in told.parts] == [len(found)] == [2 * 2 * 3]


def test_a_point_that_needs_too_many_descriptors_is_left_out(monkeypatch):
    suite = suites.SUITES_BY_NAME["scale-services"]
    needed = [part.descriptors for part in suites.parts(suite)]
    with measured(monkeypatch, needed[2], suite) as (found, said, _):
        assert {part.services for _, part, _ in found} == {1, 10, 100}
        assert f"scale-services 1000: left out, needs {needed[3]} descriptors" in said
    with measured(monkeypatch, needed[3], suite) as (found, said, _):
        assert {part.services for _, part, _ in found} == {1, 10, 100, 1000}
        assert "left out" not in said


def myself():
    return types.SimpleNamespace(pid=os.getpid(), poll=lambda: None, name="myself", log_path=os.devnull)


def test_all_ports_have_to_listen():
    with socket.create_server(("127.0.0.1", 0)) as first, socket.socket() as visitor, \
            socket.create_server(("127.0.0.1", 0)) as second, socket.socket() as idle:
        visitor.connect(first.getsockname())
        idle.bind(("127.0.0.1", 0))
        ports = {each.getsockname()[1] for each in (first, second)}
        procs.wait_listening(myself(), ports, limit_s=5)
        procs.wait_listening(myself(), min(ports), limit_s=5)
        assert visitor.getsockname()[1] not in procs.listening_ports(os.getpid())
        missing = idle.getsockname()[1]
        with pytest.raises(procs.BenchError, match=f"nothing listens on port {missing} after"):
            procs.wait_listening(myself(), ports | {missing}, limit_s=0.05)


def test_free_ports_are_different_ones():
    assert len(set(procs.free_ports(50))) == 50
    assert procs.free_ports(0) == []


def test_rathole_has_its_workers_from_the_environment():
    assert peers.environment(4) == {"RUST_LOG": "error", "TOKIO_WORKER_THREADS": "4"}
    assert peers.environment(None) == {"RUST_LOG": "error"}
