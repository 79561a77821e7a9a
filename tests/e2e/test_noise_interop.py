"""The tests of test_interop.py inside Noise (NK; XX and KK are in test_noise_interop_keys.py), both
ways round with rathole 0.5.0, and between our own two ends."""

import pytest

import test_interop
from harness import OURS, RATHOLE, have
from noise_peer import Noise

PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS)]

globals().update({name: test for name, test in vars(test_interop).items()
                  if name.startswith("test_")})


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("parametrize"):
        return  # such a test chooses its pairings by itself
    cases = [(*pair, "NK") for pair in PAIRS]
    metafunc.parametrize("pair", cases, indirect=True, ids="/".join)


@pytest.fixture
def pair(request):
    server, client, *pattern = request.param
    if RATHOLE in (server, client) and not have(RATHOLE):
        pytest.skip("rathole 0.5.0 not found: scripts/setup --peers installs it")
    return {"server": server, "client": client, "transport": Noise(*pattern)}
