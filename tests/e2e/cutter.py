"""A relay of the test's own between the two ends of a tunnel: it delays what passes, cuts connections at a
chosen byte, and plays tricks on datagrams.

    cutter = Cutter(port, ("127.0.0.1", control_port))
    cutter.control.extend([Cut("up", 36, "rst"), ...])   # for the next control channels, one each
    cutter.data.extend([Cut("down", 4, "fin"), ...])     # for the next data channels

It carries one service, so it need not read what passes: a connection is a control channel if there is no
other one.
"""

import collections
import random
import select
import socket
import threading
import time

from protocol import reset

UP, DOWN = "up", "down"           # from the caller to the target, and back
FIN, RST, SILENCE = "fin", "rst", "silence"

Cut = collections.namedtuple("Cut", "direction after how")  # after so many bytes


class _Pair:
    def __init__(self, caller, target, is_control):
        self.ends = {UP: caller, DOWN: target}  # by the direction of what they send
        self.is_control, self.cut, self.plans = is_control, None, None
        self.passed = {UP: 0, DOWN: 0}
        self.waiting = {UP: collections.deque(), DOWN: collections.deque()}  # (due, bytes)
        self.is_silent = False
        self.ended = set()

    def sink(self, direction):
        return self.ends[DOWN if direction == UP else UP]


class Cutter:
    """made: [(cut, when)]. logins: [when] a control channel came. totals: {True: control channels, False:
    data channels}, each {direction: bytes}, in order."""

    def __init__(self, port, target, host="127.0.0.1", delay=0):
        self.target, self.delay = target, delay
        self.control, self.data = collections.deque(), collections.deque()
        self.made, self.logins, self.totals = [], [], {True: [], False: []}
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(512)
        self.pairs = {}
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.stopping = self.begins_again = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def cut_control(self):
        """Resets the control channel when the next byte has passed down."""
        for pair, _ in list(self.pairs.values()):
            if pair.is_control:
                pair.cut, pair.plans = Cut(DOWN, 0, RST), collections.deque()

    def begin_again(self):
        """Ends all connections; their cuts are for later ones. A data channel that was taken for the control
        channel, because it came first, keeps its cut for as long as it is parked."""
        self.begins_again = True

    def _run(self):
        while not self.stopping:
            if self.begins_again:
                self.begins_again = False
                for pair, _ in list(self.pairs.values()):
                    if not pair.is_silent:
                        self._end(pair, RST)
            for fd, _ in self.poll.poll(0.002 if self.delay else 0.05, 64):
                if fd == self.listener.fileno():
                    self._accept()
                elif fd in self.pairs:
                    self._read(*self.pairs[fd])
            if self.delay:
                self._send_due()
        for pair, _ in list(self.pairs.values()):
            self._end(pair, FIN)
        self.poll.close()
        self.listener.close()

    def _accept(self):
        caller, _ = self.listener.accept()
        try:
            target = socket.create_connection(self.target, timeout=5)
        except OSError:
            reset(caller)
            return
        pair = _Pair(caller, target, not any(pair.is_control for pair, _ in self.pairs.values()))
        pair.plans = self.control if pair.is_control else self.data
        if pair.plans:
            pair.cut = pair.plans.popleft()
        self.totals[pair.is_control].append(pair.passed)
        if pair.is_control:
            self.logins.append(time.monotonic())
        for direction, sock in pair.ends.items():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs[sock.fileno()] = pair, direction
            self.poll.register(sock, select.EPOLLIN)
        self._cut_if_due(pair)

    def _cut_if_due(self, pair):
        if pair.cut and pair.passed[pair.cut.direction] >= pair.cut.after:
            cut, pair.cut = pair.cut, None
            self.made.append((cut, time.monotonic()))
            if cut.how == SILENCE:
                pair.is_silent, pair.is_control = True, False
                for sock in pair.ends.values():
                    self.poll.modify(sock, 0)  # and its end is told as HUP
            else:
                self._end(pair, cut.how)

    def _end(self, pair, how):
        if pair.cut:  # for another connection: a late data channel of a lost session may come first
            pair.plans.appendleft(pair.cut)
            pair.cut = None
        for sock in pair.ends.values():
            if sock.fileno() < 0:
                continue
            if self.pairs.pop(sock.fileno(), None):
                self.poll.unregister(sock)
            if how == RST:
                reset(sock)
            else:
                sock.close()

    def _read(self, pair, direction):
        if pair.is_silent:  # an end has given the connection up
            gone = pair.ends[direction]
            self.poll.unregister(gone)
            del self.pairs[gone.fileno()]
            gone.close()
            return
        if direction in pair.ended:  # HUP: both directions of this end are over
            self._end(pair, RST)
            return
        source = pair.ends[direction]
        most = 65536
        if pair.cut and pair.cut.direction == direction:
            most = max(1, pair.cut.after - pair.passed[direction])
        try:
            data = source.recv(most)
        except ConnectionError:
            self._end(pair, RST)
            return
        if self.delay:
            pair.waiting[direction].append((time.monotonic() + self.delay, data))
            return
        self._pass(pair, direction, data)

    def _send_due(self):
        now = time.monotonic()
        for pair, direction in list(self.pairs.values()):
            queue = pair.waiting[direction]
            while queue and queue[0][0] <= now and not pair.is_silent:
                self._pass(pair, direction, queue.popleft()[1])

    def _pass(self, pair, direction, data):
        sink = pair.sink(direction)
        try:
            if data:
                sink.sendall(data)
                pair.passed[direction] += len(data)
            else:
                sink.shutdown(socket.SHUT_WR)
                self.poll.modify(pair.ends[direction], 0)
                pair.ended.add(direction)
                if len(pair.ended) == 2:
                    self._end(pair, FIN)
                    return
        except OSError:
            self._end(pair, RST)
            return
        self._cut_if_due(pair)

    def stop(self):
        self.stopping = True
        self.thread.join(5)


class Shuffler:
    """A relay for the datagrams of one visitor: of those to the target, some overtake others and some come
    twice. passed: what it has passed on, in this order; answers pass as they come."""

    def __init__(self, target, seed=1, host="127.0.0.1"):
        self.random = random.Random(seed)
        self.passed, self.held = [], []
        self.front, self.back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.front.bind((host, 0))
        self.port = self.front.getsockname()[1]
        self.back.connect(target)
        self.visitor = None
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopping:
            for sock in select.select([self.front, self.back], [], [], 0.05)[0]:
                if sock is self.back:
                    self.front.sendto(self.back.recv(65535), self.visitor)
                    continue
                data, self.visitor = self.front.recvfrom(65535)
                self.held.append(data)
                if len(self.held) == 4:
                    self._let_go()
        self.front.close()
        self.back.close()

    def _let_go(self):
        self.held += self.random.sample(self.held, 1)
        self.random.shuffle(self.held)
        for data in self.held:
            self.back.send(data)
        self.passed += self.held
        self.held = []

    def stop(self):
        self.stopping = True
        self.thread.join(5)
