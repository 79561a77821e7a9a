"""Who may come: allow and deny of the services and of the control port, and max_new_per_second_per_ip.

Visitors come from addresses of 127.0.0.0/8. A visitor that may not come is reset at once, and nothing of it
reaches the client; the service's own count and the ledger say so.
"""

import ipaddress
import random
import signal
import time

import pytest

import ledger
from datagrams import UdpVisitor
from harness import ROOT, free_port, is_listening, scaled, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import Echo, answers

pytestmark = pytest.mark.ours


def visit(port, source, host="127.0.0.1"):
    """One visitor: "served", "rst" or "fin". A reset may come as early as in connect()."""
    try:
        with connect(port, host, source, within(5)) as sock:
            sock.sendall(b"x")
            return "served" if sock.recv(1) == b"x" else "fin"
    except (ConnectionResetError, BrokenPipeError):
        return "rst"


def stranger(port, source):
    """How a connection ends that says nothing; "open": not within a second or so."""
    try:
        with connect(port, source=source) as sock:
            return how_closed(sock, within(1.2))[0]
    except ConnectionResetError:
        return "rst"


def expect(port, served=(), refused=(), host="127.0.0.1"):
    for source in served:
        assert visit(port, source, host) == "served", source
    for source in refused:
        assert visit(port, source, host) == "rst", source


def reload(t, action=None):
    """Runs the action, has the server read its file and the lists again, and returns what it says."""
    since = len(t.server.log())
    if action:
        action()
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(signal.SIGHUP)
    t.server.wait_log(r"reload: ", within(10), since)
    return t.server.log()[since:]


def metric(t, name, value):
    wait_until(lambda: t.server.metric(name) == value, within(5), f"{name} = {value}")


# --- visitors of a service ----------------------------------------------------------------------


def test_denied_visitors_are_reset_and_reach_nobody(tunnel, service):
    local = service(Echo)
    t = tunnel({"echo": local.port}, service_options={"echo": {"deny": "127.2.0.0/16, 127.3.0.7"}})
    expect(t.port(), served=["127.0.0.1", "127.1.255.255", "127.3.0.6", "127.3.0.8"])
    known = local.connections
    refused = ["127.2.0.1", "127.2.255.255", "127.3.0.7"] * 5
    begin = time.monotonic()
    expect(t.port(), refused=refused)
    assert time.monotonic() - begin < within(5), "at once, without a wait for a channel"
    metric(t, "visitors_refused_denied", len(refused))
    assert local.connections == known
    said = [line for line in t.server.log().splitlines() if "its address is not allowed" in line]
    assert 1 <= len(said) <= 2 + time.monotonic() - begin, "rate-limited"
    assert "visitor from 127.2.0.1:" in said[0] and "[echo]" in said[0]


def test_allow_alone_keeps_all_others_out(tunnel, service):
    t = tunnel({"echo": service(Echo).port},
               service_options={"echo": {"allow": '["127.2.0.0/16", "127.3.0.7"]'}})
    expect(t.port(), served=["127.2.0.1", "127.2.255.254", "127.3.0.7"],
           refused=["127.0.0.1", "127.1.0.1", "127.3.0.6"])


def test_of_both_the_longest_prefix_decides(tunnel, service):
    t = tunnel({"echo": service(Echo).port, "open": service(Echo).port}, service_options={"echo": {
        "allow": "127.2.0.0/16, 127.2.5.5, 127.4.0.0/16", "deny": "127.2.5.0/24, 127.4.0.0/16"}})
    expect(t.port(), served=["127.2.0.1", "127.2.5.5"],
           refused=["127.2.5.4", "127.4.0.1", "127.0.0.1"])
    expect(t.port("open"), served=["127.2.5.4", "127.0.0.1"])


def test_ipv6_and_mapped_addresses(tunnel, service):
    """On a dual-stack socket an IPv4 visitor is mapped, and the IPv4 entries are about it."""
    t = tunnel({"echo": service(Echo).port}, visitor_host="[::]",
               service_options={"echo": {"deny": "::1, 127.2.0.0/16, ::ffff:127.3.0.0/112"}})
    expect(t.port(), served=["127.0.0.1"], refused=["127.2.0.1", "127.3.0.1"])
    expect(t.port(), refused=["::1"], host="::1")
    reload(t, lambda: t.service_options.update(echo={"allow": "::/0"}))
    expect(t.port(), refused=["127.0.0.1", "127.2.0.1"])
    expect(t.port(), served=["::1"], host="::1")


