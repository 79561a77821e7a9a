"""The traffic of the soak: visitors, the local services that they reach, and strangers at a control port.
Each is a program of its own, in its own network namespace.

    traffic.py visit SPEC          until SIGTERM
    traffic.py serve SPEC          until SIGTERM
    traffic.py strangers SPEC      until its time is over

SPEC is a JSON file. Each line of the output is JSON: {"error": ...} for each visit that failed, as it
happens, and {"report": ...} every few seconds: counts by pair and kind, and times of answers in us. Times
are of CLOCK_MONOTONIC, which all processes of a machine share.

A visitor says with a header what the service has to do, so that each end knows every byte it has to get.
"""

import asyncio
import collections
import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import socket
import struct
import sys
import time

HEADER = struct.Struct("<cIII")  # what to do, seed, bytes up, bytes down
ECHO, BOTH_WAYS, VISITOR_ENDS, SERVICE_ENDS, SERVICE_RESETS, VISITOR_RESETS = (
    b"E", b"D", b"V", b"S", b"R", b"r")
DATAGRAM = struct.Struct("<QII")  # visitor, number, size
CHUNK = 64 << 10
POOL = random.Random(20240229).randbytes(4 << 20)
PATIENCE_S = 30      # without an answer a visitor gives up
BULK_PATIENCE_S = 60  # for all of it
UDP_PATIENCE_S = 8
STALL_S = 1          # a program that comes so late had no core, and can say nothing of times
REPORT_S = 5
PROBE_S = 0.25       # between two questions on a connection that stays open
LARGEST_DATAGRAM = 2000
# Means, in seconds between two visits of a kind at a pair.
MEANS_S = {"short": 0.5, "bulk": 8, "idle": 12, "half close by visitor": 7, "half close by service": 7,
           "reset by visitor": 7, "reset by service": 7, "udp": 0.6}


def pattern(seed, size):
    """size reproducible bytes, as pieces."""
    at = (seed * 7919 * 4099) % len(POOL)
    while size > 0:
        piece = memoryview(POOL)[at : at + min(size, CHUNK)]
        yield piece
        size -= len(piece)
        at = (at + len(piece)) % len(POOL)


def digest(seed, size):
    sha = hashlib.sha256()
    for piece in pattern(seed, size):
        sha.update(piece)
    return sha.digest()


def say(**line):
    print(json.dumps(line, separators=(",", ":")), flush=True)


class Wrong(Exception):
    """Bytes that nobody sent, or an end that was none."""


class Short(Exception):
    """A clean end of stream before the last byte."""


class Lost(Exception):
    """No answer to a datagram."""


def outcome_of(error):
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "reset"
    if isinstance(error, TimeoutError):
        return "silent"
    if isinstance(error, (Short, asyncio.IncompleteReadError)):
        return "short"
    if isinstance(error, Wrong):
        return "wrong"
    if isinstance(error, Lost):
        return "lost"
    if isinstance(error, OSError):
        return "silent" if error.errno == errno.ETIMEDOUT else errno.errorcode.get(error.errno, "error")
    raise error


FAILURES = (OSError, TimeoutError, asyncio.IncompleteReadError, Short, Wrong, Lost)


# --- streams ----------------------------------------------------------------------------------------


async def send(writer, seed, size):
    for piece in pattern(seed, size):
        writer.write(piece)
        await writer.drain()


async def take(reader, size):
    """SHA-256 of exactly so many bytes."""
    sha = hashlib.sha256()
    left = size
    while left:
        data = await reader.read(min(left, CHUNK))
        if not data:
            raise Short(f"{size - left} of {size} bytes")
        left -= len(data)
        sha.update(data)
    return sha.digest()


async def take_end(reader):
    if await reader.read(1):
        raise Wrong("bytes behind the last one")


def reset(writer):
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def check(is_right, what):
    if not is_right:
        raise Wrong(what)


# --- local services -----------------------------------------------------------------------------------


