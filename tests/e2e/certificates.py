"""Certificates for the tests of TLS: authorities, good and faulty leaves, PEM and PKCS#12.

All of it is made once a run, on P-256 and in a directory that goes with the process. The dates come from
python3-cryptography, because `openssl x509` could not choose a beginning before 3.4; the PKCS#12 files
come from the openssl command, which people use for theirs.
"""

import atexit
import datetime
import functools
import ipaddress
import pathlib
import shutil
import subprocess
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME = "tunnel.site.example"  # what `tls.hostname` says; nobody resolves it
PASSWORD = "pkcs12-password-7f3a"

# How `openssl pkcs12 -export` is told to encrypt. OpenSSL 3 reads the first two; the third needs its
# legacy provider, because the certificates are encrypted with RC2.
PKCS12_FORMS = {
    "aes": [],
    "3des": ["-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"],
    "legacy": ["-legacy"],
}


@functools.cache
def directory():
    path = pathlib.Path(tempfile.mkdtemp(prefix="e2e-certificates-"))
    path.chmod(0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, timeout=30,
                          capture_output=True, **options).stdout


def day(number):
    """Midnight, `number` days from now."""
    now = datetime.datetime.now(datetime.UTC)
    return now.replace(microsecond=0) + datetime.timedelta(days=number)


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternatives(names):
    """DNS names, and addresses where a name is one."""
    for name in names:
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            yield x509.DNSName(name)


class Identity:
    """A certificate with its private key, as files."""

    def __init__(self, label, certificate, key, issuers=()):
        self.label, self.certificate, self.private_key = label, certificate, key
        self.issuers = list(issuers)  # intermediates only: the leaf's issuer first
        self.certificate_path = self._write("crt", b"".join(
            each.public_bytes(Encoding.PEM) for each in [certificate, *self.issuers]))
        self.key_path = self._write("key", key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _write(self, suffix, data):
        path = directory() / f"{self.label}.{suffix}"
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    @property
    def serial(self):
        return self.certificate.serial_number

    @functools.cache  # noqa: B019 (identities live as long as the run)
    def pkcs12(self, form="aes", password=PASSWORD):
        path = directory() / f"{self.label}.{form}.{len(password)}.p12"
        openssl("pkcs12", "-export", "-out", path, "-inkey", self.key_path, "-in",
                self.certificate_path, "-passout", f"pass:{password}", *PKCS12_FORMS[form])
        path.chmod(0o600)
        return path


class Authority:
    """Signs with a P-256 key; `above` is the authority that signed it, for an intermediate."""

    def __init__(self, label, above=None):
        self.label, self.above = label, above
        self.key = ec.generate_private_key(ec.SECP256R1())
        issuer = above or self
        self.certificate = (
            x509.CertificateBuilder().subject_name(_name(f"e2e {label}"))
            .issuer_name(_name(f"e2e {issuer.label}")).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(day(-100)).not_valid_after(day(100))
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                           critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()),
                           critical=False)
            .sign(issuer.key, hashes.SHA256()))
        self.path = directory() / f"{label}.crt"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, label, names=(NAME,), begin=-1, end=30, usage="server", common_name=None,
              key=None, authority=False):
        """begin, end: days from now. usage: server, client."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        purpose = {"server": ExtendedKeyUsageOID.SERVER_AUTH,
                   "client": ExtendedKeyUsageOID.CLIENT_AUTH}[usage]
        builder = (
            x509.CertificateBuilder().subject_name(_name(common_name or label))
            .issuer_name(self.certificate.subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(day(begin)).not_valid_after(day(end))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                           critical=False))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(_alternatives(names))),
                                            critical=False)
        issuers = [self.certificate] if self.above else []
        return Identity(label, builder.sign(self.key, hashes.SHA256()), key, issuers)


@functools.cache
def authority():
    """The one that clients trust."""
    return Authority("authority")


@functools.cache
def stranger():
    """Another one, which nobody trusts."""
    return Authority("stranger")


@functools.cache
def intermediate():
    return Authority("intermediate", above=authority())


@functools.cache
def system_roots():
    """A file with the root of an authority that signs nothing: what the system trusts, for programs that
    are not to trust more than a test says (SSL_CERT_FILE)."""
    return Authority("system").path


def self_signed(label, names=(NAME,)):
    """A leaf that is its own issuer, which is what people make who have no authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder().subject_name(_name(label)).issuer_name(_name(label))
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(day(-1)).not_valid_after(day(30))
        .add_extension(x509.SubjectAlternativeName(list(_alternatives(names))), critical=False)
        .sign(key, hashes.SHA256()))
    return Identity(label, certificate, key)


# name of the identity: how it is made
_MADE = {
    "named": lambda: authority().issue("named"),
    "expiring": lambda: authority().issue("expiring", end=3.5),
    "renewed": lambda: authority().issue("renewed"),
    "address": lambda: authority().issue("address", names=("127.0.0.1", "::1")),
    "localhost": lambda: authority().issue("localhost", names=("localhost",)),
    "chained": lambda: intermediate().issue("chained"),
    "rsa": lambda: authority().issue("rsa", key=rsa.generate_private_key(65537, 2048)),
    "wildcard": lambda: authority().issue("wildcard", names=("*.site.example",)),
    "client": lambda: authority().issue("client", names=(), usage="client"),
    # Faults that a client has to see
    "expired": lambda: authority().issue("expired", begin=-30, end=-1),
    "not yet valid": lambda: authority().issue("not-yet-valid", begin=1, end=30),
    "another name": lambda: authority().issue("another-name", names=("other.example",)),
    "another address": lambda: authority().issue("another-address", names=("127.0.0.9",)),
    "partial wildcard": lambda: authority().issue("partial-wildcard", names=("tun*.site.example",)),
    "name in the subject alone": lambda: authority().issue(
        "subject-alone", names=("other.example",), common_name=NAME),
    "another issuer": lambda: stranger().issue("another-issuer"),
    "self-signed": lambda: self_signed("self-signed"),
    "for clients": lambda: authority().issue("for-clients", usage="client"),
    # Faults that a server has to see in a client's certificate
    "client, expired": lambda: authority().issue("client-expired", (), -30, -1, "client"),
    "client, another issuer": lambda: stranger().issue("client-stranger", (), usage="client"),
    "client, for servers": lambda: authority().issue("client-for-servers"),
}


@functools.cache
def identity(name):
    return _MADE[name]()
