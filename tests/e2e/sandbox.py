#!/usr/bin/env python3
"""Runs a program under the restrictions of a systemd unit, without systemd, as far as that is possible.

usage: sandbox.py UNIT STAGE PROGRAM ARGUMENT...     as root; becomes PROGRAM
       sandbox.py --in-place UNIT STAGE PROGRAM ARGUMENT...
           with all capabilities, as anybody, who stays who he is. STAGE is at its own path too
           (BindReadOnlyPaths=), and STAGE/filter is what write_filter() made of the unit

It reads the unit and applies these directives by the same calls as systemd: User (an unprivileged
one), CapabilityBoundingSet and AmbientCapabilities, NoNewPrivileges, ProtectSystem,
ProtectHome, ProtectProc, ProcSubset, PrivateTmp, PrivateDevices, PrivateIPC, ProtectControlGroups
and ProtectKernelTunables (all is read-only), RestrictNamespaces, RestrictAddressFamilies,
MemoryDenyWriteExecute, SystemCallFilter, UMask and Limit*. A call that the filter does not allow
kills the process, whatever the unit says, so that none goes unnoticed. The process sees the directory
STAGE as /mnt, with the credentials in /mnt/credentials; PROGRAM is a path below /mnt.
"""

import ctypes
import errno
import json
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import sys

UID = 65534
STAGE = pathlib.Path("/mnt")
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 1, 8, 24, 47
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_MDWE = 38, 22, 65
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 0x1000, 0x4000, 0x40000)
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NAMESPACES = 0x20000, 0x8000000, 0x7E020080
SYS_CAPSET, SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 126, 442, 0x8000, 1
AUDIT_ARCH_X86_64 = 0xC000003E
CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10}
LIMITS = {"LimitNOFILE": resource.RLIMIT_NOFILE, "LimitCORE": resource.RLIMIT_CORE,
          "LimitMEMLOCK": resource.RLIMIT_MEMLOCK}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
# Directives that this program supports with one value only.
DONE = {"ProtectSystem": "strict", "ProtectHome": "yes", "ProtectProc": "invisible",
        "ProcSubset": "pid", "PrivateTmp": "yes", "PrivateDevices": "yes", "PrivateIPC": "yes",
        "NoNewPrivileges": "yes", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes"}
SIZES = {"": 1, "K": 1024, "M": 1024 ** 2, "G": 1024 ** 3}

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """Calls a function of the C library; raises OSError if it fails."""
    result = function(*[ctypes.c_long(item) if isinstance(item, int) else item
                        for item in arguments])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}{arguments}: {os.strerror(number)}")
    return result


def read_unit(path):
    """{directive: [values]} of a unit's [Service] section."""
    found = {}
    section = None
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def syscall_set(name):
    """The names in one of systemd's sets, and in the sets within it."""
    text = subprocess.check_output(["systemd-analyze", "syscall-filter", name], text=True)
    names = set()
    for word in re.findall(r"^    ([@\w-]+)$", text, re.M):
        names |= syscall_set(word) if word.startswith("@") else {word}
    return names


def allowed_syscalls(unit):
    """The names that SystemCallFilter= allows after all its lines, applied in order."""
    allowed = syscall_set("@default")
    for line in unit["SystemCallFilter"]:
        words = line.lstrip("~").split()
        names = set().union(*[syscall_set(word) if word.startswith("@") else {word}
                              for word in words])
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def syscall_numbers():
    """{name: number}, from the kernel's headers."""
    macros = subprocess.check_output(
        ["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"], text=True)
    return {name: int(number)
            for name, number in re.findall(r"^#define __NR_(\w+) (\d+)$", macros, re.M)}


# --- the filter --------------------------------------------------------------------------------

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGUMENT = 0, 4, 16


def filter_program(unit):
    """The BPF instructions, each (code, jump if true, jump if false, constant)."""
    numbers = syscall_numbers()
    families = [FAMILIES[name] for name in unit["RestrictAddressFamilies"][0].split()]
    program = [(LOAD, 0, 0, OFFSET_ARCH), (EQUAL, 1, 0, AUDIT_ARCH_X86_64), (RETURN, 0, 0, KILL),
               (LOAD, 0, 0, OFFSET_NUMBER)]
    # As systemd does for RestrictNamespaces: the C library falls back to clone.
    program += [(EQUAL, 0, 1, numbers["clone3"]), (RETURN, 0, 0, ERRNO | 38)]
    program += [(EQUAL, 0, 4, numbers["clone"]), (LOAD, 0, 0, OFFSET_ARGUMENT),
                (ANY_BIT, 0, 1, CLONE_NAMESPACES), (RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW)]
    program += [(EQUAL, 0, 2 * len(families) + 2, numbers["socket"]), (LOAD, 0, 0, OFFSET_ARGUMENT)]
    for family in families:
        program += [(EQUAL, 0, 1, family), (RETURN, 0, 0, ALLOW)]
    program += [(RETURN, 0, 0, KILL)]
    allowed = allowed_syscalls(unit) - {"clone", "clone3", "socket", "unshare", "setns"}
    for name in sorted(allowed & set(numbers)):
        program += [(EQUAL, 0, 1, numbers[name]), (RETURN, 0, 0, ALLOW)]
    return program + [(RETURN, 0, 0, KILL)]