class Services:
    """pairs: {name: {"tcp": port, "udp": port}}."""

    def __init__(self, spec):
        self.spec = spec
        self.kept = []

    async def _echo(self, reader, writer):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()

    async def _serve(self, pair, reader, writer):
        head = await reader.read(1)
        if not head:
            return  # it left before it said anything: a connection that was cut
        what, seed, up, down = HEADER.unpack(head + await reader.readexactly(HEADER.size - 1))
        if what == ECHO:
            await self._echo(reader, writer)
        elif what == BOTH_WAYS:
            _, got = await asyncio.gather(send(writer, seed + 1, down), take(reader, up))
            writer.write(got)
            await writer.drain()
            writer.write_eof()
            await take_end(reader)
        elif what == VISITOR_ENDS:
            got = await take(reader, up)
            await take_end(reader)
            writer.write(got)
            await send(writer, seed + 1, down)
        elif what == SERVICE_ENDS:
            await send(writer, seed + 1, down)
            writer.write_eof()
            check(await take(reader, up) == digest(seed, up), "the upload differs")
            await take_end(reader)
        elif what == SERVICE_RESETS:
            await take(reader, up)
            await send(writer, seed + 1, down)
            reset(writer)
        elif what == VISITOR_RESETS:
            await take(reader, up)
            await send(writer, seed + 1, down)
            if await reader.read(1):
                raise Wrong("bytes behind the last one")
            raise Wrong("the visitor's reset came as a clean end")

    async def _connection(self, pair, reader, writer):
        begun = time.monotonic()
        try:
            await self._serve(pair, reader, writer)
        except (Short, asyncio.IncompleteReadError, Wrong) as error:
            now = time.monotonic()
            say(error={"pair": pair, "kind": "service", "outcome": outcome_of(error), "t0": begun, "t1": now,
                       "what": str(error)})
        except OSError:
            pass  # the visitor says it, if it was not to be
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def run(self):
        loop = asyncio.get_running_loop()

        def server(pair):
            return lambda reader, writer: self._connection(pair, reader, writer)

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, peer):
                self.transport.sendto(data, peer)

        for pair, ports in self.spec["pairs"].items():
            self.kept.append(await asyncio.start_server(server(pair), self.spec["host"], ports["tcp"]))
            self.kept.append(await loop.create_datagram_endpoint(
                Echo, local_addr=(self.spec["host"], ports["udp"])))
        self.kept.append(await asyncio.start_server(server("reference"), "0.0.0.0", self.spec["reference"]))
        say(ready=True)
        await ended()


# --- visitors -----------------------------------------------------------------------------------------


