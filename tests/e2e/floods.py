#!/usr/bin/env python3
"""Helpers of the gate's tests. Each is a process of its own, so that it keeps its pace.

usage: floods.py flood HOST PORT RATE ADDRESSES NETWORK [FIRST]
           connections at RATE a second, in turn from ADDRESSES addresses of NETWORK.0.0/16
           (127.16), or from NETWORK itself if there is but one; each held until the server ends
           it. FIRST: what each says, in hexadecimal; else nothing.
           SIGTERM ends it; it then writes {"sent": count, "seconds": s, "oldest": s}; "oldest" is
           the longest life of a connection.
       floods.py delay HOST PORT TO_HOST TO_PORT RTT_MS SOURCE
           a relay that delivers each byte, and each end, half a round trip later. Its connections
           to the server come from SOURCE. As on a long link, a connection arrives after half a
           round trip. Unlike there, its first byte needs another whole round trip, because the
           relay opens both halves by itself; the server hears nothing in between.
"""

import asyncio
import collections
import json
import select
import signal
import socket
import struct
import sys
import time

CONNECT_LIMIT_S = 0.5
RESET = struct.pack("ii", 1, 0)


class Flood:
    def __init__(self, server, rate, addresses, network, first):
        self.server, self.rate = server, rate
        self.addresses, self.network, self.first = addresses, network, first
        self.begun = {}  # descriptor: (socket, when)
        self.poll = select.epoll()
        self.count, self.oldest, self.stopped = 0, 0.0, False

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        begun = time.monotonic()
        while not self.stopped:
            behind = (time.monotonic() - begun) * self.rate - self.count
            self.reap(0 if behind >= 1 else (1 - behind) / self.rate)
            if behind >= 1:
                self.open(self.count)
                self.count += 1
        seconds = time.monotonic() - begun
        self.reap(0)
        now = time.monotonic()
        waiting = [now - when for _, when in self.begun.values()]
        print(json.dumps({"sent": self.count, "seconds": seconds,
                          "oldest": max(waiting + [self.oldest])}))

    def source(self, number):
        if self.addresses == 1:
            return self.network
        at = number % self.addresses
        return f"{self.network}.{at // 250}.{1 + at % 250}"

    def open(self, number):
        sock = socket.socket()
        sock.settimeout(CONNECT_LIMIT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        try:
            sock.bind((self.source(number), 0))
            sock.connect(self.server)
            if self.first:
                sock.sendall(self.first)
        except OSError:
            sock.close()  # refused or reset
            return
        self.begun[sock.fileno()] = (sock, time.monotonic())
        # Without EPOLLIN: an unread Hello would be reported for ever.
        self.poll.register(sock.fileno(), select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)

    def reap(self, timeout):
        for fd, _ in self.poll.poll(timeout, 256):
            sock, when = self.begun.pop(fd)
            self.oldest = max(self.oldest, time.monotonic() - when)
            self.poll.unregister(fd)
            sock.close()


class Wire:
    """One direction of one connection: what comes out is what went in, later."""

    def __init__(self, one_way):
        self.one_way = one_way
        self.queue = collections.deque()
        self.more = asyncio.Event()

    def put(self, data):
        self.queue.append((asyncio.get_running_loop().time() + self.one_way, data))
        self.more.set()

    async def fill(self, reader):
        try:
            while data := await reader.read(65536):
                self.put(data)
            self.put(b"")
        except OSError:
            self.put(None)

    async def drain(self, writer, not_before):
        loop = asyncio.get_running_loop()
        while True:
            while not self.queue:
                self.more.clear()
                await self.more.wait()
            due, data = self.queue.popleft()
            await asyncio.sleep(max(due, not_before) - loop.time())
            if data is None:
                writer.transport.abort()
                return
            try:
                if data:
                    writer.write(data)
                    await writer.drain()
                else:
                    writer.write_eof()
                    return
            except OSError:
                return


def abort(writer):
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def delay(host, port, to_host, to_port, rtt_ms, source):
    one_way = rtt_ms / 2000

    async def carry(reader, writer):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        there, back = Wire(one_way), Wire(one_way)
        filling = asyncio.create_task(there.fill(reader))
        await asyncio.sleep(one_way)
        try:
            to_reader, to_writer = await asyncio.open_connection(
                to_host, to_port, local_addr=(source, 0))
        except OSError:
            filling.cancel()
            abort(writer)
            return
        await asyncio.gather(filling, back.fill(to_reader),
                             there.drain(to_writer, begun + 3 * one_way),
                             back.drain(writer, begun))
        for each in (writer, to_writer):
            each.close()

    server = await asyncio.start_server(carry, host, port, backlog=1024)
    async with server:
        await server.serve_forever()


def main(arguments):
    if len(arguments) >= 6 and arguments[0] == "flood":
        host, port, rate, addresses, network, *rest = arguments[1:]
        first = bytes.fromhex(rest[0] if rest else "")
        Flood((host, int(port)), float(rate), int(addresses), network, first).run()
    elif len(arguments) == 7 and arguments[0] == "delay":
        host, port, to_host, to_port, rtt_ms, source = arguments[1:]
        asyncio.run(delay(host, int(port), to_host, int(to_port), float(rtt_ms), source))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
