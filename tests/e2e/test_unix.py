"""Unix sockets: where visitors arrive, as local services, and on both sides; their files, their
permissions, reloads and upgrades."""

import hashlib
import os
import pathlib
import re
import select
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import harness
import protocol
import pytest
import upgrades
from harness import BINARIES, OURS, RATHOLE, free_port, scaled, wait_until, within
from limits import Limits

PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS)]


@pytest.fixture
def run_dir():
    """A directory with a short name: the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="e2e-unix-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path


class Local:
    """A local service at a path or a port; `serve` runs in a thread for each connection."""

    def __init__(self, address, serve, backlog=1024, accepting=True):
        self.serve = serve
        if isinstance(address, int):
            self.listener = socket.create_server(("127.0.0.1", address), backlog=backlog)
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            name = str(address)
            self.listener.bind("\0" + name[1:] if name[0] == "@" else name)
            self.listener.listen(backlog)
        self.connections = 0
        self.thread = threading.Thread(target=self._accept, daemon=True)
        if accepting:
            self.thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.settimeout(60)
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock):
        with sock:
            try:
                self.serve(sock)
            except OSError:
                pass

    def stop(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()


def echo(sock):
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def answer_at_end(sock):
    """Reads all, then sends the digest and 4 MiB that it determines."""
    digest = hashlib.sha256()
    while data := sock.recv(1 << 16):
        digest.update(data)
    sock.sendall(digest.digest() + hashlib.shake_256(digest.digest()).digest(4 << 20))


@pytest.fixture
def local():
    made = []

    def make(address, serve=echo, **kwargs):
        made.append(Local(address, serve, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def visit(address, timeout=10):
    if isinstance(address, int):
        return socket.create_connection(("127.0.0.1", address), timeout=within(timeout))
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(within(timeout))
    name = str(address)
    try:
        sock.connect("\0" + name[1:] if name[0] == "@" else name)
    except OSError:
        sock.close()
        raise
    return sock


def ping(address, word=b"ping", timeout=10):
    with visit(address, timeout) as sock:
        sock.sendall(word)
        got = b""
        while len(got) < len(word) and (data := sock.recv(65536)):
            got += data
        return got


def answers(address):
    try:
        return ping(address, timeout=2) == b"ping"
    except OSError:
        return False


def refuses(address):
    try:
        visit(address).close()
        return False
    except ConnectionRefusedError:
        return True


def is_listening(address):
    if isinstance(address, int):
        return harness.is_listening(address)
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()
    # Flags, type, state, inode, path: a socket that accepts has __SO_ACCEPTCON.
    return any(line.split()[3] == "00010000" and line.split()[-1] == str(address)
               for line in lines[1:])


class Ends:
    """One service, `echo`, between two addresses that are paths or ports."""

    def __init__(self, tunnel, bind, local, kind="tcp", prefix="unix:", options=(), **kwargs):
        def text(address):
            return f"127.0.0.1:{address}" if isinstance(address, int) else f"{prefix}{address}"

        self.bind, self.local = bind, local
        options = {"bind_addr": text(bind), "type": kind, **dict(options)}
        client = {"local_addr": text(local), "type": kind}
        self.tunnel = tunnel({"echo": free_port()}, start=False, service_options={"echo": options},
                             client_service_options={"echo": client}, **kwargs)

    def serve(self):
        """Starts the server; its addresses are bound, or have failed, when this returns: they are
        later than the control port, and the line comes behind them."""
        self.tunnel.start_server()
        if self.tunnel.impl["server"] == OURS:
            self.tunnel.server.wait_log("server on ", within(10))

    def log_in(self):
        """Starts both ends; no visitor comes."""
        self.serve()
        self.tunnel.start_client()
        self.tunnel.server.wait_log("control channel established", within(10))
        wait_until(lambda: is_listening(self.bind), within(5), "the service's address")
        return self

    def start(self):
        self.serve()
        self.tunnel.start_client()
        wait_until(lambda: answers(self.bind), within(10), "the service")
        return self

    def rewrite(self, **options):
        """A reload of the server's file with these options of the service."""
        self.tunnel.service_options["echo"].update(options)
        path = self.tunnel.workdir / "server.ini"
        since = len(self.tunnel.server.log())
        path.write_text(self.tunnel.config("server"))
        self.tunnel.server.signal(signal.SIGHUP)
        return self.tunnel.server.wait_log("reload: ", within(5), since=since)