class Visitors:
    """pairs: {name: {"tcp": port, "udp": port}} at `host`; reference: [host, port] of a service without a
    tunnel before it. scale: visits come so many times as often."""

    def __init__(self, spec):
        self.spec = spec
        self.random = random.Random(spec["seed"])
        self.counts = collections.Counter()
        self.bytes = collections.Counter()
        self.times = collections.defaultdict(list)
        self.running = set()
        self.number = 0
        self.ending = asyncio.Event()
        self.ended = asyncio.Event()

    def _next(self):
        self.number += 1
        return self.number

    async def _connect(self, pair):
        host, port = self.spec["reference"] if pair == "reference" else (
            self.spec["host"], self.spec["pairs"][pair]["tcp"])
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PATIENCE_S)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer

    # Each visit returns the bytes that it moved.

    async def _short(self, reader, writer):
        size = self.random.randrange(1, 4000)
        seed = self._next()
        writer.write(HEADER.pack(ECHO, seed, 0, 0) + b"".join(pattern(seed, size)))
        check(await take(reader, size) == digest(seed, size), "the echo differs")
        writer.write_eof()
        await take_end(reader)
        return 2 * size

    async def _bulk(self, reader, writer):
        seed = self._next()
        up, down = (int(2 ** self.random.uniform(10, 22.5)) for _ in range(2))
        writer.write(HEADER.pack(BOTH_WAYS, seed, up, down))
        _, got = await asyncio.gather(send(writer, seed, up), take(reader, down))
        check(got == digest(seed + 1, down), "the download differs")
        check(await reader.readexactly(32) == digest(seed, up), "the upload differs")
        await take_end(reader)
        return up + down

    async def _idle(self, reader, writer):
        writer.write(HEADER.pack(ECHO, 0, 0, 0) + b"one")
        check(await reader.readexactly(3) == b"one", "the echo differs")
        # It reads, so that it sees its connection's end at once.
        reading = asyncio.ensure_future(reader.read(1))
        leaving = asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait({reading, leaving}, timeout=self.random.expovariate(1 / 60),
                               return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                check(not reading.result(), "bytes from nobody")
                raise Short("end of stream while idle")
            writer.write(b"2")
            check(await asyncio.wait_for(asyncio.shield(reading), PATIENCE_S) == b"2", "the echo differs")
            writer.write_eof()
            await take_end(reader)
        finally:
            for task in (reading, leaving):
                task.cancel()
            await asyncio.gather(reading, leaving, return_exceptions=True)
        return 8

    def _sizes(self):
        return (self.random.randrange(1, 200_000) for _ in range(2))

    async def _visitor_ends(self, reader, writer):
        seed = self._next()
        up, down = self._sizes()
        writer.write(HEADER.pack(VISITOR_ENDS, seed, up, down))
        await send(writer, seed, up)
        writer.write_eof()
        check(await reader.readexactly(32) == digest(seed, up), "the upload differs")
        check(await take(reader, down) == digest(seed + 1, down), "the download differs")
        await take_end(reader)
        return up + down

    async def _service_ends(self, reader, writer):
        seed = self._next()
        up, down = self._sizes()
        writer.write(HEADER.pack(SERVICE_ENDS, seed, up, down))
        check(await take(reader, down) == digest(seed + 1, down), "the download differs")
        await take_end(reader)
        await send(writer, seed, up)
        writer.write_eof()
        return up + down

    async def _service_resets(self, reader, writer):
        writer.write(HEADER.pack(SERVICE_RESETS, self._next(), 3, 1000) + b"abc")
        try:
            while await reader.read(CHUNK):
                pass
        except ConnectionResetError:
            return 1003
        raise Wrong("the service's reset came as a clean end")

    async def _visitor_resets(self, reader, writer):
        seed = self._next()
        writer.write(HEADER.pack(VISITOR_RESETS, seed, 0, 1000))
        check(await take(reader, 1000) == digest(seed + 1, 1000), "the download differs")
        reset(writer)
        return 1000

    async def _tcp(self, pair, kind, visit):
        """patience is for each visit as a whole; an idle one has its own."""
        reader, writer = await self._connect(pair)
        begun = time.monotonic()
        try:
            if kind == "idle":
                moved = await visit(reader, writer)
            else:
                patience_s = PATIENCE_S if kind == "short" else BULK_PATIENCE_S
                moved = await asyncio.wait_for(visit(reader, writer), patience_s)
        except BaseException:
            reset(writer)  # a visitor that gives up must not look like one that is done
            raise
        writer.close()
        if kind == "short":
            self.times[f"{pair} short"].append(round((time.monotonic() - begun) * 1e6))
        return moved

    async def _udp(self, pair, kind, _visit):
        return await asyncio.wait_for(UdpVisitor(self, pair).visit(), 5 * UDP_PATIENCE_S)

    KINDS = {"short": _short, "bulk": _bulk, "idle": _idle, "half close by visitor": _visitor_ends,
             "half close by service": _service_ends, "reset by visitor": _visitor_resets,
             "reset by service": _service_resets, "udp": None}

    async def _one(self, pair, kind):
        begun = time.monotonic()
        try:
            way = self._udp if kind == "udp" else self._tcp
            visit = self.KINDS[kind]
            moved = await way(pair, kind, visit and visit.__get__(self))
            self.counts[f"{pair} {kind}"] += 1
            self.bytes[pair] += moved
        except FAILURES as error:
            self._failed(pair, kind, begun, error)

    def _failed(self, pair, kind, begun, error):
        say(error={"pair": pair, "kind": kind, "outcome": outcome_of(error), "t0": begun,
                   "t1": time.monotonic(), "what": str(error)[:200]})

    async def _come(self, pair, kind):
        """Visits of one kind, at random moments."""
        mean = MEANS_S[kind] / self.spec["scale"]
        while not self.ending.is_set():
            await self._pause(self.random.expovariate(1 / mean))
            if not self.ending.is_set() and len(self.running) < 2000:
                task = asyncio.ensure_future(self._one(pair, kind))
                self.running.add(task)
                task.add_done_callback(self.running.discard)

    async def _pause(self, seconds):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)

    async def _probe(self, pair):
        """Asks on one connection again and again; a new one if it is lost."""
        while not self.ending.is_set():
            begun = time.monotonic()
            writer = None
            try:
                reader, writer = await self._connect(pair)
                writer.write(HEADER.pack(ECHO, 0, 0, 0))
                while not self.ending.is_set():
                    question = b"%063d\n" % self._next()
                    asked = time.monotonic()
                    writer.write(question)
                    answer = await asyncio.wait_for(reader.readexactly(64), PATIENCE_S)
                    self.times[pair].append(round((time.monotonic() - asked) * 1e6))
                    check(answer == question, "the echo differs")
                    self.counts[f"{pair} probe"] += 1
                    await self._pause(PROBE_S)
            except FAILURES as error:
                self._failed(pair, "probe", begun, error)
                await self._pause(0.5)
            finally:
                if writer:
                    writer.close()

    async def _udp_probe(self, pair):
        """One socket as long as the run."""
        visitor = UdpVisitor(self, pair)
        await visitor.open()
        while not self.ending.is_set():
            begun = time.monotonic()
            try:
                await visitor.ask([self.random.choice((16, 200, 1200))])
                self.counts[f"{pair} udp probe"] += 1
            except FAILURES as error:
                self._failed(pair, "udp probe", begun, error)
            await self._pause(1)
        visitor.close()

    async def _report(self):
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), REPORT_S)
            times, self.times = self.times, collections.defaultdict(list)
            say(report={"at": time.monotonic(), "counts": self.counts, "bytes": self.bytes, "times_us": times,
                        "running": len(self.running)})

    async def _watch(self):
        """Says when this program did not run: everything that it has to wait for was late then."""
        while not self.ending.is_set():
            begun = time.monotonic()
            await self._pause(0.25)
            now = time.monotonic()
            if now - begun > STALL_S:
                say(stall=[begun, now])

    async def run(self):
        tasks = [self._report(), self._watch(), self._probe("reference")]
        for pair in self.spec["pairs"]:
            tasks += [self._probe(pair), self._udp_probe(pair)]
            tasks += [self._come(pair, kind) for kind in self.KINDS]
        tasks = [asyncio.ensure_future(task) for task in tasks]
        say(ready=True)
        await ended()
        self.ending.set()
        await asyncio.gather(*tasks[1:])
        while self.running:
            await asyncio.wait(self.running)
        self.ended.set()
        await tasks[0]


