"""Noise keys as an operator meets them: --genkey, --pubkey, and the messages for a file with keys."""

import base64
import re
import subprocess

import pytest

import harness
from harness import BINARIES, OURS, RATHOLE, TOKEN, free_port, have, within

pytestmark = pytest.mark.ours

PAIR = re.compile(r"\APrivate Key:\n([A-Za-z0-9+/]{43}=)\n\nPublic Key:\n([A-Za-z0-9+/]{43}=)\n\Z")
NK, XX, KK = (f"Noise_{name}_25519_ChaChaPoly_BLAKE2s" for name in ("NK", "XX", "KK"))
CANARY = "c2VjcmV0LWNhbmFyeS05MWQ3"  # stands for a private key: no message may show it


def run(*argv, stdin="", binary=OURS):
    """(exit code, stdout, stderr)."""
    result = subprocess.run([BINARIES[binary], *argv], input=stdin, capture_output=True, text=True,
                            cwd="/", timeout=within(5))
    assert not harness.SANITIZER_REPORT.search(result.stderr), result.stderr
    return result.returncode, result.stdout, result.stderr


def genkey(binary=OURS):
    code, out, err = run("--genkey", binary=binary)
    assert (code, err) == (0, ""), err
    match = PAIR.match(out)
    assert match, f"{len(out)} bytes in another form"
    return match.groups()


# --- making keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--genkey"], ["--genkey", "x25519"], ["--genkey=x25519"]],
                         ids=" ".join)
def test_genkey_has_the_form_of_rathole(argv):
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    match = PAIR.match(out)
    assert match
    assert all(len(base64.b64decode(key, validate=True)) == 32 for key in match.groups())


def test_genkey_makes_another_pair_each_time():
    keys = [key for _ in range(20) for key in genkey()]
    assert len(set(keys)) == 40


def test_pubkey_belongs_to_genkey():
    for _ in range(10):
        private, public = genkey()
        for text in (private, f"{private}\n", f"\r\n  {private}\t\n\n"):
            assert run("--pubkey", stdin=text) == (0, f"{public}\n", "")


