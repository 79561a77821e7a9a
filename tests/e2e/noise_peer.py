"""Noise (NK, XX, KK with 25519, ChaChaPoly, BLAKE2s) by hand, after revision 34 of the
specification, and sockets that speak it the way rathole does: u16 LE length, Noise message.

A NoiseSocket is used like a plain socket, and gives access to the frames below it, so that a test
can send wrong ones. Nothing here is shared with the C program.
"""

import base64
import hashlib
import hmac
import os
import socket
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import (
    Encoding, NoEncryption, PrivateFormat, PublicFormat,
)

TAG_SIZE = 16
MESSAGE_MAX = 65535
PAYLOAD_MAX = MESSAGE_MAX - TAG_SIZE

# pattern: (whose static key is known beforehand: initiator's, responder's; the tokens of each message)
PATTERNS = {
    "NK": ("r", ("e es", "e ee")),
    "XX": ("", ("e", "e ee s es", "s se")),
    "KK": ("ir", ("e es ss", "e ee se")),
}

# Points whose product with any (clamped) private key is zero: RFC 7748, section 6.1 and 7.
_P = (1 << 255) - 19
_ORDER_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
_ORDER_8_TWIN = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"
LOW_ORDER = {
    "zero": bytes(32),
    "one": (1).to_bytes(32, "little"),
    "order 8": bytes.fromhex(_ORDER_8),
    "order 8, the other": bytes.fromhex(_ORDER_8_TWIN),
    "p - 1": (_P - 1).to_bytes(32, "little"),
    "p": _P.to_bytes(32, "little"),
    "p + 1": (_P + 1).to_bytes(32, "little"),
    "zero, top bit": (1 << 255).to_bytes(32, "little"),
    "one, top bit": (1 | 1 << 255).to_bytes(32, "little"),
}


class NoiseError(Exception):
    """The peer sent what no correct implementation sends."""


class KeyPair:
    def __init__(self, private=None):
        self._key = (X25519PrivateKey.from_private_bytes(private) if private
                     else X25519PrivateKey.generate())
        self.private = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def exchange(self, public):
        return self._key.exchange(X25519PublicKey.from_public_bytes(public))

    @property
    def private_text(self):
        return base64.b64encode(self.private).decode()

    @property
    def public_text(self):
        return base64.b64encode(self.public).decode()


class LowOrderKey:
    """A public key that makes every shared secret zero: its owner needs no private one."""

    def __init__(self, public):
        self.public = public

    def exchange(self, _public):
        return bytes(32)


def blake2s(data):
    return hashlib.blake2s(data).digest()


def hkdf(chaining_key, material):
    """HKDF with two outputs."""
    def mac(key, data):
        return hmac.new(key, data, hashlib.blake2s).digest()

    secret = mac(chaining_key, material)
    first = mac(secret, b"\x01")
    return first, mac(secret, first + b"\x02")


class Cipher:
    """CipherState: no key means plaintext."""

    def __init__(self, key=None, nonce=0):
        self.key, self.nonce = key, nonce

    def _next(self):
        nonce = bytes(4) + struct.pack("<Q", self.nonce)
        self.nonce += 1
        return nonce

    def encrypt(self, plaintext, ad=b""):
        if self.key is None:
            return plaintext
        return ChaCha20Poly1305(self.key).encrypt(self._next(), plaintext, ad)

    def decrypt(self, ciphertext, ad=b""):
        if self.key is None:
            return ciphertext
        try:
            return ChaCha20Poly1305(self.key).decrypt(self._next(), ciphertext, ad)
        except InvalidTag:
            raise NoiseError(f"a message of {len(ciphertext)} bytes with a bad tag") from None