class UdpVisitor(asyncio.DatagramProtocol):
    """A connected socket. Whatever comes has to be the answer to a datagram of its own, once."""

    def __init__(self, visitors, pair):
        self.visitors, self.pair = visitors, pair
        self.id = visitors._next()
        self.number = 0
        self.flying = {}
        self.seen = set()
        self.problem = None
        self.came = asyncio.Event()
        self.transport = None

    def datagram_received(self, data, _peer):
        number = DATAGRAM.unpack_from(data)[1] if len(data) >= DATAGRAM.size else None
        if number in self.seen:
            self.problem = Wrong(f"datagram {number} came twice")
        elif number is None or number >= self.number or data != self._payload(number, len(data)):
            self.problem = Wrong(f"{len(data)} bytes that nobody sent")
        self.seen.add(number)
        self.flying.pop(number, None)
        self.came.set()

    def error_received(self, error):
        self.problem = error
        self.came.set()

    def _payload(self, number, size):
        return (DATAGRAM.pack(self.id, number, size)
                + b"".join(pattern(self.id + number, size - DATAGRAM.size)))

    async def open(self):
        address = (self.visitors.spec["host"], self.visitors.spec["pairs"][self.pair]["udp"])
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=address)

    async def ask(self, sizes):
        self.problem = None
        self.flying.clear()
        self.seen = {number for number in self.seen if number >= self.number - 100}
        for size in sizes:
            number, self.number = self.number, self.number + 1
            self.flying[number] = size
            self.transport.sendto(self._payload(number, size))
        until = time.monotonic() + UDP_PATIENCE_S
        while self.flying and not self.problem:
            self.came.clear()
            left = until - time.monotonic()
            try:
                await asyncio.wait_for(self.came.wait(), max(0.001, left))
            except TimeoutError:
                raise Lost(f"{len(self.flying)} of {len(sizes)}: numbers and bytes {self.flying}") from None
        if self.problem:
            raise self.problem

    async def visit(self):
        await self.open()
        try:
            draw = self.visitors.random
            total = 0
            for _ in range(draw.randrange(1, 4)):
                sizes = [draw.choice((16, 64, 512, 1200, 1472, LARGEST_DATAGRAM))
                         for _ in range(draw.randrange(1, 5))]
                await self.ask(sizes)
                total += 2 * sum(sizes)
            return total
        finally:
            self.close()

    def close(self):
        if self.transport:
            self.transport.close()


