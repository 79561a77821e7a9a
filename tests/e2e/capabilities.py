"""What the program under test can do: transports that its build may lack.

    @needs_tls                 skips where --check refuses a file of this transport, and says so
    skip_unless_able(transport, implementations)
"""

import functools
import subprocess
import tempfile

import pytest

import harness
from harness import OURS, RATHOLE, have
from tls_peer import Tls
from websocket_peer import WebSocket

NO_RATHOLE = "rathole 0.5.0 not found: scripts/setup --peers installs it"
NOT_ABLE = "our program has no {} in this build: its --check refuses the file"


@functools.cache
def is_able(kind):
    """Whether our program's --check takes a server file of the transport: "tls", "websocket"."""
    if not have(OURS):
        return False
    transport = {"tls": Tls, "websocket": WebSocket}[kind]()
    text = harness.render(OURS, "server", {"bind_addr": "127.0.0.1:1", "default_token": "t"},
                          {"s": {"bind_addr": "127.0.0.1:2"}}, transport.tables("server"))
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([harness.BINARIES[OURS], "--check", "--server", file.name],
                              capture_output=True, timeout=30, cwd="/", stdin=subprocess.DEVNULL)
    return done.returncode == 0


def kinds_of(transport):
    """The build options that a transport needs."""
    if isinstance(transport, WebSocket):
        return ["websocket", "tls"] if transport.tls else ["websocket"]
    return ["tls"] if isinstance(transport, Tls) else []


def skip_unless_able(transport, implementations=(OURS,)):
    if RATHOLE in implementations and not have(RATHOLE):
        pytest.skip(NO_RATHOLE)
    for kind in kinds_of(transport):
        if OURS in implementations and not is_able(kind):
            pytest.skip(NOT_ABLE.format(kind))


def _mark(kind):
    return pytest.mark.skipif(not is_able(kind), reason=NOT_ABLE.format(kind))


needs_tls, needs_websocket = _mark("tls"), _mark("websocket")
