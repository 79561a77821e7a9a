"""Tests of test_udp_interop.py inside TLS and WebSocket: our program and rathole 0.5.0 in all pairings.

A UDP channel never ends by half, so WebSocket makes no exceptions here.
"""

import functools

import pytest

import test_udp_interop
from capabilities import skip_unless_able
from datagrams import knock
from harness import RATHOLE, SANITIZED
from test_transports_interop import KINDS, PAIRS

TESTS = """
    round_trips sizes many_visitors an_end_is_killed_and_restarted local_service_restarts
    large_answers_do_not_end_ratholes_service"""
globals().update({f"test_{name}": getattr(test_udp_interop, f"test_{name}")
                  for name in TESTS.split()})


def pytest_generate_tests(metafunc):
    is_choosing = any("pair" in str(mark.args[0])
                      for mark in metafunc.definition.iter_markers("parametrize"))
    kinds = [kind for kind in KINDS if kind != "tls"]  # the name makes no difference to datagrams
    if is_choosing:
        metafunc.parametrize("kind", kinds)
        return
    pairs = [pair for pair in PAIRS if not SANITIZED or pair != (RATHOLE, RATHOLE)]
    metafunc.parametrize("kind", kinds)
    metafunc.parametrize("pair", pairs, indirect=True, ids="/".join)


@pytest.fixture
def transport(kind):
    return KINDS[kind]()


@pytest.fixture
def pair(request, transport):
    skip_unless_able(transport, request.param)
    return dict(zip(("server", "client"), request.param))


@pytest.fixture
def make_push(kind, pair):
    """rathole writes a datagram as three WebSocket messages and flushes none of them (its protocol.rs,
    UdpTraffic::write), so the last one may wait for the next datagram."""
    holds_back = kind.startswith("websocket") and RATHOLE in pair.values()
    return lambda port: functools.partial(knock, port, visitors=1) if holds_back else None
