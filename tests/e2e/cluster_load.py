"""The visitors of a cluster, and its local services. Both are programs of their own: each runs in its own
network namespace, and none waits for another one's turn of the interpreter.

    cluster_load.py visit HOST PORT --rate N --sources CIDR --out FILE     visitors come until SIGTERM
    cluster_load.py serve PORT --name NAME --out FILE                      until SIGTERM

A visitor sends "ID HOLD\\n". The local service reads the PROXY header and the request, waits HOLD ms,
answers "ID NAME\\n" and closes. At the end both write what they saw as JSON, see Visit and Request.
Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import argparse
import collections
import errno
import heapq
import ipaddress
import itertools
import json
import os
import random
import select
import signal
import socket
import sys
import time

import proxy_header

# outcome: OK, or how it failed. source: "host:port" of its socket. by: which service has answered.
Visit = collections.namedtuple("Visit", "id begun ended outcome hold_ms source by")
# A request that a local service has read. source: who the PROXY header says the visitor is.
Request = collections.namedtuple("Request", "id at source")

OK, REFUSED, RESET, SHORT, WRONG, SILENT = "ok", "refused", "reset", "short", "wrong", "silent"
PORT_FIRST = 12000
BURST = 100  # visitors that come at once at most, after a delay of this process
TURN_S = 0.002
PROGRESS_S = 0.5


def _name(error):
    known = {errno.ECONNREFUSED: REFUSED, errno.ECONNRESET: RESET, errno.EPIPE: RESET}
    return known.get(error, errno.errorcode.get(error, str(error)))


class _Ending:
    """Set by SIGTERM."""

    def __init__(self):
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, _number, _frame):
        self.is_set = True


def _write(path, content):
    """Whole or not at all."""
    with open(f"{path}.new", "w") as file:
        json.dump(content, file)
    os.rename(f"{path}.new", path)


# --- visitors ---------------------------------------------------------------------------------


class _Visitor:
    __slots__ = ("sock", "id", "begun", "hold_ms", "answer", "source")


class Visitors:
    def __init__(self, options):
        self.options = options
        network = ipaddress.ip_network(options.sources)
        # Each visitor has an address and port that no other one has had: they tell visitors apart.
        hosts = [str(host) for host in network.hosts()]
        self.sources = ((host, port) for port in range(PORT_FIRST, 65536) for host in hosts)
        self.target = (options.host, options.port)
        self.random = random.Random(1)
        self.open, self.done = {}, []
        self.outcomes = collections.Counter()
        self.begun = 0
        self.poller = select.epoll()

    def _begin(self):
        visitor = _Visitor()
        visitor.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.bind(next(self.sources))
        self.begun += 1
        visitor.id, visitor.begun, visitor.answer, visitor.source = self.begun, time.monotonic(), b"", ""
        visitor.hold_ms = self.options.hold_ms if self.random.random() < self.options.held else 0
        self.open[sock.fileno()] = visitor
        sock.connect_ex(self.target)
        self.poller.register(sock, select.EPOLLOUT)

    def _end(self, fd, outcome, by=None):
        visitor = self.open.pop(fd)
        self.poller.unregister(fd)
        visitor.sock.close()
        self.outcomes[outcome] += 1
        self.done.append(Visit(visitor.id, visitor.begun, time.monotonic(), outcome, visitor.hold_ms,
                               visitor.source, by))

    def _step(self, fd, events):
        visitor = self.open[fd]
        sock = visitor.sock
        if not visitor.source:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._end(fd, _name(error))
                return
            visitor.source = "%s:%d" % sock.getsockname()
            sock.send(b"%d %d\n" % (visitor.id, visitor.hold_ms))
            self.poller.modify(fd, select.EPOLLIN)
            return
        data = sock.recv(256)
        if data:
            visitor.answer += data
            return
        words = visitor.answer.split()
        if not visitor.answer.endswith(b"\n"):
            self._end(fd, SHORT)
        elif len(words) == 2 and words[0] == b"%d" % visitor.id:
            self._end(fd, OK, words[1].decode())
        else:
            self._end(fd, WRONG)

    def _give_up(self, now):
        """The oldest come first: a dict keeps the order."""
        for fd, visitor in list(itertools.islice(self.open.items(), 20)):
            if now - visitor.begun - visitor.hold_ms / 1000 > self.options.patience:
                self._end(fd, SILENT)

    def run(self):
        ending = _Ending()
        start = said = time.monotonic()
        while not ending.is_set or self.open:
            now = time.monotonic()
            if not ending.is_set:
                due = min(BURST, int((now - start) * self.options.rate) - self.begun)
                for _ in range(due):
                    self._begin()
                last = now
            for fd, events in self.poller.poll(TURN_S, 256):
                try:
                    self._step(fd, events)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._end(fd, _name(error.errno))
            self._give_up(now)
            if now - said > PROGRESS_S:
                said = now
                print(json.dumps({"begun": self.begun, **self.outcomes}), flush=True)
        _write(self.options.out, {"seconds": last - start, "visits": self.done})


# --- a local service --------------------------------------------------------------------------


class Service:
    def __init__(self, options):
        self.options = options
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", options.port))
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.poller = select.epoll()
        self.poller.register(self.listener, select.EPOLLIN)
        self.open = {}      # descriptor: (socket, the bytes that it has sent)
        self.held = []      # (when to answer, a number, descriptor, answer); a heap
        self.asked = set()  # descriptors that have sent their request
        self.requests = []
        self.empty = 0      # connections that ended before their request
        self.broken = []    # what else came
        self.numbers = itertools.count()

    def _accept(self):
        for _ in range(64):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            self.open[sock.fileno()] = (sock, b"")
            self.poller.register(sock, select.EPOLLIN)

    def _close(self, fd):
        sock, _ = self.open.pop(fd)
        if fd not in self.asked:
            self.empty += 1
        self.asked.discard(fd)
        self.poller.unregister(fd)
        sock.close()

    def _read(self, fd):
        sock, data = self.open[fd]
        more = sock.recv(4096)
        if not more:
            self._close(fd)
            return
        data += more
        self.open[fd] = (sock, data)
        if fd in self.asked:
            return
        parsed = proxy_header.parse(data)
        if not parsed or not parsed[1].endswith(b"\n"):
            return
        header, request = parsed
        number, hold_ms = request.split()
        source = "%s:%d" % header.source if header.source else "nobody"
        self.asked.add(fd)
        now = time.monotonic()
        self.requests.append(Request(int(number), now, source))
        answer = b"%s %s\n" % (number, self.options.name.encode())
        if int(hold_ms):
            heapq.heappush(self.held, (now + int(hold_ms) / 1000, next(self.numbers), fd, sock, answer))
        else:
            self._answer(fd, answer)

    def _answer(self, fd, answer):
        self.open[fd][0].send(answer)
        self._close(fd)

    def _step(self, fd):
        if fd == self.listener.fileno():
            self._accept()
            return
        try:
            self._read(fd)
        except BlockingIOError:
            pass
        except OSError:
            self._close(fd)
        except (AssertionError, ValueError) as error:
            self.broken.append(f"{error!r}: {self.open[fd][1][:100]!r}")
            self._close(fd)

    def run(self):
        ending = _Ending()
        print("serves", flush=True)
        while not ending.is_set:
            for fd, _ in self.poller.poll(0.02 if not self.held else 0.005, 256):
                self._step(fd)
            while self.held and self.held[0][0] <= time.monotonic():
                _, _, fd, sock, answer = heapq.heappop(self.held)
                # Its connection may have ended, and another one may have the descriptor.
                if fd in self.open and self.open[fd][0] is sock:
                    try:
                        self._answer(fd, answer)
                    except OSError:
                        self._close(fd)
        _write(self.options.out, {"requests": self.requests, "empty": self.empty,
                                  "broken": self.broken})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    roles = parser.add_subparsers(required=True)
    visit = roles.add_parser("visit")
    visit.add_argument("host")
    visit.add_argument("port", type=int)
    visit.add_argument("--rate", type=float, required=True, help="visitors a second")
    visit.add_argument("--sources", required=True, help="their addresses, as a prefix")
    visit.add_argument("--held", type=float, default=0.05, help="the share that is held (0.05)")
    visit.add_argument("--hold-ms", type=int, default=1000, help="how long the service holds it (1000)")
    visit.add_argument("--patience", type=float, default=30, help="seconds until a visitor gives up (30)")
    visit.set_defaults(kind=Visitors)
    serve = roles.add_parser("serve")
    serve.add_argument("port", type=int)
    serve.add_argument("--name", required=True)
    serve.set_defaults(kind=Service)
    for role in (visit, serve):
        role.add_argument("--out", required=True)
    options = parser.parse_args()
    options.kind(options).run()


if __name__ == "__main__":
    sys.exit(main())