@pytest.fixture
def ends(tunnel, processes):
    def make(*args, **kwargs):
        new = Ends(tunnel, *args, **kwargs)
        new.tunnel.kept = processes
        return new

    return make


# --- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["bind", "local", "both", "abstract"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_echo(ends, local, run_dir, pair, where):
    """With the real rathole at the end that has a TCP address."""
    bind, service = run_dir / "b", run_dir / "s"
    if where == "abstract":
        bind, service = f"@{bind}", f"@{service}"
    if where == "local" or pair[0] == RATHOLE:
        bind = free_port()
    if where == "bind" or pair[1] == RATHOLE:
        service = free_port()
    if isinstance(bind, int) and isinstance(service, int):
        pytest.skip("no unix socket is left: rathole 0.5 has none")
    local(service)
    e = ends(bind, service, **dict(zip(("server", "client"), pair))).start()
    for size in (1, 1000, 100_000, 3_000_000):
        word = os.urandom(size)
        got = []
        with visit(bind) as sock:
            reader = threading.Thread(target=lambda: got.append(read_all(sock, size)))
            reader.start()
            sock.sendall(word)
            reader.join(within(20))
        assert got == [word], size
    assert e.tunnel.server.alive() and e.tunnel.client.alive()


def read_all(sock, size=None):
    got = bytearray()
    while (size is None or len(got) < size) and (data := sock.recv(1 << 16)):
        got += data
    return bytes(got)


@pytest.mark.ours
def test_half_close_with_bulk(ends, local, run_dir, threads, transport):
    """A visitor sends, half-closes, and gets the digest of all it has sent, and 4 MiB more, whole."""
    local(run_dir / "s", answer_at_end)
    e = ends(run_dir / "b", run_dir / "s", threads=threads, transport=transport)
    e.log_in()
    sent = hashlib.sha256()
    with visit(e.bind, 40) as sock:
        for _ in range(scaled(1024, 64)):
            block = os.urandom(1 << 16)
            sent.update(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        got = read_all(sock)
    assert got[:32] == sent.digest()
    assert got[32:] == hashlib.shake_256(got[:32]).digest(4 << 20)


@pytest.mark.ours
def test_service_ends_first(ends, local, run_dir):
    """The end of stream of the service reaches the visitor behind the last byte, and the visitor may
    go on sending."""
    heard = []

    def banner(sock):
        sock.sendall(b"x" * 1_000_000)
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_all(sock))

    local(run_dir / "s", banner)
    e = ends(run_dir / "b", run_dir / "s").log_in()
    with visit(e.bind) as sock:
        assert len(read_all(sock)) == 1_000_000
        sock.sendall(b"thanks")
    wait_until(lambda: b"thanks" in heard, within(5), "what the visitor sent after it")


@pytest.mark.ours
def test_a_reset_stays_one_where_the_kernel_has_one(ends, local, run_dir):
    """A service that closes a unix socket with bytes unread resets it, and a TCP visitor sees that; a
    visitor at a unix socket sees a reset if the server has not read all of its bytes."""
    def reset(sock):
        sock.recv(1)
        time.sleep(0.2)

    local(run_dir / "s", reset)
    port = free_port()
    e = ends(port, run_dir / "s")
    e.log_in()
    with visit(port) as sock:
        sock.sendall(b"y" * 1000)
        with pytest.raises(ConnectionResetError):
            while sock.recv(100):
                pass


