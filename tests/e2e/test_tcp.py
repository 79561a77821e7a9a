"""TCP through the tunnel: every byte, every end of stream, every reset."""

import concurrent.futures
import hashlib
import pathlib
import random
import socket
import threading
import time
import warnings

import pytest

from harness import FULL, NOFILE, SANITIZED, is_listening, nothing_piles_up, scaled, wait_until, within
from protocol import connect, how_closed, recv_exact, reset
from services import (
    POOL, AfterEof, Banner, Broken, Digest, Echo, EchoForMany, EofFirst, Http, Named, NeverReads,
    Resetter, Sink, Source, digest_of, duplex, http_get, pattern, ping, transfer,
)

MIB = 1 << 20


def run_transfers(port, jobs, concurrency):
    """jobs: [(seed, bytes up, bytes down)]. Every transfer must arrive unchanged."""
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(transfer, port, *job) for job in jobs]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def random_size(rng):
    """Mostly small sizes, some of several MiB, some just at the limits of buffers and pipes."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice([0, 1, 2, 4095, 4096, 16383, 16384, 16385, 65535, 65536, 65537,
                           262143, 262144, 262145, MIB, MIB + 1])
    if kind < 0.85:
        return rng.randrange(0, 32768)
    if kind < 0.97:
        return rng.randrange(0, 512 << 10)
    return rng.randrange(0, 6 * MIB)


def test_one_request(tunnel, service):
    t = tunnel({"echo": service(Echo).port})
    ping(t.port())


def test_random_transfers(tunnel, service, threads):
    t = tunnel({"digest": service(Digest).port}, threads=threads)
    rng = random.Random(threads)
    jobs = [(seed, random_size(rng), random_size(rng)) for seed in range(scaled(1000, 60, full=20000))]
    run_transfers(t.port("digest"), jobs, 16)


def test_bulk_both_directions(tunnel, service, threads):
    """Transfers in both directions at once, large enough for every bulk path of the relay."""
    t = tunnel({"digest": service(Digest).port}, threads=threads)
    size = scaled(96 * MIB, 16 * MIB)
    run_transfers(t.port("digest"), [(1, size, 0), (2, 0, size), (3, size, size)], 3)


def test_sizes_around_buffers(tunnel, service):
    t = tunnel({"digest": service(Digest).port})
    edges = [0, 1, 2, 3, 4, 5]
    for power in (10, 12, 13, 14, 15, 16, 17, 18, 19, 20):
        edges += [(1 << power) - 1, 1 << power, (1 << power) + 1]
    jobs = [(n, size, edges[-1 - n]) for n, size in enumerate(edges)]
    run_transfers(t.port("digest"), jobs, 4)


def test_64_visitors_at_once(tunnel, service, threads):
    local = service(Digest)
    t = tunnel({"digest": local.port}, threads=threads)
    barrier = threading.Barrier(64)
    failures = []

    def visit(seed):
        barrier.wait()
        try:
            transfer(t.port("digest"), seed, 20000 + seed, 30000 - seed)
        except Exception as error:
            failures.append(repr(error))

    for _ in range(2):  # the second burst uses channels that the first one left in the pool
        visitors = [threading.Thread(target=visit, args=(seed,)) for seed in range(64)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
    assert not failures
    assert len(local.records) == 128


@pytest.mark.parametrize("size", [0, 1, scaled(100 * MIB, 20 * MIB)], ids=["none", "one", "100MiB"])
def test_half_close_by_visitor(tunnel, service, size):
    """The visitor closes its sending side first and still receives the whole reply."""
    local = service(AfterEof, size)
    t = tunnel({"s": local.port})
    upload = pattern(9, 300000)
    with connect(t.port("s")) as visitor:
        for part in upload:
            visitor.sendall(part)
        time.sleep(0.2)
        assert not local.records or local.records[0].end is None, "FIN came before it was sent"
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(20))
        assert recv_exact(visitor, 32) == digest_of(upload)
        sha = hashlib.sha256()
        got = 0
        while data := visitor.recv(MIB):
            sha.update(data)
            got += len(data)
    assert got == size
    assert sha.digest() == digest_of(pattern(4, size))
    assert local.wait_record(0).received == 300000


@pytest.mark.parametrize("size", [0, 1, scaled(100 * MIB, 20 * MIB)], ids=["none", "one", "100MiB"])
def test_half_close_by_service(tunnel, service, size):
    """The service closes its sending side first and still receives the whole upload."""
    local = service(EofFirst, 70000)
    t = tunnel({"s": local.port})
    with connect(t.port("s")) as visitor:
        visitor.settimeout(within(20))
        sha = hashlib.sha256()
        while data := visitor.recv(MIB):
            sha.update(data)
        assert sha.digest() == digest_of(pattern(5, 70000))
        for part in pattern(6, size):
            visitor.sendall(part)
        visitor.shutdown(socket.SHUT_WR)
        record = local.wait_record(0, within(20))
    assert record.end == "fin"
    assert record.received == size
    assert record.digest == digest_of(pattern(6, size))


def test_service_speaks_first(tunnel, service):
    t = tunnel({"banner": service(Banner).port})
    for _ in range(20):
        with connect(t.port("banner"), timeout=5) as visitor:
            assert recv_exact(visitor, len(Banner.TEXT)) == Banner.TEXT
            visitor.sendall(b"EHLO")
            assert recv_exact(visitor, 4) == b"EHLO"


def test_visitor_that_says_nothing_and_leaves(tunnel, service):
    local = service(Echo)
    t = tunnel({"echo": local.port})
    with connect(t.port()) as visitor:
        local.wait_connections(1)
        visitor.shutdown(socket.SHUT_WR)
        assert how_closed(visitor, within(5)) == ("fin", b"")
    assert local.wait_record(0).end == "fin"


def test_slow_reader_is_backpressure(tunnel, service, threads):
    """Visitors that do not read make the source stop sending, and cost the tunnel little memory."""
    local = service(Source)
    t = tunnel({"source": local.port}, threads=threads)
    count = scaled(8, 8, full=500)
    visitors = [connect(t.port("source")) for _ in range(count)]
    try:
        local.wait_connections(count)

        def sent():
            return sum(getattr(record, "sent", 0) for record in local.records)

        before = -1

        def stalled():
            nonlocal before
            now = sent()
            same = now == before
            before = now
            if not same:
                time.sleep(0.3)
            return same and now > 0

        wait_until(stalled, within(20), "the source to be stopped by back-pressure")
        # At most this is in flight per visitor: kernel buffers of three connections, a pipe at each end.
        buffers = sum(
            int(pathlib.Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])
            for name in ("tcp_rmem", "tcp_wmem")
        )
        assert sent() < count * (3 * buffers + 4 * MIB)
        if not SANITIZED:
            for process in (t.server, t.client):
                assert process.rss_kib() < 16 * 1024 + count * 256
        # Reading late, a visitor still gets every byte in order.
        expected = POOL[: 256 << 10]  # the chunk that the source repeats
        got = 0
        visitor = visitors[0]
        visitor.settimeout(within(5))
        while got < 3 * MIB:
            data = visitor.recv(10000)
            offset = got % (256 << 10)
            assert data == (expected * 2)[offset : offset + len(data)]
            got += len(data)
    finally:
        for visitor in visitors:
            visitor.close()


@pytest.mark.realtime
def test_bulk_does_not_starve_ping_pong(tunnel, service, threads):
    t = tunnel({"source": service(Source).port, "echo": service(Echo).port}, threads=threads)
    stop = threading.Event()

    def drain():
        with connect(t.port("source")) as visitor:
            while not stop.is_set():
                if not visitor.recv(MIB):
                    return

    bulk = [threading.Thread(target=drain) for _ in range(2)]
    for thread in bulk:
        thread.start()
    try:
        time.sleep(0.5)
        times = []
        with connect(t.port()) as visitor:
            for n in range(200):
                start = time.monotonic()
                visitor.sendall(b"%8d" % n)
                assert recv_exact(visitor, 8) == b"%8d" % n
                times.append(time.monotonic() - start)
        times.sort()
        # The median shows that a bulk stream does not monopolize the worker. The bound is wide because
        # this test's own threads compete for the interpreter and two cores.
        assert times[100] < within(0.1), f"median round trip {times[100]:.3f} s beside bulk"
        assert times[-1] < within(1.5), f"worst round trip {times[-1]:.3f} s beside bulk"
    finally:
        stop.set()
        for thread in bulk:
            thread.join()


def test_one_byte_at_a_time(tunnel, service):
    t = tunnel({"echo": service(Echo).port})
    with connect(t.port()) as visitor:
        for n in range(500):
            byte = bytes([n % 256])
            visitor.sendall(byte)
            assert recv_exact(visitor, 1) == byte
        # The same, but the sender does not wait for replies.
        data = bytes(range(256)) * 8
        received = bytearray()

        def one_by_one():
            for n in range(len(data)):
                yield data[n : n + 1]

        duplex(visitor, one_by_one(), received.extend, within(10))
        assert bytes(received) == data


@pytest.mark.ours
@pytest.mark.parametrize("after", [0, 1, 100000], ids=["at-once", "one-byte", "100kB"])
def test_reset_by_visitor_reaches_the_service(tunnel, service, after):
    """A cut upload must not look complete: the service sees RST, never a clean FIN."""
    local = service(Sink)
    t = tunnel({"sink": local.port})
    for n in range(10):
        before = len(local.records)  # a visitor that resets at once may not reach the service
        visitor = connect(t.port("sink"))
        for part in pattern(n, after):
            visitor.sendall(part)
        if after or n % 2:
            local.wait_connections(before + 1)
        reset(visitor)
        if after:
            record = local.wait_record(n)
            assert record.end == "rst", f"the service saw {record.end} after {record.received} B"
    if not after:
        # A visitor that resets at once may never reach the service. If it does, the end is no FIN.
        time.sleep(0.5)
        ends = [record.end for record in local.records if record.done.is_set()]
        assert "fin" not in ends, ends
        wait_until(lambda: local.open_count() == 0, within(5), "every connection to end")


@pytest.mark.ours
def test_reset_in_full_flow_by_visitor(tunnel, service, threads):
    """The visitor resets in the middle of a bulk upload, with full buffers along the whole path."""
    local = service(Sink)
    t = tunnel({"sink": local.port}, threads=threads)
    for n in range(scaled(10, 4)):
        visitor = connect(t.port("sink"))
        for part in pattern(n, (n + 1) * MIB + n):
            visitor.sendall(part)
        reset(visitor)
        record = local.wait_record(n)
        assert record.end == "rst", f"the service saw {record.end} after {record.received} B"


@pytest.mark.ours
def test_reset_by_visitor_while_service_does_not_read(tunnel, service):
    """The reset reaches the service although full buffers stop all data on the way."""
    local = service(NeverReads)
    t = tunnel({"s": local.port})
    visitor = connect(t.port("s"))
    visitor.settimeout(1)
    try:
        for part in pattern(1, 64 * MIB):
            visitor.sendall(part)
    except TimeoutError:
        pass
    local.wait_connections(1)
    fds = (t.server.settled_fds(), t.client.settled_fds())
    reset(visitor)
    wait_until(lambda: t.server.fds() < fds[0] and t.client.fds() < fds[1], within(5),
               "both ends to drop the relay")
    with pytest.raises(OSError):
        sock = local.records[0].sock
        sock.settimeout(within(5))
        while True:
            if not sock.recv(MIB):
                raise AssertionError("clean FIN after a cut upload")


@pytest.mark.ours
@pytest.mark.parametrize("reply", [b"", b"x" * 1000], ids=["no-reply", "with-reply"])
def test_reset_by_service_reaches_the_visitor(tunnel, service, reply):
    local = service(Resetter, 4, reply)
    t = tunnel({"s": local.port})
    for _ in range(10):
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"work")
            how, data = how_closed(visitor, within(5))
            assert (how, data) == ("rst", reply)


@pytest.mark.ours
def test_reset_by_service_right_behind_its_answer(tunnel, service):
    """The client reads answer and reset at the same moment: the answer must not look complete."""
    local = service(Resetter, 4, b"half an answer", pause=0)
    t = tunnel({"s": local.port})
    for _ in range(scaled(50, 20)):
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"work")
            how, data = how_closed(visitor, within(5))
            assert how == "rst" and data in (b"", b"half an answer")


@pytest.mark.ours
@pytest.mark.parametrize("request_size", [9, 16000, 200000], ids=["small", "16k", "200k"])
def test_a_request_is_sent_once(tunnel, service, request_size):
    """The tunnel never repeats a request: a service that reads one and then resets may have acted on it."""
    local = service(Resetter, request_size)
    t = tunnel({"s": local.port})
    for n in range(scaled(10, 3)):
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"POST /pay" + b"x" * (request_size - 9))
            assert how_closed(visitor, within(5)) == ("rst", b"")
        time.sleep(0.1)
        assert len(local.records) == n + 1, "the service got a request more than once"


@pytest.mark.ours
def test_reset_by_service_in_full_flow(tunnel, service):
    local = service(Resetter, 3 * MIB)
    t = tunnel({"s": local.port})
    with connect(t.port("s")) as visitor:
        with pytest.raises(Broken) as broken:
            duplex(visitor, pattern(1, 512 * MIB), lambda data: None, within(10))
        assert broken.value.how == "rst"


@pytest.mark.ours
def test_visitor_leaves_before_the_service_answers(tunnel, service):
    """A visitor closes with unread bytes in its buffer, which sends RST; the tunnel frees the whole relay."""
    local = service(Source, 200000)
    t = tunnel({"s": local.port})
    before = (t.server.settled_fds(), t.client.settled_fds())
    for _ in range(20):
        with connect(t.port("s")) as visitor:
            visitor.recv(10)
    wait_until(lambda: local.open_count() == 0, within(10), "the service to be rid of them")
    t.server.wait_fds(before[0] + 60, within(10))  # the burst may have enlarged the pool of parked channels
    for record in local.records:
        assert record.end == "rst"


def test_service_down_then_up(tunnel, service):
    """Visitors are reset promptly while the local service is down, and served when it is up."""
    first = service(Echo)
    port = first.port
    first.stop()
    t = tunnel({"echo": port})
    for _ in range(5):
        start = time.monotonic()
        with connect(t.port()) as visitor:
            how, data = how_closed(visitor, within(5))
        assert (how, data) == ("rst", b"")
        assert time.monotonic() - start < within(2)
    service(Echo, port=port)
    ping(t.port())


def test_service_restarts(tunnel, service):
    first = service(Echo)
    t = tunnel({"echo": first.port})
    ping(t.port())
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
        first.stop()
        assert how_closed(visitor, within(5))[0] in ("fin", "rst")
    service(Echo, port=first.port)
    ping(t.port())


def test_many_services(tunnel, service):
    """Each visitor port leads to its own service."""
    names = [f"svc{n}" for n in range(20)]
    t = tunnel({name: service(Named, name).port for name in names})
    for name in names + list(reversed(names)):
        with connect(t.port(name)) as visitor:
            assert how_closed(visitor, within(5)) == ("fin", name.encode())


def test_http_keep_alive(tunnel, service, threads):
    t = tunnel({"http": service(Http).port}, threads=threads)

    def browse(number):
        with connect(t.port("http")) as visitor:
            for n in range(50):
                path = b"/%d/%d" % (number, n)
                assert http_get(visitor, path) == (b"HTTP/1.1 200 OK", path)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(browse, number) for number in range(16)]:
            future.result()


@pytest.mark.time_limit(120)
def test_idle_connections_stay_alive(tunnel, service, threads):
    wanted = scaled(1000, 100, full=10000)
    # Two descriptors a relay in each process, 256 parked channels, and what is kept for logins and strangers.
    count = min(wanted, (NOFILE - 1024) // 2)
    if count < wanted:
        warnings.warn(f"{NOFILE} descriptors: {count} idle visitors instead of {wanted}",
                      stacklevel=1)
    quiet = 600 if FULL else 1
    local = service(EchoForMany)
    t = tunnel({"echo": local.port}, threads=threads)
    base = (t.server.private_kib(), t.client.private_kib())
    visitors = []
    try:
        for n in range(count):
            visitors.append(connect(t.port()))
            if n % 200 == 199:
                local.wait_connections(n + 1, within(20))
        local.wait_connections(count, within(20))
        for n, visitor in enumerate(visitors):
            visitor.sendall(b"%6d" % n)
        for n, visitor in enumerate(visitors):
            visitor.settimeout(within(10))
            assert recv_exact(visitor, 6) == b"%6d" % n
        cpu = [process.cpu_seconds() for process in (t.server, t.client)]
        time.sleep(quiet)
        for before, process in zip(cpu, (t.server, t.client)):
            used = process.cpu_seconds() - before
            assert not FULL or used < within(0.01 * quiet), f"{used:g} s of CPU while all is quiet"
        for n, visitor in enumerate(visitors):
            visitor.sendall(b"%6d" % (count + n))
        for n, visitor in enumerate(visitors):
            assert recv_exact(visitor, 6) == b"%6d" % (count + n)
        grown = (t.server.private_kib() - base[0], t.client.private_kib() - base[1])
        if not SANITIZED and t.impl == {"server": "ours", "client": "ours"}:
            # 1 KiB a relay, and at most 4 MiB for shared buffers used while the visitors connected.
            assert max(grown) <= count + 4096, f"grown by {grown} KiB with {count} idle visitors"
    finally:
        for visitor in visitors:
            visitor.close()
    wait_until(lambda: local.open_count() == 0, within(20), "all of them to end")


@pytest.mark.ours
@pytest.mark.time_limit(120)
def test_descriptors_and_memory_return_to_the_level_before(tunnel, service, threads):
    """Many short connections, ended cleanly or by reset, leak no descriptor and no memory."""
    local = service(Echo)
    t = tunnel({"echo": local.port}, threads=threads)
    count = scaled(300, 150, full=20000)

    def churn():
        for n in range(count):
            ping(t.port())
            with connect(t.port()) as visitor:
                visitor.sendall(b"x" * (n % 300 * 50))
                if n % 2:
                    reset(visitor)
        wait_until(lambda: local.open_count() == 0, within(10), "the service to be rid of them")

    nothing_piles_up([t.server, t.client], churn, 2 * count)


def test_refused_before_login(tunnel, service):
    """Without a client the service port refuses visitors."""
    t = tunnel({"echo": service(Echo).port}, start=False)
    t.start_server()
    time.sleep(0.3)
    assert not is_listening(t.port())
    with pytest.raises(ConnectionRefusedError):
        connect(t.port())
    t.start_client()
    t.wait_ready()
    ping(t.port())
