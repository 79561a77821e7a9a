"""Tests of test_tcp.py, test_restart.py and test_hostile.py inside TLS and WebSocket: a relay, an end that
dies and a hostile peer must behave in the same way there. Between our own two ends every half close is kept
over WebSocket as well.
"""

import functools

import pytest

import test_hostile
import test_restart
import test_tcp
from capabilities import skip_unless_able
from harness import SCALE, THREADS
from test_hostile import target, victim  # noqa: F401 (fixtures)
from test_transports_interop import KINDS

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


@pytest.fixture(params=[kind for kind in KINDS if kind != "tls"])
def kind(request):
    return request.param


@pytest.fixture(params=THREADS[::2] if SCALE > 0.5 else THREADS[-1:], ids=lambda n: f"threads{n}")
def threads(request):
    """The most workers, where channels move between them; at full size also one, where they stay."""
    return request.param


@pytest.fixture
def transport(kind):
    made = KINDS[kind]()
    skip_unless_able(made)
    return made


@pytest.fixture
def tunnel(tunnel, transport):
    return functools.partial(tunnel, transport=transport)
