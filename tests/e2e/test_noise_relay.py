"""Runs tests of test_tcp.py inside Noise: a relay must behave in the same way there.

test_noise_ends.py has ends that die, and played peers.
"""

import functools

import pytest

import test_tcp
from harness import THREADS
from noise_peer import Noise

pytestmark = pytest.mark.ours

TESTS = """
    random_transfers bulk_both_directions sizes_around_buffers 64_visitors_at_once
    half_close_by_visitor half_close_by_service service_speaks_first
    visitor_that_says_nothing_and_leaves slow_reader_is_backpressure
    bulk_does_not_starve_ping_pong one_byte_at_a_time reset_by_visitor_reaches_the_service
    reset_in_full_flow_by_visitor reset_by_visitor_while_service_does_not_read
    reset_by_service_reaches_the_visitor a_request_is_sent_once reset_by_service_in_full_flow
    reset_by_service_right_behind_its_answer
    visitor_leaves_before_the_service_answers
    descriptors_and_memory_return_to_the_level_before"""
globals().update({f"test_{name}": getattr(test_tcp, f"test_{name}") for name in TESTS.split()})


@pytest.fixture(params=THREADS[::2], ids=lambda n: f"threads{n}")
def threads(request):
    """One worker, where channels stay, and the most workers, where channels move between them."""
    return request.param


@pytest.fixture
def tunnel(tunnel):
    return functools.partial(tunnel, transport=Noise("NK"))