@pytest.mark.ours
@pytest.mark.parametrize("kind,command", [("tcp", 0), ("socket_stream", 2)])
def test_data_command(ends, run_dir, kind, command):
    """unix: with type = tcp looks like TCP to every client; socket_stream sends rathole 0.6's command."""
    e = ends(run_dir / "b", run_dir / "s", kind=kind, prefix="unix:" if kind == "tcp" else "")
    e.serve()
    session = e.tunnel.login("echo")
    e.tunnel.server.wait_log("established", within(5))
    channel = session.open_channel()
    with visit(e.bind) as sock:
        sock.sendall(b"hello")
        channel.settimeout(within(5))
        assert protocol.recv_exact(channel, 9) == protocol.u32(command) + b"hello"
    session.close()


@pytest.mark.ours
def test_socket_stream(ends, local, run_dir):
    local(run_dir / "s")
    ends(run_dir / "b", run_dir / "s", kind="socket_stream", prefix="").start()


def test_socket_stream_and_ratholes_client(ends, local, run_dir):
    """rathole 0.5 does not know the command: it drops that data channel, and its session goes on."""
    service = free_port()
    local(service)
    e = ends(run_dir / "b", service, client=RATHOLE, options={"type": "socket_stream"})
    e.log_in()
    for _ in range(3):
        with visit(e.bind) as sock:
            try:
                sock.sendall(b"hello")
                assert sock.recv(10) == b""
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert e.tunnel.client.alive()
    assert len(re.findall("control channel established", e.tunnel.server.log())) == 1


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.ours
def test_the_file_comes_and_goes(ends, local, run_dir):
    """It is there while the server runs; without a client it refuses, as a port does."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s")
    e.serve()
    assert stat.S_ISSOCK(os.lstat(e.bind).st_mode)
    assert refuses(e.bind)
    e.tunnel.start_client()
    wait_until(lambda: answers(e.bind), within(10), "the service")
    e.tunnel.server.stop()
    assert not e.bind.exists()
    assert list(run_dir.iterdir()) == [run_dir / "s"]


@pytest.mark.ours
def test_a_file_left_behind(ends, local, run_dir):
    """A killed server leaves its file; the next one takes its place."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    e.tunnel.server.kill9()
    assert e.bind.exists()
    wait_until(lambda: refuses(e.bind), within(5), "the end of the killed process's rings")
    e.serve()
    wait_until(lambda: answers(e.bind), within(10), "the service")
    e.tunnel.server.stop()
    assert not e.bind.exists()


@pytest.mark.ours
@pytest.mark.parametrize("listens", [True, False], ids=["listens", "bound"])
def test_a_file_in_use(ends, local, run_dir, listens):
    """A socket that somebody is bound to is not touched, even if it does not listen; the service
    starts when it is gone, and nobody was disturbed by a connection meanwhile."""
    other = local(run_dir / "b", accepting=False) if listens else socket.socket(socket.AF_UNIX)
    if not listens:
        other.bind(str(run_dir / "b"))
    inode = os.stat(run_dir / "b").st_ino
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s")
    e.serve()
    e.tunnel.server.wait_log(r"bind_addr unix:.*/b: address in use \(another process", within(5))
    e.tunnel.start_client()
    time.sleep(1.5)  # two more attempts
    assert os.stat(run_dir / "b").st_ino == inode
    if listens:
        other.listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.listener.accept()
        other.stop()
    else:
        other.close()
    wait_until(lambda: answers(e.bind), within(10), "the service")
    e.tunnel.server.wait_log("bound now", within(5))


@pytest.mark.ours
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_kept(ends, run_dir, kind):
    path = run_dir / "b"
    target = run_dir / "precious"
    target.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(target)
    else:
        path.mkdir()
    e = ends(path, run_dir / "s")
    e.serve()
    e.tunnel.server.wait_log("there is a file that is no socket; it is not removed", within(5))
    e.tunnel.server.stop()
    assert path.is_dir() or path.read_text() == "precious"
    assert target.read_text() == "precious"