def test_a_reload_adds_and_removes(tunnel, service):
    t = tunnel({"echo": service(Echo).port})
    kept = connect(t.port(), source="127.2.0.1")
    kept.sendall(b"x")
    assert recv_exact(kept, 1) == b"x"
    said = reload(t, lambda: t.service_options.update(echo={"deny": "127.2.0.0/16"}))
    assert "1 changed" in said
    expect(t.port(), served=["127.3.0.1"], refused=["127.2.0.1"])
    kept.sendall(b"y")
    assert recv_exact(kept, 1) == b"y", "limits are for those who come"
    kept.close()
    reload(t, lambda: t.service_options.update(echo={"deny": "127.3.0.0/16"}))
    expect(t.port(), served=["127.2.0.1"], refused=["127.3.0.1"])
    reload(t, lambda: t.service_options.update(echo={}))
    expect(t.port(), served=["127.2.0.1", "127.3.0.1"])


# --- lists in files -----------------------------------------------------------------------------


def test_a_list_in_a_file(tunnel, service, tmp_path):
    """It is read again with the configuration. With an error in it the old list stays in force."""
    path = tmp_path / "blocked.txt"
    path.write_text("# blocked\n\n127.2.0.0/16  # here\n")
    t = tunnel({"echo": service(Echo).port},
               service_options={"echo": {"deny": f"127.9.0.0/16, file:{path}"}})
    refused = ["127.2.0.1", "127.9.0.1"]
    expect(t.port(), served=["127.3.0.1"], refused=refused)
    assert "nothing has changed" in reload(t)
    assert "1 changed" in reload(t, lambda: path.write_text("127.2.0.0/16\n127.3.0.0/16\n"))
    expect(t.port(), served=["127.4.0.1"], refused=refused + ["127.3.0.1"])
    assert "nothing has changed" in reload(
        t, lambda: path.write_text("127.3.0.0/16\n127.2.0.0/17\n127.2.128.0/17\n")), "the same set"
    for text, error in (("127.2.0.0/16\nwhat\n", f'{path}:2: expected an address or a prefix '
                                                 '(10.0.0.0/8), got "what"'),
                        ("127.2.0.1/16\n", f'{path}:1: "127.2.0.1/16" has bits behind its length: '
                                           '127.2.0.0/16, or the address alone?')):
        said = reload(t, lambda text=text: path.write_text(text))
        assert error in said
        expect(t.port(), served=["127.4.0.1"], refused=refused + ["127.3.0.1"])
    path.unlink()
    assert "no such file or directory" in reload(t)
    expect(t.port(), refused=refused)
    path.write_text("")
    reload(t)
    expect(t.port(), served=["127.2.0.1"], refused=["127.9.0.1"])


def test_a_touched_configuration_reads_the_lists_again(tunnel, service, tmp_path):
    """Only the configuration file is watched."""
    path = tmp_path / "list"
    path.write_text("127.2.0.0/16\n")
    t = tunnel({"echo": service(Echo).port}, service_options={"echo": {"allow": f"file:{path}"}})
    expect(t.port(), served=["127.2.0.1"], refused=["127.3.0.1"])
    path.write_text("127.3.0.0/16\n")
    (t.workdir / "server.ini").touch()
    wait_until(lambda: visit(t.port(), "127.3.0.1") == "served", within(5), "the new list")
    expect(t.port(), refused=["127.2.0.1"])


