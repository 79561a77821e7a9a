"""What can be wrong with a frame, for the tests of both roles.

A fault is a function of a NoiseSocket and the payload that a valid frame would have; its result goes
to send_raw(). The peer must deliver none of that payload.
"""

import os
import struct

import pytest

from harness import SCALE, within
from noise_peer import LOW_ORDER, LowOrderKey, flipped, frame
from protocol import how_closed, recv_exact


def with_length(data, length):
    return struct.pack("<H", length) + data[2:]


def one_more(sock, payload):
    """Announces one byte more than it has; the first byte of the next frame is taken for it."""
    sealed = sock.seal(payload)
    return with_length(sealed, len(sealed) - 2 + 1) + sock.seal(payload)


def one_less(sock, payload):
    sealed = sock.seal(payload)
    return with_length(sealed, len(sealed) - 2 - 1)


def reordered(sock, payload):
    first, second = sock.seal(payload), sock.seal(payload)
    return second + first


def dropped(sock, payload):
    sock.seal(payload)
    return sock.seal(payload)


def other_key(sock, payload):
    """What a man in the middle without the key would send."""
    return frame(os.urandom(len(payload) + 16))


FAULTS = {
    "first byte flipped": lambda sock, payload: flipped(sock.seal(payload), 2, 7),
    "middle byte flipped": lambda sock, payload: flipped(sock.seal(payload), 3 + len(payload) // 2),
    "tag flipped": lambda sock, payload: flipped(sock.seal(payload), -1, 7),
    "length one more": one_more,
    "length one less": one_less,
    "length 0": lambda *_: frame(b""),
    "length 1": lambda *_: frame(b"x"),
    "length 15": lambda *_: frame(b"x" * 15),
    "plaintext": lambda _, payload: frame(payload + bytes(16)),
    "other key": other_key,
    "reordered": reordered,
    "dropped": dropped,
    "65535 bytes of zeros": lambda *_: frame(bytes(65535)),
}
# size of a frame -> how many of its bytes are sent before the connection ends
CUTS = {"one byte of the length": lambda size: 1, "the length": lambda size: 2,
        "one byte of the message": lambda size: 3, "half": lambda size: size // 2,
        "all but a byte": lambda size: size - 1}


# The client waits before each new attempt, so a short run has fewer faults.
SOME_FAULTS = list(FAULTS)[:: 1 if SCALE >= 0.5 else 3]


def with_patterns(faults):
    """All faults with NK; one with XX and KK, which differ in the handshake alone."""
    cases = [("NK", fault) for fault in faults] + [("XX", "tag flipped"), ("KK", "tag flipped")]
    return pytest.mark.parametrize("noise, fault", cases, indirect=["noise"])


def gone(sock, what, timeout=1):
    """The peer ends the connection and sends no byte before."""
    how, data = how_closed(sock, within(timeout))
    sock.close()
    assert how != "open", f"{what}: still open after {within(timeout):g} s"
    assert data == b"", f"{what}: answered {data!r}"


def step(sock, handshake, count=None):
    """Goes on with a handshake by hand until `count` messages have passed in all."""
    while not handshake.done() and (count is None or handshake.turn < count):
        if handshake.is_my_turn():
            sock.sendall(frame(handshake.write()))
        else:
            size = int.from_bytes(recv_exact(sock, 2), "little")
            handshake.read(recv_exact(sock, size))


def points(noise, role):
    """Keys that make a shared secret zero, wherever the other role multiplies them."""
    for name, point in LOW_ORDER.items():
        yield f"ephemeral {name}", {"ephemeral": LowOrderKey(point)}
        if noise.pattern == "XX":
            yield f"static {name}", {"static": LowOrderKey(point)}
