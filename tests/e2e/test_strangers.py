"""Strangers at the control port: what each of them may cost, at two sizes (see test_load.py).

What a crowd does to those who log in meanwhile is in test_gate.py, single messages are in
test_hostile.py and test_noise_hostile.py.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import time

import pytest

from capabilities import needs_tls, needs_websocket
from harness import FULL, NOFILE, SANITIZED, is_listening, scaled, wait_until, within
from noise_peer import Noise, frame
from protocol import (
    ACK_AUTH_FAILED, Session, auth, connect, control_hello, data_hello, digest, hello, how_closed,
    recv_exact, u32,
)
from services import Echo, ping
from test_gate import DEADLINE, beside, end, flood_of  # noqa: F401 (a fixture)
from test_hostile import close_all, stranger, target, unharmed  # noqa: F401 (a fixture)
from tls_peer import Tls
from websocket_peer import WebSocket

pytestmark = pytest.mark.ours

# --- a crowd, and what each costs ---------------------------------------------------------------

PENDING_FDS_PART = 8  # LIMIT_PENDING_FDS_PART: strangers get no more of the descriptors
CROWDS = {
    # name: (transport, what each says, KiB it may cost)
    "tcp": (lambda: None, lambda _: b"", 2),
    "tcp, half an auth": (lambda: None, lambda _: control_hello("s") + bytes(16), 2),
    "NK": (lambda: Noise("NK"), lambda noise: noise.first_message()[:30], 8),
    "XX": (lambda: Noise("XX"), lambda noise: noise.first_message()[:30], 8),
}


@pytest.mark.realtime
@pytest.mark.time_limit(90)
@pytest.mark.parametrize("kind", CROWDS if FULL else ["tcp", "NK"])
def test_silent_strangers_and_a_login_each_second(tunnel, service, beside, kind):  # noqa: F811
    """A36: 10,000 strangers in five seconds, as many of them at once as the server lets wait when nothing but
    descriptors limits it: each login takes less than a second, and each stranger is closed in time."""
    make, words_of, most_kib = CROWDS[kind]
    transport = make()
    rate, seconds = (2000, 6) if FULL else (300, 2.5)
    deadline = 5 if FULL else 1.5
    t = tunnel({"echo": service(Echo).port, "s": None}, transport=transport, server_options={
        "max_pending_handshakes": 20000, "max_pending_handshakes_per_ip": 20000,
        "handshake_timeout": deadline})
    fds, kib = t.server.settled_fds(), t.server.private_kib()
    flood = flood_of(beside, t, rate, addresses=2000, first=words_of(transport).hex())
    begun, logins, pending, costs = time.monotonic(), [], 0, []
    while time.monotonic() < begun + seconds or (
            FULL and t.server.metric("strangers_accepted") < 11_000):
        start = time.monotonic()
        with t.login("s"):
            logins.append(time.monotonic() - start)
        ping(t.port())
        now = t.server.fds() - fds
        if now > pending:
            pending, grown = now, t.server.private_kib() - kib
            costs = [grown / pending]
        time.sleep(max(0, start + (1 if FULL else 0.3) - time.monotonic()))
    did = end(flood)
    print(f"{kind}: {did['sent']} strangers, {pending} at once with {costs[0]:.2f} KiB each, the oldest "
          f"{did['oldest']:.2f} s; the slowest of {len(logins)} logins {max(logins):.3f} s")
    assert max(logins) < within(1)
    assert did["oldest"] < within(deadline + DEADLINE - 5)
    assert pending > 0.5 * min(did["sent"] / did["seconds"] * deadline, NOFILE // PENDING_FDS_PART)
    # What the server keeps besides for its lists, once, is a few hundred KiB.
    assert SANITIZED or costs[0] < most_kib or not FULL and costs[0] < most_kib + 512 / pending, costs
    assert not FULL or did["sent"] > 10_000


@pytest.mark.realtime
@pytest.mark.time_limit(90)
@pytest.mark.parametrize("pattern", ["NK", "XX", "KK"] if FULL else ["NK"])
def test_bad_handshakes_at_a_rate(tunnel, service, beside, pattern):  # noqa: F811
    """A48: a thousand bad handshakes a second cost less than a core."""
    noise = Noise(pattern)
    seconds = 30 if FULL else 2
    t = tunnel({"echo": service(Echo).port, "s": None}, transport=noise)
    # To XX random bytes are a first message: 31 are too few.
    bad = frame(os.urandom(31)) if pattern == "XX" else noise.garbage()
    flood = flood_of(beside, t, 1000, addresses=250, first=bad.hex())
    wait_until(lambda: t.server.metric("strangers_rejected") > 0, within(5), "the flood")
    cpu, begun = t.server.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    used = (t.server.cpu_seconds() - cpu) / (time.monotonic() - begun)
    did = end(flood)
    rate = did["sent"] / did["seconds"]
    print(f"{pattern}: {rate:.0f} bad handshakes a second: {used:.1%} of a core")
    assert used * 1000 / rate < 1, "a core for a thousand a second"
    assert t.server.log_size() < 100_000, "a stranger can flood the log"
    unharmed(t)


@pytest.mark.parametrize("pattern", ["NK", "XX", "KK"])
def test_what_a_long_handshake_message_may_cost(tunnel, service, pattern):
    """A48: a first message with a length that no handshake has is refused at its length: no memory is had
    for it, and not one byte comes back."""
    noise = Noise(pattern)
    t = tunnel({"echo": service(Echo).port, "s": None}, transport=noise,
               server_options={"handshake_timeout": 60, "max_pending_handshakes_per_ip": 200})
    kib = t.server.private_kib()
    socks = [stranger(t, b"\xff\xff" + os.urandom(20_000)) for _ in range(150)]
    grown = t.server.private_kib() - kib
    try:
        assert SANITIZED or grown < 150 * 8 + 1024, f"{grown} KiB for 150 long messages"
        for sock in socks:
            how, data = how_closed(sock, within(2))
            assert how in ("fin", "rst") and data == b"", (how, data)
    finally:
        close_all(socks)
    unharmed(t)


# --- messages -----------------------------------------------------------------------------------


def tags():
    """Each near a power of two, and some of all others."""
    rng = random.Random(40)
    near = {(1 << bit) + more for bit in range(1, 33) for more in (-1, 0, 1)}
    near |= {rng.randrange(2, 1 << 32) for _ in range(scaled(60, 20, full=20_000))}
    return sorted(tag for tag in near if 2 <= tag < 1 << 32)


def refused(t, data, what):
    sock = stranger(t, data)
    how, answer = how_closed(sock, within(2))
    sock.close()
    assert how in ("fin", "rst") and answer == b"", f"{what}: {how}, answered {answer!r}"


def test_every_kind_of_hello(target):  # noqa: F811
    """A40: a tag or version that nobody has, alone and with bytes behind it."""
    t = target()
    for number, tag in enumerate(tags()):
        refused(t, hello(tag, digest(b"echo")) + bytes(number % 3 * 40), f"tag {tag}")
    for version in [0, *range(2, 256, 1 if FULL else 16), 255]:
        for tag in (0, 1):
            refused(t, hello(tag, digest(b"echo"), version) + b"x" * (version % 2),
                    f"version {version}")
    unharmed(t)


@pytest.mark.parametrize("surplus", [1, 31, 32, 33, 5000])
def test_surplus_bytes_behind_each_message(target, surplus):  # noqa: F811
    """A40: they are the beginning of the next message, whatever they are meant to be; the next connection
    is fine."""
    t = target()
    # Behind the Hello: the first bytes of an Auth that is wrong.
    with connect(t.control_port) as sock:
        sock.sendall(control_hello("s") + bytes(surplus))
        nonce = recv_exact(sock, 37)[5:]
        if surplus < 32:
            sock.sendall(auth(t.token, nonce)[:32 - surplus])
        assert recv_exact(sock, 4) == u32(ACK_AUTH_FAILED)
        assert how_closed(sock, within(2))[0] in ("fin", "rst")
    # Behind the Auth: a client says nothing more, so its session ends.
    with connect(t.control_port) as sock:
        sock.sendall(control_hello("s"))
        sock.sendall(auth(t.token, recv_exact(sock, 37)[5:]) + bytes(surplus))
        assert how_closed(sock, within(2))[0] in ("fin", "rst")
    wait_until(lambda: not is_listening(t.port("s")), within(2), "its session to end")
    # Behind the Hello of a data channel: the first bytes for the visitor, and for nobody else.
    with t.login("s") as session:
        wait_until(lambda: is_listening(t.port("s")), within(2), "the service")
        with session.open_channel(early=b"y" * surplus), connect(t.port("s")) as visitor:
            visitor.settimeout(within(3))
            assert recv_exact(visitor, surplus) == b"y" * surplus
    unharmed(t)


def test_key_of_another_services_session(tunnel, service):
    """A43: a session's key opens channels of its own service and no other's, and another service's token
    logs in nobody."""
    t = tunnel({"echo": service(Echo).port, "one": None, "two": None},
               service_options={"one": {"token": "token-one"}, "two": {"token": "token-two"}})
    with (Session(t.control_port, "one", "token-one") as one,
          Session(t.control_port, "two", "token-two") as two):
        for name in ("one", "two"):
            wait_until(lambda: is_listening(t.port(name)), within(2), name)
        assert one.key != two.key
        before = t.server.metric("strangers_rejected")
        # What the wrong token makes of a right nonce, and halves of two keys.
        wrong = [auth("token-two", one.nonce), auth("token-one", two.nonce), auth(t.token, one.nonce),
                 one.key[:16] + two.key[16:], two.key[:16] + one.key[16:], one.nonce]
        for key in wrong:
            refused(t, data_hello(key), "a key of no session")
        assert t.server.metric("strangers_rejected") == before + len(wrong)
        log_lines = t.server.log().count(" rejected: ")
        assert log_lines <= 3, t.server.log()
        # Channels of `one` do not serve a visitor of `two`.
        channels = [one.open_channel() for _ in range(4)]
        with connect(t.port("two")) as visitor:
            assert how_closed(visitor, 0.3) == ("open", b"")
            with two.open_channel() as channel:
                channel.settimeout(within(3))
                assert recv_exact(channel, 4) == u32(0)
                channel.sendall(b"two")
                visitor.settimeout(within(3))
                assert recv_exact(visitor, 3) == b"two"
        for channel in channels:
            assert how_closed(channel, 0.02) == ("open", b""), "it serves a visitor of another service"
        close_all(channels)
    ping(t.port())


# --- programs that look what is there -------------------------------------------------------------

NO_TEXT = re.compile(rb"[A-Za-z]{5}")


def scan(port):
    """What nmap says of the port after all its questions."""
    done = subprocess.run(
        ["nmap", "-sV", "--version-all", "-Pn", "-n", "-oX", "-", "-p", str(port), "127.0.0.1"],
        capture_output=True, text=True, timeout=1800, check=True)
    return done.stdout


@pytest.mark.skipif(not FULL, reason="minutes for each port: most questions wait for the deadline")
@pytest.mark.skipif(not shutil.which("nmap"), reason="no nmap here (scripts/setup test)")
@pytest.mark.parametrize("transport", ["tcp", "NK", "XX", pytest.param("tls", marks=needs_tls),
                                       pytest.param("websocket", marks=needs_websocket)])
def test_nmap(tunnel, service, transport):
    """A47: nmap's questions, hundreds of them: an open port that answers nothing that nmap could name.
    What a web server or a TLS server has to answer, nothing more, comes from the other transports."""
    made = {"tcp": lambda: None, "tls": Tls, "websocket": WebSocket}
    t = tunnel({"echo": service(Echo).port, "s": None},
               transport=made.get(transport, lambda: Noise(transport))())
    begun = time.monotonic()
    said = scan(t.control_port)
    took = time.monotonic() - begun
    assert 'state="open"' in said, said
    print(f"{transport}: {re.search(r'<service .*?>', said)}, {t.server.metric('strangers_accepted')} "
          f"connections in {took:.0f} s")
    # Without an answer nmap has its guess from the port's number alone, and "tcpwrapped" for a port that is
    # closed at once.
    said = said.replace('name="tcpwrapped" method="probed"', "")
    assert 'method="probed"' not in said or transport in ("tls", "websocket"), said
    assert "servicefp" not in said or transport in ("XX", "tls", "websocket"), said
    assert "rathole" not in said
    lines = t.server.log().count(" rejected: ")
    assert lines <= took + 2, f"{lines} lines in {took:.0f} s"
    unharmed(t)


# As nmap has them, for the ones that cannot be told apart by their first byte.
PROBES = {
    "GenericLines": b"\r\n\r\n",
    "HTTPOptions": b"OPTIONS / HTTP/1.0\r\n\r\n",
    "RTSPRequest": b"OPTIONS / RTSP/1.0\r\n\r\n",
    "RPCCheck": bytes.fromhex("8000002872fe1d130000000000000002000186a0000197") + bytes(20),
    "DNSVersionBindReqTCP": bytes.fromhex("001e0006010000010000000000000776657273696f6e0462696e640000100003"),
    "DNSStatusRequestTCP": bytes.fromhex("000c000010000000000000000000"),
    "Help": b"HELP\r\n",
    "TerminalServerCookie": b"\x03\0\0*%\xe0\0\0\0\0\0Cookie: mstshash=nmap\r\n\x01\0\x08\0\x03\0\0\0",
    "SMBProgNeg": bytes.fromhex("000000a4ff534d4272000000000801400000") + bytes(146),
    "X11Probe": b"l\0\x0b\0\0\0\0\0\0\0\0\0",
    "FourOhFourRequest": b"GET /nice%20ports%2C/Tri%6Eity.txt%2ebak HTTP/1.0\r\n\r\n",
    "LPDString": b"\x01default\n",
    "LDAPSearchReq": bytes.fromhex("30840000002d02010763840000002404000a01000a0100020100020164010100"
                                   "870b") + b"objectClass",
    "SIPOptions": b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm;branch=foo\r\nCSeq: 42 OPTIONS\r\n\r\n",
    "JavaRMI": b"JRMI\0\x02K",
    "NotesRPC": bytes.fromhex("3a0000002f00000002000040020f0001003d0500") + bytes(38),
    "redis": b"*1\r\n$4\r\ninfo\r\n",
    "memcached": b"stats\r\n",
    "socks5": b"\x05\x04\0\x01\x02\x80\x05\x01\0\x03\ngoogle.com\0P",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(21),
    "rsync": b"@RSYNCD: 31.0\n",
    "postgres": bytes.fromhex("0000000804d2162f"),
    "PROXY v2": bytes.fromhex("0d0a0d0a000d0a515549540a2111000c7f0000017f00000104d20050"),
}


@pytest.mark.parametrize("transport", ["tcp", "NK", "XX"])
def test_questions_of_scanners(tunnel, service, transport):
    """A47: no answer but a Noise message (to XX any 32 bytes are a first one), and no byte of the question in
    it; a line in the log each second at most."""
    t = tunnel({"echo": service(Echo).port, "s": None},
               transport=None if transport == "tcp" else Noise(transport))
    begun = time.monotonic()
    for name, question in PROBES.items():
        sock = stranger(t, question)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        how, answer = how_closed(sock, within(2))
        sock.close()
        assert how in ("fin", "rst"), f"{name}: still open"
        assert answer == b"" or transport == "XX" and len(answer) == 98, f"{name}: {answer!r}"
        assert not NO_TEXT.search(answer) or not any(
            word in answer for word in NO_TEXT.findall(question)), f"{name}: {answer!r}"
    assert t.server.log().count(" rejected: ") <= time.monotonic() - begun + 2
    unharmed(t)
