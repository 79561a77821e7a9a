"""Services that exist only while a client serves them: the ports of a range, which a client chooses by the
name that it logs in with, and services with bind = on_login.
"""

import re
import socket
import threading
import time

import pytest

import harness
import ledger
from datagrams import UdpEcho, knock
from harness import (
    OURS, RATHOLE, SLOW, TOKEN, free_port, free_ports, have, is_bound, is_listening, scaled, udp_sockets,
    wait_until, within,
)
from limits import Limits
from protocol import LoginRefused, Session, connect, recv_exact
from services import Echo, EchoForMany, Named, answers, ping
from upgrades import Visits, upgrade

pytestmark = pytest.mark.ours

CLIENTS = [OURS, pytest.param(RATHOLE, marks=pytest.mark.skipif(
    not have(RATHOLE), reason="no rathole 0.5.0 found (scripts/setup --peers)"))]
LIMITS = Limits(on_login_linger=1, watch_look=0.05, watch_again=0.03, watch_doubt=0.5, address_retry=0.25,
                retry_min=0.1, second=0.4)
PORTS = 8


class Ranged:
    """A server with a range of PORTS ports, and clients for some of them. range_options: further lines of
    the range's section. more: further sections of the server."""

    def __init__(self, make, ports=PORTS, first=None, limits=LIMITS, **kwargs):
        self.first = first or free_ports(ports)
        self.last = self.first + ports - 1
        self.range_options, self.more = "", ""
        self.t = make({}, start=False, limits=limits, **kwargs)
        self.t.config = self._config(self.t.config)

    def _config(self, usual):
        def config(role):
            if role == "client":
                return usual(role)
            ports, self.t.ports = self.t.ports, {}
            text = usual(role)
            self.t.ports = ports
            return (f'{text}\n[server.services."game-{{port}}"]\n'
                    f"bind_addr = 127.0.0.1:{self.first}-{self.last}\n{self.range_options}\n{self.more}\n")

        return config

    def serve(self, number, local_port):
        """Has the client serve the range's port with this number."""
        port = self.first + number
        self.t.services[f"game-{port}"] = local_port
        self.t.ports[f"game-{port}"] = port
        return port

    def login(self, number, token=None):
        return Session(self.t.control_port, f"game-{self.first + number}", token or self.t.token)

    def reload(self):
        since = len(self.t.server.log())
        path = self.t.workdir / "server.ini"
        path.write_text(self.t.config("server"))
        self.t.server.wait_log(r"reload: ", within(4), since)
        return self.t.server.log()[since:]

    def listening(self):
        return [port for port in range(self.first, self.last + 1) if is_listening(port)]


@pytest.fixture
def ranged(tunnel, processes):
    def make(**kwargs):
        r = Ranged(tunnel, **kwargs)
        r.t.kept = processes
        return r

    return make


