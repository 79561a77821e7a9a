"""As test_noise_interop.py, with the patterns XX and KK: those tests that may depend on the pattern."""

import test_interop
from harness import RATHOLE, SCALE
from test_noise_interop import PAIRS, pair  # noqa: F401 (a fixture)

# These tests do not depend on the pattern.
ONE_PATTERN = {"test_heartbeats_keep_an_idle_tunnel", "test_wrong_token_is_refused",
               "test_service_down_then_up", "test_banner_http_and_several_services",
               "test_upload_digest_through_sink", "test_churn_with_resets"}

globals().update({name: test for name, test in vars(test_interop).items()
                  if name.startswith("test_") and name not in ONE_PATTERN
                  and not hasattr(test, "pytestmark")})


def pytest_generate_tests(metafunc):
    cases = [(*ends, pattern) for pattern in ("XX", "KK") for ends in PAIRS
             if RATHOLE in ends or SCALE >= 0.5]
    metafunc.parametrize("pair", cases, indirect=True, ids="/".join)
