"""The section "Two machines" of README.md, as what it is: files to write and commands to type.

    for step in steps():
        step.place      "both", "vps", "home" or "anywhere"
        step.file       name of a file to write, or None
        step.text       of the file, or the command

walk() does all of it, in namespaces: test_readme.py with a program that is there, tests/systems/first_byte
from nothing, in a fresh root."""

import collections
import pathlib
import re
import socket
import subprocess
import threading

from spaces import Spaces

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACES = {"On the VPS": "vps", "At home": "home", "Anywhere": "anywhere"}
ADDRESSES = {"vps": "192.0.2.1", "home": "192.0.2.2", "anywhere": "198.51.100.2"}
VPS_ANYWHERE = "198.51.100.1"
NAME = "vps.example.com"
BANNER = b"SSH-2.0-behind_the_tunnel\r\n"
STAYS = re.compile(r"rathole-uring (server|client)\b")  # until it is told to stop

Step = collections.namedtuple("Step", "place file text")


def steps(text=None):
    """What the section has the reader do, up to the paragraph on keeping it running."""
    text = text or (ROOT / "README.md").read_text()
    section = re.search(r"^## Two machines\n(.*?)(?=^## |^\*\*To keep it running)", text, re.M | re.S)[1]
    found, place, block, before = [], "both", None, ""
    for line in section.splitlines():
        lead = re.match(r"\*\*([^*]+)\*\*", line)
        if block is not None:
            if line == "```":
                name = re.findall(r"`([\w.]+\.(?:ini|toml))`", before)[-1]
                found.append(Step(place, name, "\n".join(block) + "\n"))
                block = None
            else:
                block.append(line)
        elif line.startswith("```"):
            block = []
        elif line.startswith("    "):
            found.append(Step(place, None, line.strip()))
        else:
            place = PLACES[lead[1]] if lead else place
            before = line if line else before
    return found


def commands(found):
    return [step.text for step in found if not step.file]


def values_of(output):
    """{what the files have in its place: a value}, of the command that makes a key pair and a token."""
    return {"<the private key>": re.search(r"Private Key:\n(\S+)", output)[1],
            "<the public key>": re.search(r"Public Key:\n(\S+)", output)[1],
            "<the token>": output.split()[-1]}


class SshServer:
    """What listens at home: it says what an SSH server says first."""

    def __init__(self, spaces, port):
        with spaces.inside("home"):
            self.socket = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                visitor, _ = self.socket.accept()
            except OSError:
                return
            with visitor:
                visitor.sendall(BANNER)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def make_spaces():
    """The VPS with two networks: at the end of one is the machine at home, at that of the other a visitor."""
    spaces = Spaces(["vps", "home", "anywhere"])
    spaces.link("vps", "home0", "home", "up0", ADDRESSES["vps"] + "/24", ADDRESSES["home"] + "/24")
    spaces.link("vps", "net0", "anywhere", "up0", VPS_ANYWHERE + "/24", ADDRESSES["anywhere"] + "/24")
    return spaces


def visit(spaces, port):
    """The first byte that a visitor gets, or b"" """
    try:
        with spaces.inside("anywhere"):
            visitor = socket.create_connection((VPS_ANYWHERE, port), timeout=2)
        with visitor:
            return visitor.recv(1)
    except OSError:
        return b""


def walk(found, build, place, wait_for):
    """Does what the steps say, and returns the first byte that a visitor gets.

    build(command): for the steps of both machines. place(name): the directory of a machine as seen from
    here, and the command line that runs a shell's argument there. wait_for(condition): polls."""
    spaces = make_spaces()
    ssh = SshServer(spaces, 22)
    values, running = {}, []
    try:
        for step in found:
            if step.place == "both":
                build(step.text)
                continue
            if step.place == "anywhere":
                port = int(re.fullmatch(rf"ssh -p (\d+) {re.escape(NAME)}", step.text)[1])
                return wait_for(lambda: visit(spaces, port))
            directory, shell = place(step.place)
            argv = spaces.command(step.place, *shell, step.text)
            if step.file:
                text = step.text
                for what, value in values.items():
                    text = text.replace(what, value)
                (directory / step.file).write_text(text)
            elif STAYS.search(step.text):
                running.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
            else:
                values |= values_of(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True,
                                                   stdin=subprocess.DEVNULL).stdout)
        raise AssertionError("nobody comes")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)
        ssh.close()
        spaces.release()
