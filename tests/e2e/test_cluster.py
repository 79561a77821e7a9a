"""Three servers behind HAProxy, and two clients that find them by dnsmasq: what visitors notice when a
node or a client is upgraded, stopped, killed, cut off, or leaves DNS. bench/cluster plays the same with
ten times as many visitors, and with the program's own times."""

import pytest

import cluster
import harness
from cluster_scenarios import FULL, SCENARIOS, SMALL, play

pytestmark = [pytest.mark.ours, pytest.mark.slow]


@pytest.mark.parametrize("name", SCENARIOS)
def test_cluster(tmp_path, processes, name):
    reason = cluster.why_not()
    if reason:
        pytest.skip(f"NO CLUSTER IS TESTED: {reason}")
    result = play(name, tmp_path, FULL if harness.FULL else SMALL, kept=processes)
    assert not result.broken_claims(), (result.broken_claims(), result.events)