@pytest.mark.ours
def test_a_file_that_others_took(ends, local, run_dir):
    """Somebody has removed the file and put his own socket there: the server leaves it alone."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    e.bind.unlink()
    local(run_dir / "b")
    e.tunnel.server.stop()
    assert answers(run_dir / "b")


@pytest.mark.ours
@pytest.mark.parametrize("mode", [None, "0600", "666", "0o770"])
def test_mode(ends, run_dir, mode):
    """Whatever the umask; 0660 if nothing is said. A reload changes it without another socket."""
    e = ends(run_dir / "b", run_dir / "s", options={"socket_mode": mode} if mode else {})
    old = os.umask(0o077)
    try:
        e.serve()
    finally:
        os.umask(old)
    wanted = {None: 0o660, "0600": 0o600, "666": 0o666, "0o770": 0o770}[mode]
    status = os.stat(e.bind)
    assert stat.S_IMODE(status.st_mode) == wanted
    e.rewrite(socket_mode="0640")
    wait_until(lambda: stat.S_IMODE(os.stat(e.bind).st_mode) == 0o640, within(5), "another mode")
    assert os.stat(e.bind).st_ino == status.st_ino


@pytest.mark.ours
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("owner,uid,gid", [
    ("daemon", 1, 0), ("daemon:bin", 1, 2), (":bin", 0, 2), ("1234:5678", 1234, 5678)])
def test_owner(ends, run_dir, owner, uid, gid):
    e = ends(run_dir / "b", run_dir / "s", options={"socket_owner": owner})
    e.serve()
    status = os.stat(e.bind)
    assert (status.st_uid, status.st_gid) == (uid, gid)
    e.rewrite(socket_owner=":daemon")
    wait_until(lambda: os.stat(e.bind).st_gid == 1, within(5), "another group")


@pytest.mark.ours
def test_owner_that_nobody_knows(ends, run_dir):
    e = ends(run_dir / "b", run_dir / "s", options={"socket_owner": "no-such-user-here"})
    e.serve()
    e.tunnel.server.wait_log("socket_owner: no such user or group on this machine", within(5))
    assert list(run_dir.iterdir()) == []


@pytest.mark.ours
def test_root_that_becomes_a_user(tunnel, nobody, run_dir):
    """The file is the user's, and may still be given away at the start."""
    user, directory, _ = nobody
    e = Ends(tunnel, directory / "b", run_dir / "s", options={"socket_owner": ":bin"},
             server_options={"user": "nobody"})
    e.tunnel.workdir.parent.chmod(0o755)
    e.serve()
    status = os.stat(e.bind)
    assert (status.st_uid, status.st_gid) == (user, 2)
    e.tunnel.server.wait_log("without privileges", within(5))
    e.tunnel.server.stop()
    assert not e.bind.exists()


# --- reload, upgrade --------------------------------------------------------------------------


@pytest.mark.ours
def test_reload_moves_and_removes(ends, local, run_dir):
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    with visit(e.bind) as held:
        held.sendall(b"1")
        assert held.recv(1) == b"1"
        e.rewrite(bind_addr=f"unix:{run_dir}/c")
        wait_until(lambda: answers(run_dir / "c"), within(5), "the new address")
        wait_until(lambda: not e.bind.exists(), within(5), "the end of the old file")
        e.rewrite(bind_addr=f"127.0.0.1:{e.tunnel.port()}")
        wait_until(lambda: answers(e.tunnel.port()), within(5), "the port")
        wait_until(lambda: not (run_dir / "c").exists(), within(5), "the end of the file")
        e.rewrite(bind_addr=f"unix:{run_dir}/c", type="socket_stream")
        wait_until(lambda: answers(run_dir / "c"), within(10), "the file again")
        held.sendall(b"2")
        assert held.recv(1) == b"2"
        config = e.tunnel.workdir / "server.ini"
        text = config.read_text()
        config.write_text(text[:text.index("[server.services")])
        e.tunnel.server.signal(signal.SIGHUP)
        wait_until(lambda: not (run_dir / "c").exists(), within(5), "the end of the removed service")
        held.sendall(b"3")
        assert held.recv(1) == b"3"