# --- strangers ----------------------------------------------------------------------------------------


class Strangers:
    """At `host`:`port`, `rate` a second for `seconds`, from each of `sources` in turn: silent ones, random
    bytes, a request of HTTP, a hello that stops, one byte a second. None of them may be told anything."""

    def __init__(self, spec):
        self.spec = spec
        self.random = random.Random(spec["seed"])
        self.counts = collections.Counter()

    async def _stay(self, number):
        spec = self.spec
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(
                spec["host"], spec["port"], local_addr=(spec["sources"][number % len(spec["sources"])], 0)),
                10)
        except (OSError, TimeoutError) as error:
            self.counts[outcome_of(error)] += 1
            return
        way = number % 5
        try:
            if way == 1:
                writer.write(self.random.randbytes(self.random.randrange(1, 3000)))
            elif way == 2:
                writer.write(b"GET /status HTTP/1.1\r\nHost: soak\r\n\r\n")
            elif way == 3:
                writer.write(b"\x00\x01")
            until = time.monotonic() + 12
            while time.monotonic() < until:
                if way == 4:
                    writer.write(b"\x00")
                with contextlib.suppress(TimeoutError):
                    if not await asyncio.wait_for(reader.read(100), 1):
                        self.counts["closed"] += 1
                        return
            self.counts["kept"] += 1
        except OSError:
            self.counts["reset"] += 1
        finally:
            writer.close()

    async def run(self):
        tasks = []
        for number in range(int(self.spec["rate"] * self.spec["seconds"])):
            tasks.append(asyncio.ensure_future(self._stay(number)))
            await asyncio.sleep(1 / self.spec["rate"])
        await asyncio.gather(*tasks)
        say(strangers=self.counts)


async def ended():
    """Until SIGTERM."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    await event.wait()


def main():
    what, path = sys.argv[1:]
    with open(path) as file:
        spec = json.load(file)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the soak ends this
    os.nice(spec.get("nice", 0))
    kind = {"visit": Visitors, "serve": Services, "strangers": Strangers}[what]

    async def run():
        await kind(spec).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
