"""The tests of test_interop.py inside TLS and WebSocket: our program and rathole 0.5.0 in all pairings.

What differs is the half close. Over TLS each direction ends by itself (close_notify). rathole drops both
directions of a WebSocket when a Close comes, so there:
  - rathole's two ends lose what is under way when one side ends: only the tests in ALONE hold;
  - our server holds its Close back until the service has ended (half_close_timeout): see
    test_websocket.py. A service that ends only after its visitor sees that end late, and the visitor gets a
    reset: so there visitors leave without waiting for it;
  - our client can't say to rathole's server that the service has ended and still take the upload;
  - rathole's client ends itself when a server dies in an upgrade.
"""

import pytest

import services
import test_interop
from capabilities import skip_unless_able
from harness import OURS, RATHOLE, SANITIZED
from tls_peer import Tls
from websocket_peer import WebSocket

KINDS = {
    "tls": lambda: Tls("address", hostname=None),
    "tls-hostname": Tls,
    "websocket": WebSocket,
    "websocket-tls": lambda: WebSocket(Tls()),
}
PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS), (RATHOLE, RATHOLE)]
# Shows that the harness asks for nothing that rathole can't do.
ALONE = {"test_bulk", "test_burst_of_visitors", "test_client_killed_and_restarted",
         "test_server_killed_and_restarted", "test_wrong_token_is_refused"}
# The name in the certificate matters to the handshake alone.
ONE_NAME_IS_ENOUGH = {"test_transfers", "test_half_close_by_visitor", "test_half_close_by_service",
                      "test_banner_http_and_several_services", "test_service_down_then_up",
                      "test_upload_digest_through_sink", "test_heartbeats_keep_an_idle_tunnel"}
# (test, server, client): what rathole's part makes impossible over a WebSocket.
LOST_BY_RATHOLE = {("test_half_close_by_visitor", OURS, RATHOLE),
                   ("test_half_close_by_service", RATHOLE, OURS),
                   ("test_upload_digest_through_sink", OURS, RATHOLE),
                   ("test_server_killed_and_restarted", OURS, RATHOLE),
                   ("test_server_killed_and_restarted", RATHOLE, RATHOLE),
                   ("test_server_swapped_under_a_running_client", OURS, RATHOLE),
                   ("test_bulk", RATHOLE, RATHOLE),  # its visitor ends before the answer
                   # See RATHOLE_DROPS.
                   ("test_transfers", RATHOLE, OURS), ("test_bulk", RATHOLE, OURS)}
# A Close over a WebSocket is an error to rathole's server, which then drops what it has read and its
# visitor has not taken yet: up to this, the size of its buffer. With a slow visitor once in eight runs.
RATHOLE_DROPS = 8192

globals().update({name: test for name, test in vars(test_interop).items()
                  if name.startswith("test_")})


def holds(name, kind, server, client):
    if (server, client) == (RATHOLE, RATHOLE) and (name not in ALONE or SANITIZED):
        return False
    if kind == "tls" and name in ONE_NAME_IS_ENOUGH:
        return False
    return not kind.startswith("websocket") or (name, server, client) not in LOST_BY_RATHOLE


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("parametrize"):
        metafunc.parametrize("kind", KINDS)  # such a test chooses its pairings by itself
        return
    cases = [(kind, pair) for kind in KINDS for pair in PAIRS
             if holds(metafunc.definition.originalname, kind, *pair)]
    metafunc.parametrize("kind, pair", cases, indirect=["pair"],
                         ids=["-".join((kind, "/".join(pair))) for kind, pair in cases])


@pytest.fixture
def tail_lost_max(kind, pair):
    ends = pair["server"], pair["client"]
    return RATHOLE_DROPS if kind.startswith("websocket") and ends == (RATHOLE, OURS) else 0


@pytest.fixture
def pair(request, kind, monkeypatch):
    server, client = request.param
    if not holds(request.node.originalname, kind, server, client):
        pytest.skip("not with rathole at this end of a WebSocket")
    transport = KINDS[kind]()
    skip_unless_able(transport, request.param)
    if kind.startswith("websocket") and (server, client) == (OURS, RATHOLE):
        monkeypatch.setattr(test_interop, "ping", services.ask)
        monkeypatch.setattr(services, "ping", services.ask)
    return {"server": server, "client": client, "transport": transport}
