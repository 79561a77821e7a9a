#!/usr/bin/env python3
"""A small client of the protocol in docs/protocol.md: one TCP service over plain TCP.

usage: minimal_client.py SERVER:PORT SERVICE TOKEN LOCAL_HOST:PORT

Left out: encryption, UDP, and a second try for a data channel that gets no connection.
"""

import contextlib
import hashlib
import socket
import struct
import sys
import threading
import time

CONTROL, DATA, VERSION = 0, 1, 1  # tags of a Hello
ACKS = {0: "welcome", 1: "the server has no such service", 2: "the token is wrong"}
CREATE_DATA_CHANNEL, HEARTBEAT = 0, 1
START_TCP, START_SOCKET_STREAM = 0, 2
LOGIN_TIMEOUT, HEARTBEAT_TIMEOUT, CONNECT_TIMEOUT = 15, 40, 10  # seconds
PARKED_MAX = 256  # data channels that wait for a visitor, however many the server requests


def sha256(data):
    return hashlib.sha256(data).digest()


def hello(tag, digest):
    return struct.pack("<IB", tag, VERSION) + digest


def read(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise OSError("the server has ended the connection")
        data += part
    return data


def number(four_bytes):
    return struct.unpack("<I", four_bytes)[0]


def close(sock, clean):
    if not clean:  # with RST: a FIN would say that the stream is complete
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def login(server, service, token):
    """The control channel and its session key."""
    control = socket.create_connection(server, LOGIN_TIMEOUT)
    control.sendall(hello(CONTROL, sha256(service)))
    answer = read(control, 37)
    if answer[:5] != hello(CONTROL, b""):
        raise OSError("the server does not speak version 1")
    key = sha256(token + answer[5:])
    with contextlib.suppress(OSError):  # it may have closed already, behind an Ack that says why
        control.sendall(key)
    ack = number(read(control, 4))
    if ack != 0:
        raise OSError("login refused: " + ACKS.get(ack, f"Ack {ack}"))
    control.settimeout(HEARTBEAT_TIMEOUT)
    return control, key


def relay(channel, local):
    """Copies both ways until both have ended. An error on one way resets both ends."""
    errors = []

    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            if not errors:
                target.shutdown(socket.SHUT_WR)  # the other direction goes on
        except OSError as error:
            errors.append(error)
            for end in (channel, local):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RD)  # wakes the other thread, and sends nothing

    back = threading.Thread(target=copy, args=(local, channel), daemon=True)
    back.start()
    copy(channel, local)
    back.join()
    close(channel, not errors)
    close(local, not errors)


def serve_channel(server, key, local, parked):
    """A data channel, from its request to the end of its visitor."""
    try:
        channel = socket.create_connection(server, CONNECT_TIMEOUT)
    except OSError:
        return
    parked.add(channel)
    try:
        channel.settimeout(None)  # it may wait for its visitor as long as the session lasts
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel.sendall(hello(DATA, key))
        if number(read(channel, 4)) not in (START_TCP, START_SOCKET_STREAM):
            raise OSError("this visitor is of another kind of service")
        service = socket.create_connection(local, CONNECT_TIMEOUT)
    except OSError:  # also: the local service is not there, or the session is over
        close(channel, clean=False)
        return
    finally:
        parked.discard(channel)
    service.settimeout(None)
    relay(channel, service)


def serve(server, service, token, local):
    """One session, from the login to the end of the control channel. Relays outlive it; the server
    ends the channels that are parked."""
    control, key = login(server, service, token)
    print("logged in", flush=True)
    parked = set()
    with control:
        while True:  # and never write here
            command = number(read(control, 4))
            if command not in (CREATE_DATA_CHANNEL, HEARTBEAT):
                raise OSError(f"control command {command} is unknown")
            if command == CREATE_DATA_CHANNEL and len(parked) < PARKED_MAX:
                threading.Thread(target=serve_channel, args=(server, key, local, parked),
                                 daemon=True).start()


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def main():
    server, service, token, local = sys.argv[1:]
    while True:
        try:
            serve(address(server), service.encode(), token.encode(), address(local))
        except OSError as error:
            print(f"{error}; next attempt in 1 s", file=sys.stderr, flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
