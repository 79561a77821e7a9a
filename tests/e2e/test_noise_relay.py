"""Tests of test_tcp.py, test_restart.py and test_hostile.py inside Noise: what they say of a relay,
of an end that dies and of a played peer holds there too.

Covers src/relay/noise.c and src/net/transport.c.
"""

import functools

import pytest

import test_hostile
import test_restart
import test_tcp
from harness import THREADS
from noise_peer import Noise
from test_hostile import target, victim  # noqa: F401: fixtures

pytestmark = pytest.mark.ours

TESTS = {
    test_tcp: """
        random_transfers bulk_both_directions sizes_around_buffers 64_visitors_at_once
        half_close_by_visitor half_close_by_service service_speaks_first
        visitor_that_says_nothing_and_leaves slow_reader_is_backpressure
        bulk_does_not_starve_ping_pong one_byte_at_a_time reset_by_visitor_reaches_the_service
        reset_in_full_flow_by_visitor reset_by_visitor_while_service_does_not_read
        reset_by_service_reaches_the_visitor a_request_is_sent_once reset_by_service_in_full_flow
        reset_by_service_right_behind_its_answer
        visitor_leaves_before_the_service_answers
        descriptors_and_memory_return_to_the_level_before""",
    test_restart: """
        client_killed server_killed_and_restarted_at_once
        upload_is_cut_visibly_by_a_killed_client""",
    test_hostile: """
        silent_crowd_does_not_delay_a_login cap_per_address cap_in_all
        channels_that_were_asked_for_are_no_strangers
        played_server_works unknown_command_ends_the_session wrong_command_on_a_data_channel
        flood_of_requests commands_one_byte_at_a_time server_that_refuses_data_channels
        parked_channels_end_with_the_session""",
}
for module, names in TESTS.items():
    globals().update({f"test_{name}": getattr(module, f"test_{name}") for name in names.split()})


@pytest.fixture(params=THREADS[::2], ids=lambda n: f"threads{n}")
def threads(request):
    """One worker and the most: channels change theirs, or do not."""
    return request.param


@pytest.fixture
def tunnel(tunnel):
    return functools.partial(tunnel, transport=Noise("NK"))
