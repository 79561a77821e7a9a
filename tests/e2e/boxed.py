#!/usr/bin/env python3
"""Runs the end-to-end tests with each process of our program in the sandbox of its systemd unit.

usage: boxed.py PYTEST ARGUMENT...     as root

The tests run as nobody, because the program has to read their files, and with all capabilities, because
sandbox.py needs them to build the sandbox. E2E_SANDBOX=1 tells conftest.py, which calls put().
"""

import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import pytest

import harness
import sandbox

HERE = pathlib.Path(__file__).resolve().parent
UNIT = HERE.parents[1] / "dist" / "systemd" / "rathole-uring@.service.in"
NOBODY = sandbox.UID

# What can't be seen in the sandbox, or is about another one.
LEFT_OUT = {}


def put():
    """From here on our program starts in the sandbox, with all files of the tests in sight."""
    base, program = pathlib.Path(tempfile.gettempdir()), harness.BINARIES[harness.OURS]
    sandbox.write_filter(UNIT, base / "filter")
    ours = str(harness.BINARIES[harness.OURS])

    def launcher(argv):
        if argv[0] != ours:
            return argv
        return [sys.executable, HERE / "sandbox.py", "--in-place", UNIT, base, program, *argv[1:]]

    harness.Process.launcher = staticmethod(launcher)


def leave_out(items):
    for item in items:
        reason = LEFT_OUT.get(item.originalname or item.name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def become_nobody():
    """Keeps all capabilities that root has here, for the programs that are started too."""
    text = pathlib.Path("/proc/self/status").read_text()
    bits = int(re.search(r"CapPrm:\t(\w+)", text)[1], 16)
    words = [bits & 0xFFFFFFFF] * 3 + [bits >> 32] * 3
    sandbox.call(sandbox.libc.prctl, sandbox.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    sandbox.call(sandbox.libc.syscall, sandbox.SYS_CAPSET, struct.pack("Ii", 0x20080522, 0),
                 struct.pack("6I", *words))
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            sandbox.call(sandbox.libc.prctl, sandbox.PR_CAP_AMBIENT, 2, number, 0, 0)


def main():
    if os.geteuid() != 0:
        print("only root can build the sandbox")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        program = shutil.copy(harness.BINARIES[harness.OURS], place)
        environment = dict(os.environ, E2E_SANDBOX="1", RATHOLE_URING_BIN=program, TMPDIR=place)
        sys.exit(subprocess.run(sys.argv[1:], env=environment, preexec_fn=become_nobody,
                                check=False).returncode)


if __name__ == "__main__":
    main()