def write_filter(unit, path):
    path.write_text(json.dumps(filter_program(read_unit(unit))))


def install_filter(program):
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    call(libc.prctl, PR_SET_SECCOMP, 2, header)


# --- the file system ---------------------------------------------------------------------------


def mount(source, target, kind, flags, options=None):
    call(libc.mount, source.encode(), str(target).encode(), kind.encode() if kind else None,
         flags, options.encode() if options else None)


def mount_devices():
    numbers = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC)
    for name, (major, minor) in numbers.items():
        os.mknod(f"/dev/{name}", 0o20666, os.makedev(major, minor))
        os.chmod(f"/dev/{name}", 0o666)


def mount_view(stage, is_in_place):
    """Makes everything read-only and homes and /tmp empty, and mounts the stage at /mnt."""
    call(libc.unshare, CLONE_NEWNS | CLONE_NEWIPC)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount(stage, STAGE, None, MS_BIND)
    for hidden in ("/home", "/root", "/tmp", "/var/tmp"):
        if os.path.isdir(hidden):
            mount("tmpfs", hidden, "tmpfs", MS_NOSUID | MS_NODEV)
    if is_in_place:
        os.makedirs(stage, exist_ok=True)  # it may lie in one that is hidden now
        mount(str(STAGE), stage, None, MS_BIND)
    mount_devices()
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible,subset=pid")
    call(libc.syscall, SYS_MOUNT_SETATTR, -100, b"/", AT_RECURSIVE,
         struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0), 32)
    os.chdir("/")


# --- limits and rights -------------------------------------------------------------------------


def apply_limits(unit):
    for directive, number in LIMITS.items():
        digits, suffix = re.fullmatch(r"(\d+)([KMG]?)", unit[directive][0]).groups()
        size = int(digits) * SIZES[suffix]
        # Without CAP_SYS_RESOURCE a hard limit can't be raised: keep to it, as systemd in a container.
        hard = resource.getrlimit(number)[1]
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(number, (size, size))
    os.umask(int(unit["UMask"][0], 8))


def drop_rights(unit, last_capability, user):
    bounding = [CAPABILITIES[name] for name in unit["CapabilityBoundingSet"][0].split()]
    ambient = [CAPABILITIES[name] for name in unit["AmbientCapabilities"][0].split()]
    for number in range(last_capability + 1):
        if number not in bounding:
            call(libc.prctl, PR_CAPBSET_DROP, number, 0, 0, 0)
    call(libc.prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    bits = sum(1 << number for number in ambient)
    call(libc.syscall, SYS_CAPSET, struct.pack("Ii", 0x20080522, 0),
         struct.pack("IIIIII", bits, bits, bits, 0, 0, 0))
    for number in ambient:
        call(libc.prctl, PR_CAP_AMBIENT, 2, number, 0, 0)
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The change of user has cleared the parent-death signal: set it again.
    call(libc.prctl, PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def deny_writable_code():
    try:
        call(libc.prctl, PR_SET_MDWE, 1, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # EINVAL: kernels before 6.3 lack PR_SET_MDWE; go on without the directive


def main():
    arguments = sys.argv[1:]
    is_in_place = arguments[0] == "--in-place"
    unit_path, stage, *command = arguments[is_in_place:]
    unit = read_unit(unit_path)
    for directive, value in DONE.items():
        if unit[directive] != [value]:
            sys.exit(f"sandbox.py: {directive}= is {unit[directive]}, and not what is done here")
    program = (json.loads(pathlib.Path(stage, "filter").read_text()) if is_in_place
               else filter_program(unit))
    last_capability = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
    apply_limits(unit)
    mount_view(stage, is_in_place)
    drop_rights(unit, last_capability, os.getuid() if is_in_place else UID)
    deny_writable_code()
    install_filter(program)
    os.environ["CREDENTIALS_DIRECTORY"] = str(STAGE / "credentials")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