@pytest.mark.ours
def test_services_swap_their_files(tunnel, local, run_dir):
    for name in "ab":
        local(run_dir / f"{name}.local", lambda sock, name=name: sock.sendall(name.encode()))
    def addresses(order):
        return {name: {"bind_addr": f"unix:{run_dir}/{path}"} for name, path in zip("ab", order)}
    t = tunnel({"a": free_port(), "b": free_port()}, start=False, service_options=addresses("xy"),
               client_service_options={name: {"local_addr": f"unix:{run_dir}/{name}.local"}
                                       for name in "ab"})
    t.start_server()
    t.start_client()

    def who(path):
        try:
            with visit(run_dir / path) as sock:
                return sock.recv(1).decode()
        except OSError:
            return None

    wait_until(lambda: (who("x"), who("y")) == ("a", "b"), within(10), "both services")
    t.service_options = addresses("yx")
    (t.workdir / "server.ini").write_text(t.config("server"))
    wait_until(lambda: (who("x"), who("y")) == ("b", "a"), within(10), "the swap")
    t.server.stop()
    assert sorted(path.name for path in run_dir.iterdir()) == ["a.local", "b.local"]


@pytest.mark.ours
def test_upgrade(ends, local, run_dir, threads):
    """Visitors who come all the time are served, open connections go on, and the file stays until the
    successor's end."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s", threads=threads).start()
    outcomes, ending = [], threading.Event()

    def come():
        while not ending.is_set():
            try:
                outcomes.append(ping(e.bind, b"hello", timeout=20))
            except OSError as error:
                outcomes.append(error)
            time.sleep(0.005)

    visitors = [threading.Thread(target=come) for _ in range(8)]
    inode = os.stat(e.bind).st_ino
    with visit(e.bind) as held:
        held.sendall(b"1")
        assert held.recv(1) == b"1"
        for thread in visitors:
            thread.start()
        time.sleep(0.3)
        old, _ = upgrades.upgrade(e.tunnel)
        before = len(outcomes)
        wait_until(lambda: len(outcomes) > before + 100, within(15), "visitors after the upgrade")
        ending.set()
        for thread in visitors:
            thread.join(within(30))
        held.sendall(b"2")
        assert held.recv(1) == b"2"
    assert set(outcomes) == {b"hello"}, [o for o in outcomes if o != b"hello"][:5]
    old.wait(within(10))
    assert os.stat(e.bind).st_ino == inode
    e.tunnel.server.stop()
    assert not e.bind.exists()


@pytest.mark.ours
def test_an_upgrade_that_fails(ends, local, run_dir):
    """The new process has taken the socket over and ends: the file stays, and the old one serves."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    path = e.tunnel.workdir / "server.ini"
    path.write_text(path.read_text() + "nonsense = 1\n")
    e.tunnel.server.signal(signal.SIGUSR2)
    e.tunnel.server.wait_log("this process goes on serving", within(15))
    assert answers(e.bind)


@pytest.mark.ours
def test_a_socket_of_a_service_manager(ends, local, run_dir):
    """Its file keeps its mode, and outlives the server."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(e.bind))
    e.bind.chmod(0o604)
    sock.listen(100)
    e.tunnel.server = upgrades.spawn_activated(e.tunnel, "server", {"service-echo": sock})
    e.tunnel.start_client()
    wait_until(lambda: answers(e.bind), within(10), "the service")
    assert stat.S_IMODE(os.stat(e.bind).st_mode) == 0o604
    e.tunnel.server.stop()
    assert e.bind.exists()
    sock.close()


# --- load -------------------------------------------------------------------------------------


@pytest.mark.ours
def test_churn(ends, local, run_dir, threads):
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s", threads=threads).start()

    def one_round():
        failures = []

        def some():
            for n in range(scaled(250, 50)):
                try:
                    with visit(e.bind) as sock:
                        sock.sendall(b"abc")
                        if n % 4 != 3 and sock.recv(3) != b"abc":  # every fourth leaves unread bytes
                            failures.append("not an echo")
                except OSError as error:
                    failures.append(error)

        workers = [threading.Thread(target=some) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures, failures[:5]

    harness.nothing_piles_up([e.tunnel.server, e.tunnel.client], one_round, scaled(1000, 200))


@pytest.mark.ours
@pytest.mark.skipif(harness.SANITIZED, reason="a sanitizer's memory")
def test_memory_of_idle_connections(ends, local, run_dir):
    """At most 1 KiB on each end, as over TCP; 4 MiB more for shared buffers."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    count = scaled(4000, 1000)
    ends_of_it = [e.tunnel.server, e.tunnel.client]
    before = [process.private_kib() for process in ends_of_it]
    socks = []
    try:
        for _ in range(count):
            socks.append(visit(e.bind, 30))
            socks[-1].sendall(b"1")
            assert socks[-1].recv(1) == b"1"
        grown = [process.private_kib() - old for process, old in zip(ends_of_it, before)]
    finally:
        for sock in socks:
            sock.close()
    assert max(grown) < count + 4096, grown