class Handshake:
    """HandshakeState and SymmetricState in one. write() and read() in turn until done()."""

    def __init__(self, pattern, initiator, static=None, remote=None, ephemeral=None, prologue=b""):
        self.initiator = initiator
        self.s, self.rs = static, remote  # a KeyPair, 32 bytes
        self.e, self.re = ephemeral, None
        known, messages = PATTERNS[pattern]
        self.messages = [message.split() for message in messages]
        self.turn = 0
        name = f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2s".encode()
        self.hash = name.ljust(32, b"\0") if len(name) <= 32 else blake2s(name)
        self.chaining_key = self.hash
        self.cipher = Cipher()
        self._mix_hash(prologue)
        for who in known:
            self._mix_hash(self.s.public if (who == "i") == initiator else self.rs)

    def done(self):
        return self.turn == len(self.messages)

    def is_my_turn(self):
        return (self.turn % 2 == 0) == self.initiator

    def _mix_hash(self, data):
        self.hash = blake2s(self.hash + data)

    def _mix_key(self, material):
        self.chaining_key, key = hkdf(self.chaining_key, material)
        self.cipher = Cipher(key)

    def _encrypt(self, plaintext):
        ciphertext = self.cipher.encrypt(plaintext, self.hash)
        self._mix_hash(ciphertext)
        return ciphertext

    def _decrypt(self, ciphertext):
        plaintext = self.cipher.decrypt(ciphertext, self.hash)
        self._mix_hash(ciphertext)
        return plaintext

    def _mix_dh(self, token):
        # The first letter is the initiator's key, the second the responder's.
        mine, theirs = token if self.initiator else reversed(token)
        local = self.e if mine == "e" else self.s
        self._mix_key(local.exchange(self.re if theirs == "e" else self.rs))

    def write(self, payload=b""):
        message = b""
        for token in self.messages[self.turn]:
            if token == "e":
                self.e = self.e or KeyPair()
                message += self.e.public
                self._mix_hash(self.e.public)
            elif token == "s":
                message += self._encrypt(self.s.public)
            else:
                self._mix_dh(token)
        self.turn += 1
        return message + self._encrypt(payload)

    def read(self, message):
        """Processes the peer's message; returns its payload."""
        def take(size):
            nonlocal message
            part, message = message[:size], message[size:]
            if len(part) < size:
                raise NoiseError("a handshake message that is too short")
            return part

        for token in self.messages[self.turn]:
            if token == "e":
                self.re = take(32)
                self._mix_hash(self.re)
            elif token == "s":
                self.rs = self._decrypt(take(32 + (TAG_SIZE if self.cipher.key else 0)))
            else:
                self._mix_dh(token)
        self.turn += 1
        return self._decrypt(message)

    def split(self):
        """Returns (the Cipher to send with, the Cipher to receive with)."""
        first, second = hkdf(self.chaining_key, b"")
        keys = (first, second) if self.initiator else (second, first)
        return Cipher(keys[0]), Cipher(keys[1])


def frame(message):
    return struct.pack("<H", len(message)) + message


def flipped(data, offset, bit=0):
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def one_by_one(sock, data):
    """Each byte in a segment of its own (TCP_NODELAY is on)."""
    for n in range(len(data)):
        sock.sendall(data[n : n + 1])


