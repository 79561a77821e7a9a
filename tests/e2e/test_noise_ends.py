"""Tests of test_restart.py and test_hostile.py over Noise: ends that die, and hostile peers played by the
test, have the same effects there.

The relay is in test_noise_relay.py.
"""

import pytest

import test_hostile
import test_restart
from test_hostile import target, victim  # noqa: F401 (fixtures)
from test_noise_relay import threads, tunnel  # noqa: F401 (fixtures)

pytestmark = pytest.mark.ours

TESTS = {
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