@pytest.mark.ours
def test_a_local_service_whose_queue_is_full(ends, local, run_dir):
    """connect(2) to a unix socket says EAGAIN then; the client tries again until there is room."""
    service = local(run_dir / "s", backlog=1, accepting=False)
    e = ends(run_dir / "b", run_dir / "s").log_in()
    socks = [visit(e.bind, 20) for _ in range(40)]
    for n, sock in enumerate(socks):
        sock.sendall(b"%03d" % n)
    time.sleep(1)
    service.thread.start()
    for n, sock in enumerate(socks):
        assert sock.recv(10) == b"%03d" % n
        sock.close()


@pytest.mark.ours
def test_a_local_service_that_never_accepts(ends, local, run_dir):
    """After connect_timeout the visitor is closed, and the log says why."""
    local(run_dir / "s", backlog=1, accepting=False)
    e = ends(run_dir / "b", run_dir / "s", client_options={"connect_timeout": 1}).log_in()
    socks = [visit(e.bind, 20) for _ in range(6)]

    def ends_seen():
        return len(select.select(socks, [], [], 0)[0])  # nobody sends anything

    wait_until(lambda: ends_seen() >= 4, within(5), "the end of those who found no room")
    time.sleep(0.3)
    assert ends_seen() == 4, "two are in the queue, one more than its backlog"
    e.tunnel.client.wait_log("cannot connect to the local service unix:.*temporarily unavailable",
                             within(5))
    for sock in socks:
        sock.close()


@pytest.mark.ours
def test_without_a_client(ends, local, run_dir):
    """A unix socket can't stop listening: after its client has left, visitors are closed at once."""
    local(run_dir / "s")
    e = ends(run_dir / "b", run_dir / "s").start()
    e.tunnel.client.stop()
    wait_until(lambda: not answers(e.bind), within(5), "the end of the session")
    with visit(e.bind) as sock:
        assert sock.recv(1) == b""
    e.tunnel.start_client()
    wait_until(lambda: answers(e.bind), within(10), "the service")


@pytest.mark.ours
def test_visitor_that_has_gone(ends, local, run_dir):
    """The service goes on sending after its visitor has closed: it is told."""
    told = threading.Event()

    def source(sock):
        try:
            while True:
                sock.sendall(b"z" * 65536)
        except OSError:
            told.set()

    local(run_dir / "s", source)
    e = ends(run_dir / "b", run_dir / "s").log_in()
    with visit(e.bind) as sock:
        assert sock.recv(10) == b"z" * 10
    assert told.wait(within(10))


