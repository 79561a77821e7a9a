#!/usr/bin/env python3
"""Crowds of visitors and what they visit, each a process of its own with one thread: the test's own
threads would compete with them for the interpreter, and what is measured would be that.

usage: crowds.py echo PORT                       a service that sends back what comes
       crowds.py source PORT                     a service that sends as fast as its visitor reads, from the
                                                 visitor's first byte on
       crowds.py resets PORT RATE SECONDS        connections that are reset at once
       crowds.py pairs PORT FLOWS SECONDS PAUSE  FLOWS relays to an echo, on each a question after the
                                                 other, PAUSE seconds after the answer
       crowds.py visits PORT SECONDS PAUSE       visitors of an echo, one after the other
       crowds.py drain PORT FLOWS SECONDS        reads FLOWS streams of a source, as fast as it can
       crowds.py shares PORT FLOWS BYTES         the same with BYTES of each, and the time that each took
       crowds.py slow PORT FLOWS RATE            the same with RATE bytes a second each, until SIGTERM
       crowds.py idle PORT COUNT ADDRESSES       COUNT visitors of an echo from so many addresses; a line on
                                                 standard input asks all of them again, the end of it ends all

Visitors write a line of JSON with what they saw, "idle" one after each look."""

import errno
import json
import select
import signal
import socket
import struct
import sys
import time

HOST = "127.0.0.1"
CHUNK = 256 << 10
QUESTION = b"still there?"
LIMIT_S = 30
# Of each end of a stream: with what the kernel would allow, a thousand use up all its memory for TCP
# (tcp_mem), and some are left without any.
STREAM_BUFFER = 128 << 10
RESET = struct.pack("ii", 1, 0)