class NoiseSocket:
    """A connected socket, after its handshake. If the last handshake message is ours, `tail` goes
    out in the same segment. write(sock, bytes) sends the handshake messages."""

    def __init__(self, sock, handshake, tail=b"", write=socket.socket.sendall):
        self.sock, self.handshake = sock, handshake
        self._raw, self._plain = bytearray(), bytearray()
        self._sealer = self._opener = None
        self.frames = []  # payload sizes of the received frames
        while not handshake.done():
            if not handshake.is_my_turn():
                message = self._recv_message()
                if message is None:
                    raise EOFError("end of stream in the handshake")
                handshake.read(message)
                continue
            data = frame(handshake.write())
            if handshake.done():
                self._sealer, self._opener = handshake.split()
                data, tail = data + (self.seal(tail) if tail else b""), b""
            write(sock, data)
        if not self._sealer:
            self._sealer, self._opener = handshake.split()
        if tail:
            self.sendall(tail)

    # The interface of a plain socket

    def __getattr__(self, name):
        if name in ("settimeout", "gettimeout", "setsockopt", "getsockopt", "shutdown", "close",
                    "fileno", "getsockname", "getpeername"):
            return getattr(self.sock, name)
        raise AttributeError(name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def sendall(self, data, payload_max=PAYLOAD_MAX):
        view = memoryview(data)
        self.sock.sendall(b"".join(self.seal(view[at : at + payload_max])
                                   for at in range(0, len(view), payload_max)))

    def recv(self, size):
        """As recv(2); b"" for a FIN between two frames. NoiseError for one inside a frame."""
        while not self._plain:
            message = self._recv_message()
            if message is None:
                return b""
            payload = self._opener.decrypt(message)
            self.frames.append(len(payload))
            if not payload:
                raise NoiseError("an empty payload: rathole takes it for the end of the stream")
            self._plain += payload
        part = bytes(self._plain[:size])
        del self._plain[:size]
        return part

    def _recv_message(self):
        """Returns None at the end of the stream. A timeout loses no bytes."""
        while len(self._raw) < 2 or len(self._raw) < 2 + struct.unpack_from("<H", self._raw)[0]:
            part = self.sock.recv(MESSAGE_MAX + 2)
            if not part:
                if self._raw:
                    raise NoiseError(f"FIN after {len(self._raw)} bytes of a frame")
                return None
            self._raw += part
        end = 2 + struct.unpack_from("<H", self._raw)[0]
        message = bytes(self._raw[2:end])
        del self._raw[:end]
        return message

    # Access to single frames

    def seal(self, payload):
        """Returns the next frame. A test may leave frames out or send them in another order."""
        return frame(self._sealer.encrypt(bytes(payload)))

    def send_raw(self, data):
        self.sock.sendall(data)


class Noise:
    """What the two ends of a tunnel are configured with: a pattern, a key pair each.

    tables() gives the tables of a configuration file; a test may change keys[role] before. client()
    and server() play an end on a plain socket."""

    def __init__(self, pattern="NK", pinned=True):
        self.pattern = pattern
        self.pair = {"server": KeyPair(), "client": KeyPair()}
        mine = {role: {"local_private_key": pair.private_text}
                for role, pair in self.pair.items()}
        theirs = {"server": {"remote_public_key": self.pair["client"].public_text},
                  "client": {"remote_public_key": self.pair["server"].public_text}}
        if pattern == "NK":
            self.keys = {"server": mine["server"], "client": theirs["client"]}
        elif pattern == "KK" or pinned:
            self.keys = {role: {**mine[role], **theirs[role]} for role in mine}
        else:
            self.keys = {"server": {}, "client": {}}

    def __str__(self):
        return self.pattern

    def tables(self, role):
        noise = dict(self.keys[role])
        if self.pattern != "NK":  # NK is the default of both programs
            noise["pattern"] = f"Noise_{self.pattern}_25519_ChaChaPoly_BLAKE2s"
        return {"transport": {"type": "noise"}, "transport.noise": noise}

    def secrets(self):
        """The private keys, which must not be in any log: as text, and as bytes in hexadecimal."""
        for pair in self.pair.values():
            yield from (pair.private_text, pair.private_text.rstrip("="), pair.private.hex())

    def handshake(self, role, **changes):
        other = {"server": "client", "client": "server"}[role]
        options = {"static": self.pair[role] if self.pattern != "NK" or role == "server" else None,
                   "remote": self.pair[other].public if self.pattern != "XX" else None}
        return Handshake(self.pattern, role == "client", **{**options, **changes})

    def client(self, sock, tail=b"", write=socket.socket.sendall, **changes):
        return NoiseSocket(sock, self.handshake("client", **changes), tail, write)

    def server(self, sock, tail=b"", write=socket.socket.sendall, **changes):
        return NoiseSocket(sock, self.handshake("server", **changes), tail, write)

    def first_message(self, **changes):
        """A valid first message, with its length in front."""
        return frame(self.handshake("client", **changes).write())

    def garbage(self):
        """Random bytes, as long as a first message. To XX they are a valid one."""
        return frame(os.urandom(32 if self.pattern == "XX" else 48))
