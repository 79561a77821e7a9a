"""The tests of test_interop.py inside Noise: NK, XX and KK, both ways round with rathole 0.5.0, and
between our own two ends."""

import pytest

import test_interop
from harness import OURS, RATHOLE, SCALE, have
from noise_peer import Noise, PATTERNS

PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS)]
# What knows nothing of the pattern.
ONE_PATTERN = {"test_heartbeats_keep_an_idle_tunnel", "test_wrong_token_is_refused",
               "test_service_down_then_up", "test_banner_http_and_several_services",
               "test_upload_digest_through_sink", "test_churn_with_resets"}

globals().update({name: test for name, test in vars(test_interop).items()
                  if name.startswith("test_")})


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("parametrize"):
        return  # chooses its pairings by itself
    patterns = ["NK"] if metafunc.function.__name__ in ONE_PATTERN else PATTERNS
    cases = [(*pair, pattern) for pattern in patterns for pair in PAIRS
             if pattern == "NK" or RATHOLE in pair or SCALE >= 0.5]
    metafunc.parametrize("pair", cases, indirect=True, ids="/".join)


@pytest.fixture
def pair(request):
    server, client, *pattern = request.param
    if RATHOLE in (server, client) and not have(RATHOLE):
        pytest.skip("rathole 0.5.0 not found: scripts/setup --peers installs it")
    return {"server": server, "client": client, "transport": Noise(*pattern)}
