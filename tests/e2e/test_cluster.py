"""Three servers behind HAProxy, and two clients that find them by dnsmasq: what visitors notice when a
node or a client is upgraded, stopped, killed, cut off, or leaves DNS. bench/cluster plays the same with
ten times as many visitors, and with the program's own times."""

import pytest

import cluster
import harness
from cluster_scenarios import FULL, SCENARIOS, SMALL, play

pytestmark = [pytest.mark.ours, pytest.mark.slow]

# What other tests show with fewer programs is played at full size alone.
AT_FULL_SIZE = () if harness.FULL else ("steady", "upgrade_clients", "restart_clients", "dns_removed")


@pytest.mark.skipif(harness.SANITIZED, reason="too slow for this load; test_balance has parts of it")
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in AT_FULL_SIZE])
def test_cluster(tmp_path, processes, name):
    reason = cluster.why_not()
    if reason:
        pytest.skip(f"NO CLUSTER IS TESTED: {reason}")
    result = play(name, tmp_path, FULL if harness.FULL else SMALL, kept=processes)
    assert not result.broken_claims(), (result.broken_claims(), result.events)