def test_a_hundred_thousand_prefixes(tunnel, service, tmp_path):
    """Random prefixes of 127.0.0.0/8 and of IPv6; the verdict on each of many addresses is the model's."""
    count, seed = scaled(100000, least=20000), 7
    rng = random.Random(seed)
    path = tmp_path / "list"
    prefixes = set()
    while len(prefixes) < count:
        bits = rng.choice((24, 26, 28, 30, 31, 32))
        first = (0x7f000000 | rng.getrandbits(24)) >> (32 - bits) << (32 - bits)
        if first >> 8 != 0x7f0000:
            prefixes.add((first, bits))
    lines = [f"{ipaddress.IPv4Address(first)}/{bits}" for first, bits in prefixes]
    lines += [f"2001:db8:{n:x}::/48" for n in range(1, 5000)]
    rng.shuffle(lines)
    path.write_text("\n".join(lines))
    t = tunnel({"echo": service(Echo).port}, service_options={"echo": {"deny": f"file:{path}"}})
    assert answers(t.port())

    def is_denied(address):
        return any((address >> (32 - bits) << (32 - bits), bits) in prefixes for bits in range(24, 33))

    seen = {True: 0, False: 0}
    near = rng.sample(sorted(prefixes), 60)
    for first, bits in near:
        for address in (first - 1, first, first + (1 << (32 - bits)) - 1, first + (1 << (32 - bits))):
            denied = is_denied(address)
            seen[denied] += 1
            source = str(ipaddress.IPv4Address(address))
            assert visit(t.port(), source) == ("rst" if denied else "served"), source
    assert min(seen.values()) > 20, seen
    assert "nothing has changed" in reload(t)


# --- the control port ---------------------------------------------------------------------------


def test_strangers_on_the_control_port(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, server_options={"deny": "127.2.0.0/16"})
    assert answers(t.port())
    for _ in range(5):
        assert stranger(t.control_port, "127.2.0.1") == "rst"
    metric(t, "strangers_denied", 5)
    assert stranger(t.control_port, "127.3.0.1") == "open"
    said = [line for line in t.server.log().splitlines() if "server.allow, deny" in line]
    assert 1 <= len(said) <= 5 and "connection from 127.2.0.1:" in said[0]
    expect(t.port(), served=["127.2.0.1"])  # visitors are another matter


def test_denied_strangers_take_no_place(tunnel, service):
    """However many come, they are not counted among those that have not logged in yet."""
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={
        "deny": "127.2.0.0/16", "max_pending_handshakes": 2, "max_pending_handshakes_per_ip": 2})
    t.start_server()
    pending = connect(t.control_port, source="127.3.0.1")
    for n in range(scaled(100, least=20)):
        assert stranger(t.control_port, f"127.2.0.{1 + n % 100}") == "rst"
    t.start_client()
    t.wait_ready()
    assert answers(t.port())
    assert t.server.metric("strangers_evicted") == 0
    assert how_closed(pending, 0.1)[0] == "open"
    pending.close()


def test_a_client_that_is_denied_later(tunnel, service):
    """Its session ends, because its data channels could not come; open connections go on."""
    t = tunnel({"echo": service(Echo).port})
    kept = connect(t.port())
    kept.sendall(b"x")
    assert recv_exact(kept, 1) == b"x"
    reload(t, lambda: t.server_options.update(deny="127.0.0.1"))
    wait_until(lambda: not answers(t.port(), timeout=0.5), within(5), "the session to end")
    kept.sendall(b"y")
    assert recv_exact(kept, 1) == b"y"
    reload(t, lambda: t.server_options.update(deny="127.0.0.2", allow="127.0.0.0/8"))
    wait_until(lambda: answers(t.port()), within(10), "the client to be back")
    kept.sendall(b"z")
    assert recv_exact(kept, 1) == b"z"
    kept.close()


# --- UDP ----------------------------------------------------------------------------------------


def test_udp_visitors(udp):
    t, local = udp(service_options={"echo": {"deny": "127.2.0.0/16", "udp_data_channels": 2}})
    before = local.received
    with UdpVisitor(t.port(), source="127.2.0.1") as denied, \
            UdpVisitor(t.port(), source="127.3.0.1") as other:
        for _ in range(4):
            denied.send(b"hello")
        assert other.insist(b"there", within(5)) == b"there"
        assert denied.receive(0.2) is None
        metric(t, "udp_dropped_access", 4)
        local.wait_quiet()
        assert local.received - before == 1 + len(other.drain()), "nothing of it reached the service"
        # A visitor that is denied now is forgotten, one that is allowed now may come.
        reload(t, lambda: t.service_options.update(
            echo={"deny": "127.3.0.0/16", "udp_data_channels": 2}))
        assert denied.insist(b"again", within(5)) == b"again"
        other.drain()
        other.send(b"gone")
        assert other.receive(0.3) is None
    assert "datagrams from 127.2.0.1:" in t.server.log()