def percentiles(times):
    times = sorted(times)
    at = {f"p{n}": times[min(len(times) - 1, len(times) * n // 100)] for n in (50, 99)} if times else {}
    return {"count": len(times), "worst": times[-1] if times else None, **at}


def say(**what):
    print(json.dumps(what), flush=True)


def open_visitor(port, source=None, buffer=None):
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(LIMIT_S)
    if source:
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((source, 0))
    sock.connect((HOST, port))
    return sock


# --- services ---------------------------------------------------------------------------------


def serve(port, act, buffer=None):
    """act(socket, what happened) -> the events that it waits for next, 0 at its end."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(4096)
    listener.setblocking(False)
    poll, socks = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    while True:
        for fd, happened in poll.poll():
            if fd == listener.fileno():
                try:
                    sock, _ = listener.accept()
                except OSError:
                    continue
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if buffer:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                socks[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                continue
            try:
                wanted = act(socks[fd], happened)
            except BlockingIOError:
                continue
            except OSError:
                wanted = 0
            if wanted:
                poll.modify(fd, wanted)
            else:
                poll.unregister(fd)
                socks.pop(fd).close()


def echo(port):
    def act(sock, _):
        data = sock.recv(CHUNK)
        if data:
            sock.send(data)  # small: it always fits
        return select.EPOLLIN if data else 0

    serve(port, act)


def source(port):
    data = bytes(range(256)) * (CHUNK // 256)

    def act(sock, happened):
        if happened & select.EPOLLIN:
            return select.EPOLLOUT if sock.recv(1) else 0
        sock.send(data)
        return select.EPOLLOUT

    serve(port, act, STREAM_BUFFER)


# --- visitors ---------------------------------------------------------------------------------


def resets(port, rate, seconds):
    made = failed = 0
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        if made + failed >= now * rate:
            time.sleep(0.0005)
            continue
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.settimeout(1)
        try:
            sock.connect((HOST, port))
            made += 1
        except ConnectionResetError:
            made += 1  # turned away before connect(2) has returned: too many wait for a channel
        except OSError:
            failed += 1
        sock.close()
    say(made=made, failed=failed, rate=made / (time.monotonic() - begun))


def pairs(port, flows, seconds, pause):
    socks = [open_visitor(port) for _ in range(flows)]
    poll, asked, times = select.epoll(), {}, []
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)

    def ask(fd):
        asked[fd] = time.monotonic()
        by_fd[fd].sendall(QUESTION)

    waiting = list(by_fd)  # with a pause: in the order in which they may ask again
    due = {fd: time.monotonic() + pause * n / flows for n, fd in enumerate(waiting)}
    first, end = time.monotonic() + 0.5, time.monotonic() + 0.5 + seconds
    while (now := time.monotonic()) < end:
        while waiting and due[waiting[0]] <= now:
            ask(waiting.pop(0))
        for fd, _ in poll.poll(max(0, due[waiting[0]] - now) if waiting else 0.1):
            if by_fd[fd].recv(len(QUESTION)) != QUESTION:
                sys.exit("an answer that is none")
            now = time.monotonic()
            if asked[fd] > first:
                times.append(now - asked.pop(fd))
            if pause:
                due[fd] = now + pause
                waiting.append(fd)
            else:
                ask(fd)
    times += [end - begun for fd, begun in asked.items() if fd not in waiting and begun > first]
    say(**percentiles(times))


def visits(port, seconds, pause):
    times, failed, end = [], 0, time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        try:
            with open_visitor(port) as sock:
                sock.sendall(QUESTION)
                if sock.recv(len(QUESTION)) != QUESTION:
                    raise OSError(errno.ECONNRESET, "no answer")
            times.append(time.monotonic() - begun)
        except OSError:
            failed += 1
        time.sleep(pause)
    say(failed=failed, **percentiles(times))


def open_streams(port, flows):
    poll, by_fd = select.epoll(), {}
    for _ in range(flows):
        sock = open_visitor(port, buffer=STREAM_BUFFER)
        sock.setblocking(False)
        by_fd[sock.fileno()] = sock
    for fd, sock in by_fd.items():  # together: who begins earlier has full buffers when the others begin
        sock.send(b"g")
        poll.register(fd, select.EPOLLIN)
    return poll, by_fd


def drain(port, flows, seconds):
    poll, by_fd = open_streams(port, flows)
    total, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for fd, _ in poll.poll(0.1, 64):
            size = len(by_fd[fd].recv(CHUNK))
            total += size
            if size == 0:
                sys.exit("a stream ended")
    say(flows=flows, bytes=total)


def shares(port, flows, size):
    poll, by_fd = open_streams(port, flows)
    left, times, begun = dict.fromkeys(by_fd, size), [], time.monotonic()
    while left:
        for fd, _ in poll.poll(LIMIT_S, 64):
            got = len(by_fd[fd].recv(CHUNK))
            if got == 0:
                sys.exit("a stream ended")
            left[fd] -= got
            if left[fd] <= 0:
                times.append(time.monotonic() - begun)
                poll.unregister(fd)
                by_fd[fd].close()
                del left[fd]
    say(flows=flows, fastest=times[0], median=times[flows // 2], slowest=times[-1])


def slow(port, flows, rate):
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    socks = [open_visitor(port) for _ in range(flows)]
    for sock in socks:
        sock.send(b"g")
    got, ended, begun = 0, 0, time.monotonic()
    say(flows=len(socks))
    while not stopped:
        for sock in socks:
            part = sock.recv(rate)
            got += len(part)
            ended += not part
        begun += 1
        time.sleep(max(0, begun - time.monotonic()))
    say(flows=len(socks), bytes=got, ended=ended)


def idle(port, count, addresses):
    socks, refused, failed = [], 0, []
    for number in range(count):
        if number % 200 == 199 and socks:  # no more than the server lets wait for a data channel
            answer = select.poll()
            answer.register(socks[-1], select.POLLIN)
            answer.poll(1000 * LIMIT_S)
        try:
            sock = open_visitor(port, f"127.20.{number % addresses}.1")
            sock.sendall(QUESTION)
            socks.append(sock)
        except ConnectionResetError:
            refused += 1  # before the question was out
        except OSError as error:
            failed.append(str(error))
    first = True
    while True:
        alive = []
        for sock in socks:
            try:
                if not first:
                    sock.sendall(QUESTION)
                answer = sock.recv(len(QUESTION))
                if answer == QUESTION:
                    alive.append(sock)
                    continue
                if answer:
                    failed.append("an answer that is none")
                refused += not answer
            except ConnectionResetError:
                refused += 1
            except OSError as error:
                failed.append(str(error))
            sock.close()
        socks, first = alive, False
        say(alive=len(alive), refused=refused, failed=len(failed), why=failed[:3])
        if not sys.stdin.readline():
            return


def main(name="", *numbers):
    kinds = {"echo": echo, "source": source, "resets": resets, "pairs": pairs, "visits": visits,
             "drain": drain, "shares": shares, "slow": slow, "idle": idle}
    if name not in kinds:
        sys.exit(__doc__)
    kinds[name](*[float(number) if "." in number else int(number) for number in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