def can_bind(port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


# --- a client chooses its port ------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_by_its_name(ranged, service, client):
    r = ranged(client=client)
    ports = [r.serve(n, service(Named, f"{n}").port) for n in (0, 3, PORTS - 1)]
    r.t.start()
    assert r.listening() == ports
    for n, port in zip((0, 3, PORTS - 1), ports):
        with connect(port) as visitor:
            visitor.settimeout(within(5))
            assert recv_exact(visitor, 1) == f"{n}".encode()
    log = r.t.server.log()
    assert f"[game-{ports[1]}] bind_addr 127.0.0.1:{ports[1]}: bound for its client" in log
    assert "reload" not in log and " ERROR " not in log


def test_nothing_is_bound_without_a_client(ranged):
    r = ranged()
    r.t.start_server()
    assert not r.listening()
    assert all(can_bind(port) for port in range(r.first, r.last + 1))


def test_strangers_make_nothing(ranged):
    """A wrong token, a name beside the range, and a login that stops before its Auth."""
    r = ranged()
    r.range_options = "token = the right one"
    r.t.start_server()
    fds = r.t.server.settled_fds()
    for n in range(PORTS):
        with pytest.raises(LoginRefused) as refused:
            r.login(n, "a wrong one")
        assert refused.value.ack == 2, "the token, not the service"
    for n in (-1, PORTS):
        with pytest.raises(LoginRefused) as refused:
            r.login(n, "the right one")
        assert refused.value.ack == 1, "no such service"
    assert r.t.server.metric("logins_failed") == PORTS
    assert r.t.server.metric("logins") == 0
    assert r.t.server.settled_fds() == fds
    assert all(can_bind(port) for port in range(r.first, r.last + 1))
    assert "bound for its client" not in r.t.server.log()
    with r.login(0, "the right one"):
        assert is_listening(r.first)


def test_two_clients_at_once(ranged):
    """Of two for one member the later one replaces the other, as for any service; both get their Ack."""
    r = ranged()
    r.t.start_server()
    sessions, failed = [], []

    def log_in(number):
        try:
            sessions.append(r.login(number))
        except Exception as error:  # whatever it is
            failed.append(error)

    threads = [threading.Thread(target=log_in, args=(n % 4,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within(10))
    assert not failed and len(sessions) == 12, failed
    assert r.listening() == [r.first + n for n in range(4)]
    assert r.t.server.log().count("bound for its client") == 4
    for session in sessions:
        session.close()


def test_a_port_in_use(ranged, service):
    """Another program has the port. The client is logged in all the same, and the port is tried again."""
    r = ranged()
    port = r.serve(2, service(Echo).port)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        r.t.start_server()
        r.t.start_client()
        r.t.client.wait_log(r"control channel established", within(5))
        said = rf"ERROR \[game-{port}\] bind_addr 127.0.0.1:{port}: address in use"
        r.t.server.wait_log(said, within(5))
    wait_until(lambda: answers(port), within(5), "the port")
    assert len(re.findall(said, r.t.server.log())) == 1
    r.t.server.wait_log(rf"\[game-{port}\] bind_addr 127.0.0.1:{port}: bound now", within(2))


# --- the end of a session -----------------------------------------------------------------------


def test_the_port_is_free_again(ranged):
    r = ranged()
    r.t.start_server()
    fds = r.t.server.settled_fds()
    for _ in range(2):
        session = r.login(1)
        port = r.first + 1
        assert is_listening(port)
        session.close()
        wait_until(lambda: not is_listening(port), within(2), "the port to refuse")
        wait_until(lambda: can_bind(port), within(LIMITS.on_login_linger + 2), "the port to be free")
        r.t.server.wait_fds(fds)
    assert r.t.server.log().count("given up: it has no client") == 2


def test_back_in_time(ranged):
    """A client that comes back within the time finds its service and its port as they were."""
    r = ranged()
    r.t.start_server()
    for n in range(4):
        with r.login(1):
            assert is_listening(r.first + 1)
        time.sleep(0.3 * LIMITS.on_login_linger * (n % 2))
    assert "given up" not in r.t.server.log()
    assert r.t.server.log().count("bound for its client") == 1


def test_logins_while_it_is_given_up(ranged):
    """A login that meets the removal of its service waits for the next one; none fails."""
    limits = Limits(on_login_linger=0.02)
    linger = min(limits.on_login_linger, 0.02 * SLOW)  # a release build keeps its own
    r = ranged(limits=limits)
    r.t.start_server()
    for n in range(scaled(200, 60)):
        with r.login(1):
            assert is_listening(r.first + 1)
        time.sleep(linger * (n % 20) / 10)
    assert r.t.server.metric("logins") == scaled(200, 60)
    if limits.on_login_linger == linger:
        assert "given up" in r.t.server.log()


def test_relays_keep_the_service(ranged, service):
    r = ranged()
    port = r.serve(1, service(Echo).port)
    r.t.start()
    with connect(port) as visitor:
        visitor.settimeout(within(5))
        visitor.sendall(b"1")
        assert recv_exact(visitor, 1) == b"1"
        r.t.client.signal(15)  # it drains
        wait_until(lambda: not is_listening(port), within(3), "the port to refuse")
        time.sleep(1.5 * LIMITS.on_login_linger)
        visitor.sendall(b"2")
        assert recv_exact(visitor, 1) == b"2"
        assert "given up" not in r.t.server.log()
    r.t.server.wait_log(r"given up", within(2 * LIMITS.on_login_linger + 3))
    r.t.start_client()
    wait_until(lambda: answers(port), within(5), "the service again")


# --- reloads ------------------------------------------------------------------------------------


def test_a_range_grows_and_shrinks(ranged, service):
    r = ranged()
    inside, outside = r.serve(0, service(Echo).port), r.serve(PORTS - 1, service(Echo).port)
    r.t.start()
    with connect(inside) as visitor:
        visitor.settimeout(within(5))
        r.last -= 1
        assert "reload: services: 1 changed;" in r.reload()
        wait_until(lambda: not is_listening(outside), within(2), "the port outside to go")
        wait_until(lambda: can_bind(outside), within(2), "the port outside to be free")
        visitor.sendall(b"1")
        assert recv_exact(visitor, 1) == b"1"
        assert r.t.server.metric("control_channels_lost") == 0
        r.last += 1
        assert "reload: services: 1 changed;" in r.reload()
        wait_until(lambda: answers(outside), within(5), "the port again")
        assert "nothing has changed" in r.reload()
        visitor.sendall(b"2")
        assert recv_exact(visitor, 1) == b"2"
    assert answers(inside)


def test_a_new_token_ends_the_sessions(ranged):
    r = ranged()
    r.range_options = "token = one"
    r.t.start_server()
    with r.login(0, "one") as session:
        r.range_options = "token = two"
        r.reload()
        with pytest.raises(EOFError):
            while session.command(within(5)) is not None:
                pass
    with pytest.raises(LoginRefused):
        r.login(0, "one")
    with r.login(0, "two"):
        assert is_listening(r.first)


def test_a_range_comes_and_goes(ranged, service):
    r = ranged()
    port = r.serve(0, service(Echo).port)
    r.t.start()
    usual = r.t.config
    r.t.config = lambda role: usual(role).replace("{port}", "{port}-other")
    assert "1 added, 1 removed" in r.reload()
    wait_until(lambda: not is_listening(port), within(2), "the port to go")
    r.t.config = usual
    r.reload()
    wait_until(lambda: answers(port), within(5), "the port again")


def test_ten_thousand_ports(ranged):
    """They cost less than 5 MiB, and a login finds the last of them."""
    r = ranged(first=free_ports(2), ports=2, threads=1)
    r.t.start_server()
    with r.login(0):
        before = r.t.server.private_kib()
        r.more = '[server.services."many-{port}"]\nbind_addr = 127.0.0.2:20000-29999'
        said = r.reload()
        after = r.t.server.private_kib()
    took = float(re.search(r"took ([\d.]+) ms", said).group(1))
    print(f"10,000 ports: {after - before} KiB; the reload took {took:.1f} ms")
    assert after - before < 5 * 1024 * SLOW
    with Session(r.t.control_port, "many-29999", TOKEN):
        assert is_listening(29999, "127.0.0.2")
    with pytest.raises(LoginRefused):
        Session(r.t.control_port, "many-30000", TOKEN)


# --- an upgrade ---------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_visitors_across_an_upgrade(ranged, service, client):
    r = ranged(client=client)
    port = r.serve(1, service(EchoForMany).port)
    r.t.start()
    visits = Visits(port, scaled(400, 60, full=2000))
    visits.more(scaled(200, 30, full=2000))
    old, new = upgrade(r.t)
    assert old.wait(within(5)) == 0
    visits.more(scaled(800, 120, full=8000))
    visits.all_served()
    assert new.metric("visitors_accepted") > 0
    for reason in ("limit", "queue", "no_client"):
        assert new.metric(f"visitors_refused_{reason}") == 0
    r.t.client.kill9()
    wait_until(lambda: can_bind(port), within(LIMITS.on_login_linger + 4), "the port to be free")


def test_a_client_that_does_not_come_back(ranged):
    """What a predecessor has passed is given up after the hold, if no client comes."""
    limits = Limits(on_login_linger=0.3, upgrade_hold=0.5, upgrade_quiet=0.3)
    r = ranged(limits=limits)
    r.t.start_server()
    session = r.login(1)
    upgrade(r.t)
    session.close()
    wait_until(lambda: can_bind(r.first + 1),
               within(limits.on_login_linger + limits.upgrade_hold + 4), "the port to be free")


# --- kinds of services --------------------------------------------------------------------------


def test_udp_and_tcp_on_one_port(ranged, service):
    r = ranged()
    port = r.serve(4, service(Echo).port)
    echo = service(UdpEcho)
    r.more = (f'[server.services."game-udp-{{port}}"]\ntype = udp\n'
              f"bind_addr = 127.0.0.1:{r.first}-{r.last}\n")
    r.t.services[f"game-udp-{port}"], r.t.ports[f"game-udp-{port}"] = echo.port, port
    r.t.client_service_options[f"game-udp-{port}"] = {"type": "udp"}
    r.t.start_server()
    assert not udp_sockets(port)
    r.t.start_client()
    wait_until(lambda: answers(port), within(5), "TCP")
    wait_until(lambda: is_bound(port), within(5), "UDP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
        visitor.settimeout(within(0.5))
        for _ in range(10):
            visitor.sendto(b"datagram", ("127.0.0.1", port))
            try:
                assert visitor.recv(100) == b"datagram"
                break
            except TimeoutError:
                continue
        else:
            raise AssertionError("no answer by UDP")
    r.t.client.signal(15)
    wait_until(lambda: can_bind(port, socket.SOCK_DGRAM) and can_bind(port),
               within(LIMITS.on_login_linger + 3), "both ports to be free")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_service_with_on_login(tunnel, service, client):
    t = tunnel({"echo": service(Echo).port}, start=False, limits=LIMITS, client=client,
               service_options={"echo": {"bind": "on_login"}})
    t.start_server()
    assert can_bind(t.port())
    t.start_client()
    t.wait_ready()
    ping(t.port())
    t.client.kill9()
    wait_until(lambda: can_bind(t.port()), within(LIMITS.on_login_linger + 5), "the port to be free")
    t.start_client()
    wait_until(lambda: answers(t.port()), within(5), "the service again")


def test_on_login_is_switched_by_a_reload(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, limits=LIMITS)
    for bind in ("on_login", "always"):
        t.service_options = {"echo": {"bind": bind}}
        since = len(t.server.log())
        (t.workdir / "server.ini").write_text(t.config("server"))
        t.server.wait_log(r"reload: ", within(4), since)
        ping(t.port())
        assert t.server.metric("control_channels_lost") == 0
    t.client.kill9()
    time.sleep(1.5 * LIMITS.on_login_linger)
    assert not can_bind(t.port()), "always"


def test_a_unix_socket_with_on_login(tunnel, service, tmp_path):
    path = tmp_path / "visitors"
    t = tunnel({"echo": service(Echo).port}, start=False, limits=LIMITS,
               service_options={"echo": {"bind": "on_login", "bind_addr": f"unix:{path}"}})
    t.start_server()
    assert not path.exists()
    with t.login("echo"):
        assert path.is_socket()
    wait_until(lambda: not path.exists(), within(LIMITS.on_login_linger + 3), "its file to go")


# --- the files in examples ----------------------------------------------------------------------


def test_the_examples(ranged, service):
    """examples/range-server.ini and range-client.ini, with free ports in place of theirs."""
    r = ranged(ports=20)
    t, local, ssh = r.t, free_ports(8), service(Echo)
    t.services["ssh"] = ssh.port  # chooses its visitor port
    t.ports["ssh"] = free_port()
    echo, udp = service(Echo, port=local), service(UdpEcho, port=local)
    tens = [service(Echo, port=local + n) for n in range(1, 5)]
    offset = r.first + 10 - (local + 1)
    ports = {
        "2333": t.control_port, "7022": t.port("ssh"), ":22\n": f":{ssh.port}\n", "6005": r.first + 5,
        "6000-6999": f"{r.first}-{r.last}", "7777": echo.port, "7010-7013": f"{local + 1}-{local + 4}",
        "{port-1000}": f"{{port{offset:+d}}}",
    }
    texts = {}
    for role in ("server", "client"):
        lines = (harness.ROOT / "examples" / f"range-{role}.ini").read_text().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("#")) + "\n"
        for old, new in ports.items():
            text = text.replace(old, str(new))
        texts[role] = text
    ledger.current.note_route(r.first + 5, local)
    for n, _ in enumerate(tens):
        ledger.current.note_route(r.first + 10 + n, local + 1 + n)
    t.server = t.spawn("server", texts["server"])
    wait_until(lambda: is_listening(t.control_port), within(5), "the server")
    t.client = t.spawn("client", texts["client"])
    expected = [r.first + n for n in (5, 10, 11, 12, 13)]
    wait_until(lambda: r.listening() == expected, within(5), "the ports")
    for port in [*expected, t.port("ssh")]:
        wait_until(lambda: answers(port), within(5), f"port {port}")
    knock(r.first + 5, visitors=2)
    assert udp.received > 0


# --- a client's range ---------------------------------------------------------------------------


def test_ranges_on_both_sides(ranged, service):
    """The client's local ports are others than the server's: {port+N} in its names."""
    r = ranged()
    local = free_ports(PORTS)
    for n in range(PORTS):
        service(Named, f"{n}", port=local + n)
        ledger.current.note_route(r.first + n, local + n)
    offset = r.first - local
    r.t.start_server()
    text = r.t.config("client") + (
        f'\n[client.services."game-{{port{offset:+d}}}"]\n'
        f"local_addr = 127.0.0.1:{local}-{local + PORTS - 1}\n")
    r.t.client = r.t.spawn("client", text)
    wait_until(lambda: len(r.listening()) == PORTS, within(10), "all ports")
    for n in range(PORTS):
        with connect(r.first + n) as visitor:
            visitor.settimeout(within(5))
            assert recv_exact(visitor, 1) == f"{n}".encode()