def test_pubkey_of_known_keys():
    """The key pairs of RFC 7748, section 6.1."""
    for private, public in (
        ("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
         "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
        ("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
         "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"),
    ):
        texts = [base64.b64encode(bytes.fromhex(key)).decode() for key in (private, public)]
        assert run("--pubkey", stdin=texts[0]) == (0, f"{texts[1]}\n", "")


@pytest.mark.skipif(not have(RATHOLE), reason="rathole 0.5.0 not found: scripts/setup --peers "
                                              "installs it")
def test_pubkey_of_a_key_of_rathole():
    for _ in range(5):
        private, public = genkey(RATHOLE)
        assert run("--pubkey", stdin=private) == (0, f"{public}\n", "")


@pytest.mark.parametrize("argv", [["--genkey", "x448"], ["--genkey=x448"], ["--genkey", "rsa"],
                                  ["--genkey", "x25519", "file"], ["--pubkey=x"],
                                  ["--pubkey", CANARY]], ids=" ".join)
def test_usage_errors(argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    first = err.splitlines()[0]
    assert first.startswith("rathole-uring: --") and CANARY not in err
    if "x448" in " ".join(argv):
        assert "x25519" in first and "x448" in first


@pytest.mark.parametrize("text", ["", "\n", CANARY, CANARY * 2, CANARY * 4, CANARY * 1000,
                                  f"{CANARY}\n{CANARY}\n", f"Private Key:\n{CANARY}\n"],
                         ids=lambda text: f"{len(text)} bytes")
def test_pubkey_refuses_without_repeating(text):
    code, out, err = run("--pubkey", stdin=text)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1 and "private key" in err
    assert CANARY[:8] not in err


def test_keys_that_cannot_be_written():
    private, public = genkey()
    for argv, stdin in ((["--genkey"], ""), (["--pubkey"], private)):
        with open("/dev/full", "w") as full:
            result = subprocess.run([BINARIES[OURS], *argv], input=stdin, stdout=full, text=True,
                                    stderr=subprocess.PIPE, timeout=within(5))
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert private not in result.stderr and public not in result.stderr


# --- files with keys ----------------------------------------------------------------------------


def noise_text(role, lines):
    """A file of the role that asks for noise, with these lines in its section of keys."""
    port = free_port()
    addr, service = (("bind_addr", "bind_addr") if role == "server" else
                     ("remote_addr", "local_addr"))
    # With `user`, so that a check by root does not warn that it is missing.
    return (f"[{role}]\n{addr} = 127.0.0.1:{port}\ndefault_token = {TOKEN}\nuser = nobody\n"
            f"[{role}.services.s]\n{service} = 127.0.0.1:{free_port()}\n"
            f"[{role}.transport]\ntype = noise\n[{role}.transport.noise]\n"
            + "".join(f"{key} = {value}\n" for key, value in lines.items()))


def check(tmp_path, text, mode=0o600):
    path = tmp_path / "noise.ini"
    path.write_text(text)
    path.chmod(mode)
    code, out, err = run("--check", path)
    return code, out + err


def test_check_accepts_the_keys_of_each_pattern(tmp_path):
    (server_own, server), (client_own, client) = genkey(), genkey()
    for role, lines in (
        ("server", {"local_private_key": server_own}),
        ("client", {"remote_public_key": server}),
        ("server", {"pattern": KK, "local_private_key": server_own, "remote_public_key": client}),
        ("client", {"pattern": KK, "local_private_key": client_own, "remote_public_key": server}),
        ("server", {"pattern": XX, "local_private_key": server_own, "remote_public_key": client}),
        ("client", {"pattern": XX, "remote_public_key": server}),
    ):
        code, said = check(tmp_path, noise_text(role, lines))
        assert code == 0 and "warning" not in said, said


@pytest.mark.parametrize("role,pattern,missing", [
    ("server", NK, ["local_private_key"]),
    ("client", NK, ["remote_public_key"]),
    ("server", KK, ["local_private_key", "remote_public_key"]),
    ("client", KK, ["local_private_key", "remote_public_key"]),
])
def test_missing_keys_are_named_with_the_way_to_make_them(tmp_path, role, pattern, missing):
    code, said = check(tmp_path, noise_text(role, {"pattern": pattern}))
    assert code == 1
    lines = said.splitlines()
    assert len(lines) == len(missing), said
    for key, line in zip(missing, lines):
        assert f"{role}.transport.noise.{key}: missing" in line
        assert "rathole-uring --genkey" in line and pattern in line
        assert f"{'client' if role == 'server' else 'server'}.transport.noise." in line


def test_check_warns_of_an_unauthenticated_peer(tmp_path):
    code, said = check(tmp_path, noise_text("client", {"pattern": XX}))
    assert code == 0
    assert re.search(r"^warning: .*remote_public_key.*not authenticate", said, re.M), said


@pytest.mark.parametrize("key", ["local_private_key", "remote_public_key"])
def test_bad_keys_are_not_repeated(tmp_path, key):
    for value in (CANARY, f'"{CANARY}"', CANARY * 2, CANARY * 3, f'"{CANARY}'):
        code, said = check(tmp_path, noise_text("server", {"pattern": KK, key: value}))
        assert code == 1
        assert CANARY[:8] not in said, said


def test_check_warns_of_readable_keys(tmp_path):
    """Keys in the configuration itself, and in a file that it names."""
    private, _ = genkey()
    text = noise_text("server", {"local_private_key": private}).replace(TOKEN, "env:HOME")
    code, said = check(tmp_path, text, 0o644)
    assert code == 0 and "every user can read" in said and private not in said
    assert "every user can read" not in check(tmp_path, text, 0o600)[1]
    key = tmp_path / "key"
    key.write_text(private + "\n")
    text = text.replace(private, f"file:{key}")
    key.chmod(0o644)
    code, said = check(tmp_path, text, 0o644)
    assert code == 0 and "every user can read" in said and private not in said
    key.chmod(0o600)
    assert "every user can read" not in check(tmp_path, text, 0o644)[1]