def test_udp_new_visitors_per_second(udp):
    t, local = udp(ready=0, service_options={"echo": {"max_new_per_second_per_ip": 3}})
    with UdpVisitor(t.port(), source="127.5.0.1") as first:
        assert first.insist(b"first", within(10)) == b"first"
        begin = time.monotonic()
        visitors = [UdpVisitor(t.port(), source="127.4.0.1") for _ in range(10)]
        for visitor in visitors:
            visitor.send(b"x")
        answered = [visitor.receive(0.2) for visitor in visitors].count(b"x")
        if time.monotonic() - begin < 1:
            assert answered == 3
        assert first.insist(b"an old one", within(5)) == b"an old one"
        for visitor in visitors:  # whoever goes on sending comes in, a few each second
            assert visitor.insist(b"x", within(20), every=0.3) == b"x"
            visitor.close()
        assert time.monotonic() - begin > 2, "ten, three a second"
    assert t.server.metric("udp_dropped_rate") > 0


# --- the example --------------------------------------------------------------------------------


def test_the_example(ours, service, tmp_path):
    """examples/access-server.ini with other ports and its list elsewhere, and client.ini's service."""
    ports = {"2333": free_port(), "8080": free_port(), "5022": free_port()}
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("# scanners\n127.8.0.0/16\n")
    text = (ROOT / "examples" / "access-server.ini").read_text()
    for known, port in ports.items():
        text = text.replace(f":{known}", f":{port}")
    text = text.replace("/etc/rathole-uring/blocked.txt", str(blocked)).replace("203.0.113", "127.7.0")
    files = {"server": text, "client": f"[client]\nremote_addr = 127.0.0.1:{ports['2333']}\n"
             "default_token = change-me\n"}
    for name, port in (("web", "8080"), ("ssh", "5022")):
        local = service(Echo)
        ledger.current.note_route(ports[port], local.port)
        files["client"] += f"[client.services.{name}]\nlocal_addr = 127.0.0.1:{local.port}\n"
    for role, content in files.items():
        (tmp_path / f"{role}.ini").write_text(content)
        (tmp_path / f"{role}.ini").chmod(0o600)
    processes = [ours(tmp_path / f"{role}.ini") for role in files]
    for port in ("8080", "5022"):
        wait_until(lambda port=port: is_listening(ports[port]), within(10), "the services")
    expect(ports["8080"], served=["127.9.0.1"] * 30, refused=["127.8.0.1"])
    expect(ports["5022"], served=["127.7.0.1"], refused=["127.7.0.129", "127.0.0.1"])
    for process in reversed(processes):
        process.stop()


# --- new visitors per second --------------------------------------------------------------------


def test_new_visitors_per_second(tunnel, service):
    """The rate holds for an address, in no second more of them come in, and it is back after a second;
    other addresses and services know nothing of it."""
    local = service(Echo)
    t = tunnel({"echo": local.port, "other": service(Echo).port}, threads=2,
               service_options={"echo": {"max_new_per_second_per_ip": 5}})
    expect(t.port(), served=["127.4.0.1"] * 5)
    begin = time.monotonic()
    served = []
    while time.monotonic() - begin < 3:
        started = time.monotonic()
        if visit(t.port(), "127.2.0.1") == "served":
            served.append((started, time.monotonic()))
    for first, last in zip(served, served[5:]):
        assert last[1] - first[0] > 1, "six within a second"
    assert 10 <= len(served) <= 20
    assert t.server.metric("visitors_refused_rate") >= 1
    assert "visitor from 127.2.0.1:" in t.server.log()
    assert "too many from its address within a second" in t.server.log()
    assert local.connections == 5 + len(served), "nothing of the others came through"
    expect(t.port(), served=["127.3.0.1"] * 5)
    expect(t.port("other"), served=["127.2.0.1"] * 20)
    time.sleep(1.1)
    expect(t.port(), served=["127.2.0.1"] * 5)


def test_the_rate_can_be_changed(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, server_options={"per_ip_prefix_v4": 24},
               service_options={"echo": {"max_new_per_second_per_ip": 1}})
    begin = time.monotonic()
    got = [visit(t.port(), f"127.2.0.{n}") for n in range(1, 5)]
    if time.monotonic() - begin < 1:
        assert got == ["served", "rst", "rst", "rst"], "a prefix counts as one address"
    reload(t, lambda: t.service_options.update(echo={"max_new_per_second_per_ip": 0}))
    expect(t.port(), served=["127.2.0.1"] * 20)
