"""A control group that limits the memory of processes, of version 2 or 1 of the kernel's control groups."""

import contextlib
import os
import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")


def _root():
    """(where groups can be made, the version), or None."""
    with contextlib.suppress(OSError):
        if "memory" in (ROOT / "cgroup.controllers").read_text().split():
            return ROOT, 2
    if (ROOT / "memory" / "memory.limit_in_bytes").exists():
        return ROOT / "memory", 1
    return None


def why_not():
    """Why no process's memory can be limited here, or None."""
    if os.geteuid() != 0:
        return "control groups need root"
    found = _root()
    if not found or not os.access(found[0], os.W_OK):
        return "no control groups for memory that can be written to"
    try:
        MemoryGroup("probe", 64 << 20).close()
    except OSError as error:
        return f"no control group can be made: {error}"
    return None


class _Given:
    """Version 2: the groups below the root get the controller `memory` while any MemoryGroup exists, if they
    have not got it anyway."""

    users, is_ours = 0, False

    @classmethod
    def take(cls):
        control = ROOT / "cgroup.subtree_control"
        if cls.users == 0 and "memory" not in control.read_text().split():
            control.write_text("+memory")
            cls.is_ours = True
        cls.users += 1

    @classmethod
    def give_back(cls):
        cls.users -= 1
        if cls.users == 0 and cls.is_ours and not list(ROOT.glob("rathole-uring-*")):
            cls.is_ours = False
            with contextlib.suppress(OSError):  # others have made groups that need it
                (ROOT / "cgroup.subtree_control").write_text("-memory")


class MemoryGroup:
    """With version 1 the kernel's memory of TCP sockets has the same limit of its own; in version 2
    memory.max counts both together."""

    def __init__(self, name, limit):
        root, self.version = _root()
        self.path = root / f"rathole-uring-{os.getpid()}-{name}"
        self.is_open = True
        if self.version == 2:
            _Given.take()
        try:
            self.path.mkdir()
            if self.version == 2:
                (self.path / "memory.max").write_text(str(limit))
                with contextlib.suppress(OSError):
                    (self.path / "memory.swap.max").write_text("0")
            else:
                (self.path / "memory.limit_in_bytes").write_text(str(limit))
                for more in ("memory.memsw.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"):
                    with contextlib.suppress(OSError):
                        (self.path / more).write_text(str(limit))
        except OSError:
            self.close()
            raise

    def add(self, pid):
        """What it has allocated before is not counted."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def peak(self):
        """The most that was in use, in bytes; None if the kernel does not say."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with contextlib.suppress(OSError):
                return int((self.path / name).read_text())
        return None

    def close(self):
        """May be called again."""
        if not self.is_open:
            return
        self.is_open = False
        self._remove()
        if self.version == 2:
            _Given.give_back()

    def _remove(self):
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:  # its last process is still on its way out
                time.sleep(0.05)