@pytest.mark.ours
@pytest.mark.time_limit(150)  # a release build has the whole minute of LIMIT_GONE_MS
@pytest.mark.parametrize("where", ["visitor", "service"])
def test_an_answer_that_nobody_can_get(ends, local, run_dir, where):
    """One side closes its unix socket, the other neither answers nor ends: TCP would find out by
    keepalive. One that half-closes waits as long as it likes."""
    limits = Limits(gone=1.5)
    ended = threading.Event()

    def patient(sock):
        assert sock.recv(10) == b"hello"
        if where == "service":
            return  # closes
        assert sock.recv(10) == b""
        try:
            time.sleep(0.1)
            sock.settimeout(within(limits.gone + 10))
            poll = select.poll()
            poll.register(sock, 0)
            if poll.poll(1000 * within(limits.gone + 10)):
                ended.set()
        except OSError:
            pass

    local(run_dir / "s", patient)
    e = ends(run_dir / "b", run_dir / "s", limits=limits).log_in()
    half = visit(e.bind)
    half.sendall(b"hello")
    half.shutdown(socket.SHUT_WR)
    gone = visit(e.bind)
    gone.sendall(b"hello")
    if where == "visitor":
        gone.close()
        assert ended.wait(within(limits.gone + 6)), "the service is told"
        assert half_is_open(half)
    else:
        assert gone.recv(1) == b""
        wait_until(lambda: not half_is_open(gone), within(limits.gone + 6), "the visitor's end")
    half.close()
    gone.close()


def half_is_open(sock):
    """Whether the other side of a unix socket is still there, half-closed or not."""
    poll = select.poll()
    poll.register(sock, 0)
    return not poll.poll(0)


@pytest.mark.ours
def test_the_examples(ours, local, run_dir, tmp_path):
    """examples/unix-*.ini, with other directories and another port."""
    local(run_dir / "app.sock")
    port = free_port()
    paths = {}
    for role in ("server", "client"):
        text = (harness.ROOT / "examples" / f"unix-{role}.ini").read_text()
        text = re.sub("/run/rathole-uring/server|/run/app", str(run_dir), text)
        paths[role] = tmp_path / f"{role}.ini"
        paths[role].write_text(text.replace("2333", str(port)))
        paths[role].chmod(0o600)
    server = ours(paths["server"])
    client = ours(paths["client"])
    wait_until(lambda: answers(run_dir / "web.sock"), within(10), "the service")
    for process in (client, server):
        process.stop()
    assert [path.name for path in run_dir.iterdir()] == ["app.sock"]


# --- configuration ----------------------------------------------------------------------------


@pytest.mark.ours
@pytest.mark.parametrize("service,words", [
    ("bind_addr = unix:relative", "expected unix:/path (absolute) or unix:@name"),
    ("bind_addr = unix:/" + 107 * "x", "has at most 107 bytes, this one has 108"),
    ("bind_addr = unix:/run/x\ntype = udp", "type = udp has no unix sockets"),
    ("bind_addr = 127.0.0.1:1\ntype = socket_stream", "expected /path"),
    ("bind_addr = unix:/run/x\nsocket_mode = 0888", "expected octal permission bits"),
    ("bind_addr = unix:/run/x\nsocket_owner = a:b:c", "expected user, user:group or :group"),
])
def test_refused(tmp_path, service, words):
    path = tmp_path / "server.ini"
    path.write_text("[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = t\n"
                    f"[server.services.x]\n{service}\n")
    path.chmod(0o600)
    done = subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr


@pytest.mark.ours
def test_check_of_a_file_in_use(tmp_path, local, run_dir):
    local(run_dir / "b")
    (run_dir / "c").write_text("")
    path = tmp_path / "server.ini"
    path.write_text(
        f"[server]\nbind_addr = 127.0.0.1:{free_port()}\ndefault_token = t\n"
        f"[server.services.x]\nbind_addr = unix:{run_dir}/b\nmax_connections_per_ip = 3\n"
        f"[server.services.y]\nbind_addr = unix:{run_dir}/b\n"
        f"[server.services.z]\nbind_addr = unix:{run_dir}/c\n")
    path.chmod(0o600)
    done = subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0
    assert re.search("services.x.bind_addr: unix:.*/b: address in use now", text), text
    assert re.search(r"services.y.bind_addr: unix:.*/b is taken by server.services.x.bind_addr", text)
    assert re.search("services.z.bind_addr: unix:.*/c: File exists now", text), text
    assert "visitors of a unix socket have no address" in text
