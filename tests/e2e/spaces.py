"""Network namespaces of a test's own, joined by links that it can cut.

The namespaces have no names. They exist while this process has a descriptor of them or a program runs
in them, so nothing is left behind, however the run ends. A socket that the test creates within
`with spaces.inside("client"): ...` stays in that namespace; each program is started in one.

Needs root, ip (iproute2), nft (nftables) and nsenter (util-linux): see why_not().
"""

import contextlib
import ctypes
import os
import shutil
import subprocess

CLONE_NEWNET = 0x40000000
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
_libc = ctypes.CDLL(None, use_errno=True)


def why_not(*programs):
    """Why there can be no namespaces with these programs in them, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nft", "nsenter", *programs) if shutil.which(name, path=PATH) is None]
    return f"not installed: {', '.join(missing)} (scripts/setup test)" if missing else None


def _check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _own_space():
    """A descriptor of the network namespace of the calling thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _entered(fd):
    before = _own_space()
    try:
        if fd is None:
            _check(_libc.unshare(CLONE_NEWNET))
        else:
            _check(_libc.setns(fd, CLONE_NEWNET))
        yield
    finally:
        _check(_libc.setns(before, CLONE_NEWNET))
        os.close(before)


class Spaces:
    def __init__(self, names):
        self.spaces = {}
        for name in names:
            with _entered(None):
                self.spaces[name] = _own_space()
            self.run(name, "ip", "link", "set", "lo", "up")

    def _path(self, space):
        return f"/proc/{os.getpid()}/fd/{self.spaces[space]}"

    @contextlib.contextmanager
    def inside(self, space):
        """A context in which this thread is in that namespace."""
        with _entered(self.spaces[space]):
            yield

    def command(self, space, *argv):
        """The command line that runs another one in a namespace. nsenter execs the program, so the pid is
        that of the program."""
        return ["nsenter", f"--net={self._path(space)}", *argv]

    def run(self, space, *argv, **options):
        """Runs a command in a namespace."""
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        subprocess.run(self.command(space, *argv), check=True, timeout=60, **options)

    def ip(self, space, *lines):
        """Runs several commands of ip(8) in a namespace: "route add ..."."""
        self.run(space, "ip", "-batch", "-", input="\n".join(lines) + "\n", text=True)

    def link(self, space, name, to, to_name=None, address=None, to_address=None):
        """A pair of interfaces that joins two namespaces. Without addresses the caller gives them some."""
        def ready(its_name, its_address):
            given = [f"address add {its_address} dev {its_name}"] if its_address else []
            return [f"link set {its_name} up", *given]

        peer = to_name or name
        self.ip(space, f"link add {name} type veth peer name {peer} netns {self._path(to)}",
                *ready(name, address))
        self.ip(to, *ready(peer, to_address))

    def filter(self, space, rules):
        """The packet filter of a namespace has these rules and no others: "input iifname back drop"."""
        chains = "".join(
            f"chain {name} {{ type filter hook {name} priority 0; policy accept; }}\n"
            for name in ("input", "output", "forward"))
        script = f"table ip lab {{\n{chains}}}\nflush table ip lab\n"
        script += "".join(f"add rule ip lab {rule}\n" for rule in rules)
        self.run(space, "nft", script)

    def release(self):
        """Gives up the namespaces; they go when the last program in them has ended."""
        for fd in self.spaces.values():
            os.close(fd)
        self.spaces = {}
