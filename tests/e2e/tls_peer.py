"""TLS ends for the tests: what both ends of a tunnel are configured with, and sockets that play one.

A TlsSocket is used like a plain socket and gives access to the records below it, so that a test can cut or
damage them. Its end of stream is close_notify, as rathole's is: the other direction stays open, and a FIN
without it is a truncation.
"""

import ssl
import struct

import certificates

HANDSHAKE, ALERT, APPLICATION_DATA = 22, 21, 23  # record types
CLOSE_NOTIFY = 0
CHUNK = 1 << 16


class Truncated(ConnectionResetError):
    """The stream ended without the message that says so: to the caller, as good as a reset."""


def records(data):
    """[(type, whole record)] of bytes that hold whole records; a cut one at the end is left out."""
    found = []
    while len(data) >= 5:
        size = 5 + struct.unpack_from(">H", data, 3)[0]
        if len(data) < size:
            break
        found.append((data[0], data[:size]))
        data = data[size:]
    return found


class TlsSocket:
    """A connected socket with TLS on it. write(sock, bytes) sends the handshake's flights; `flights` keeps
    them. start=False: no handshake yet, see step()."""

    def __init__(self, sock, context, is_server, hostname=None, write=None, session=None, start=True):
        self.sock = sock
        self.write = write or (lambda sock, data: sock.sendall(data))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=is_server,
                                    server_hostname=hostname, session=session)
        self.flights = []
        self._plain = bytearray()  # what was decrypted before anybody asked for it
        self.has_ended = self.is_shut = False
        self.is_done = False
        while start and not self.is_done:
            self.step()

    # The interface of a plain socket

    def __getattr__(self, name):
        if name in ("settimeout", "gettimeout", "setsockopt", "getsockopt", "close", "fileno",
                    "getsockname", "getpeername"):
            return getattr(self.sock, name)
        raise AttributeError(name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def sendall(self, data):
        self.sock.sendall(self.seal(data))

    def recv(self, size):
        """As recv(2): b"" for close_notify, Truncated for a FIN without it."""
        if self._plain:
            part = bytes(self._plain[:size])
            del self._plain[:size]
            return part
        while not self.has_ended:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLZeroReturnError:
                self.has_ended = True
        return b""

    def shutdown(self, _how):
        """Says that our stream has ended; what the peer still sends can be read."""
        self.sock.sendall(self.end())

    def fin(self):
        """A bare FIN: to a peer that reads TLS, a truncation."""
        self.sock.shutdown(1)

    # Below it

    def step(self):
        """One flight out, or one read."""
        try:
            self.tls.do_handshake()
            self.is_done = True
        except ssl.SSLWantReadError:
            if self._send_flight():
                return
            self._fill()
            return
        except ssl.SSLError:
            self._flush()  # the alert
            raise
        self._send_flight()

    def _send_flight(self):
        flight = self._out.read()
        if flight:
            self.flights.append(flight)
            self.write(self.sock, flight)
        return flight

    def flight(self):
        """The next flight of the handshake, not sent; the peer's bytes are read as needed."""
        while True:
            try:
                self.tls.do_handshake()
                self.is_done = True
                return self._out.read()
            except ssl.SSLWantReadError:
                flight = self._out.read()
                if flight:
                    return flight
                self._fill()

    def _flush(self):
        data = self._out.read()
        if data:
            self.sock.sendall(data)

    def _fill(self):
        data = self.sock.recv(CHUNK)
        if not data:
            raise Truncated("FIN without close_notify")
        self._in.write(data)

    def seal(self, payload):
        """The next records, not sent."""
        view = memoryview(payload)
        while view:
            view = view[self.tls.write(view):]
        return self._out.read()

    def end(self):
        """Our close_notify, not sent."""
        if not self.is_shut:
            self.is_shut = True
            try:
                # OpenSSL takes data for an error while it looks for the peer's close_notify.
                while data := self.tls.read(CHUNK):
                    self._plain += data
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.has_ended = True
            try:
                self.tls.unwrap()  # writes ours and asks for the peer's, which need not be there
            except (ssl.SSLWantReadError, ssl.SSLSyscallError):
                pass
        return self._out.read()

    def send_raw(self, data):
        self.sock.sendall(data)


class Tls:
    """What the two ends of a tunnel are configured with.

    identity: the server's, a name in certificates.py. form: one of certificates.PKCS12_FORMS, or "pem",
    which is ours alone. hostname: what the client expects; None: the host of remote_addr. trusted: the
    authority that the client trusts. only_file: ours alone, the system's roots do not count. client: the
    client's identity, ours alone; the server then wants one. A test may change `keys` before a start.
    handshake_kib: what an end may keep for an unfinished handshake."""

    handshake_kib = 24

    def __init__(self, identity="named", hostname=certificates.NAME, form="aes", trusted=None,
                 only_file=None, client=None):
        self.identity, self.hostname, self.client_identity = identity, hostname, client
        self.trusted = (trusted or certificates.authority)()
        own = certificates.identity(identity)
        if form == "pem":
            server = {"certificate": own.certificate_path, "private_key": own.key_path}
        else:
            server = {"pkcs12": own.pkcs12(form), "pkcs12_password": certificates.PASSWORD}
        self.keys = {"server": server,
                     "client": {"trusted_root": self.trusted.path, "hostname": hostname,
                                "trust_only_file": only_file}}
        if client:
            its_own = certificates.identity(client)
            server["client_ca"] = certificates.authority().path
            self.keys["client"].update(certificate=its_own.certificate_path,
                                       private_key=its_own.key_path)
        self._contexts = {}

    def __str__(self):
        return "tls" if self.hostname is None else "tls, hostname"

    def tables(self, role):
        return {"transport": {"type": "tls"}, "transport.tls": self.keys[role]}

    def context(self, role):
        """Python's settings for this role; made once, so that sessions can be resumed. A test may change
        them before the first connection."""
        if role not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server"
                                     else ssl.PROTOCOL_TLS_CLIENT)
            if role == "server":
                own = certificates.identity(self.identity)
                context.load_cert_chain(own.certificate_path, own.key_path)
            else:
                context.load_verify_locations(self.trusted.path)
                if self.client_identity:
                    own = certificates.identity(self.client_identity)
                    context.load_cert_chain(own.certificate_path, own.key_path)
            self._contexts[role] = context
        return self._contexts[role]

    def client(self, sock, **options):
        return TlsSocket(sock, self.context("client"), False, self.hostname or "127.0.0.1", **options)

    def server(self, sock, **options):
        return TlsSocket(sock, self.context("server"), True, **options)
