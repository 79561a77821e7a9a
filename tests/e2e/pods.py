"""Containers of a pod as a node runs them, without a cluster: by runc, which is below containerd and CRI-O as
well, with what dist/kubernetes says about user, rights, seccomp profile, files and probes. The kubelet's part
is played here: how it writes ConfigMaps and Secrets, and how it asks probes.

The network is the test's own, so ports have to be changed; the program's libraries are the machine's."""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from harness import BINARIES, OURS, ROOT, Process, wait_until, within

SECCOMP = ROOT / "dist" / "seccomp"
PROFILES = "profiles/"  # where localhostProfile expects them, below the kubelet's directory
CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def need_runc():
    if os.geteuid() != 0:
        pytest.skip("only root starts containers")
    if not shutil.which("runc"):
        pytest.skip("no runc here (scripts/setup test)")


class Volume:
    """A directory as the kubelet writes it for a ConfigMap or a Secret (its AtomicWriter): each name is a
    link to ..data/NAME, ..data a link to a directory with the time, and an update replaces ..data, then
    removes the directory before."""

    def __init__(self, directory, files, mode=0o644, group=None):
        self.directory, self.mode, self.group = pathlib.Path(directory), mode, group
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)
        self.count = 0
        self.write(files)

    def write(self, files):
        self.count += 1
        data, link = self.directory / "..data", self.directory / "..data_tmp"
        new = self.directory / f"..2026_01_02_03_04_05.{self.count:09}"
        new.mkdir()
        new.chmod(0o755)
        for name, content in files.items():
            path = new / name
            path.write_bytes(content.encode())
            if self.group is not None:
                os.chown(path, -1, self.group)
            path.chmod(self.mode)
        old = os.readlink(data) if data.is_symlink() else None
        link.symlink_to(new.name)
        os.rename(link, data)
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")
        if old:
            shutil.rmtree(self.directory / old)
        self.files = dict(files)


def merged(pod, container, key):
    """A field of the security context: the container's, or else the pod's."""
    own = container.get("securityContext", {})
    return own.get(key, pod.get("securityContext", {}).get(key))


def profile_of(pod, container, is_strict):
    """The seccomp profile. is_strict: what it does not name kills the process, and does not only fail."""
    name = merged(pod, container, "seccompProfile")["localhostProfile"]
    profile = json.loads((SECCOMP / name.removeprefix(PROFILES)).read_text())
    if is_strict:
        profile["defaultAction"] = "SCMP_ACT_KILL_PROCESS"
        del profile["defaultErrnoRet"]
    return profile


def system_mounts(root):
    """The machine's own libraries and the program, read-only in an empty root."""
    paths = ["/usr", str(BINARIES[OURS].parent)]
    for name in ("lib", "lib64", "bin", "sbin"):
        place = pathlib.Path("/") / name
        if place.is_symlink():
            (root / name).symlink_to(os.readlink(place))
        elif place.exists():
            paths.append(str(place))
    return [{"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]}
            for path in paths]


class Pod:
    """One container of a pod, with `volumes` ({name: Volume}) where its volumeMounts want them."""

    def __init__(self, workdir, name, pod, container, volumes, is_strict=True):
        self.name, self.pod, self.container = f"e2e-{os.getpid()}-{name}", pod, container
        self.bundle = pathlib.Path(workdir) / name
        root = self.bundle / "root"
        root.mkdir(parents=True)
        for directory in (self.bundle, root):
            directory.chmod(0o755)
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"},
                  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "mode=755"]},
                  *system_mounts(root)]
        for mount in container["volumeMounts"]:
            assert mount["readOnly"] and "subPath" not in mount
            mounts.append({"destination": mount["mountPath"], "type": "bind",
                           "source": str(volumes[mount["name"]].directory), "options": ["rbind", "ro"]})
        groups = pod.get("securityContext", {}).get("fsGroup")
        drop = container["securityContext"]["capabilities"]["drop"]
        assert drop == ["ALL"]
        spec = {
            "ociVersion": "1.0.2",
            "root": {"path": "root", "readonly": container["securityContext"]["readOnlyRootFilesystem"]},
            "process": {
                "user": {"uid": merged(pod, container, "runAsUser"),
                         "gid": merged(pod, container, "runAsGroup"),
                         "additionalGids": [groups] if groups else []},
                "args": [str(BINARIES[OURS]), *container["args"]], "env": [], "cwd": "/",
                "noNewPrivileges": not container["securityContext"]["allowPrivilegeEscalation"],
                "capabilities": {name: [] for name in CAPABILITY_SETS},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 8192}],
            },
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                      "seccomp": profile_of(pod, container, is_strict),
                      "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                      "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]},
        }
        (self.bundle / "config.json").write_text(json.dumps(spec))
        self.process = None

    def runc(self, *argv):
        return ["runc", "--root", str(self.bundle / "state"), *argv]

    def start(self, wait=True):
        """runc's own process: it passes signals on, and ends with the container's exit code."""
        self.process = Process(self.runc("run", "--bundle", self.bundle, self.name), self.bundle / "log")
        self.process.name = self.name
        if not wait:
            return self.process
        wait_until(lambda: "workers" in self.process.log() or not self.process.alive(), within(10),
                   "the program")
        assert self.process.alive(), self.process.log()
        return self.process

    def remove(self):
        if self.process and self.process.alive():
            self.process.kill9()
        subprocess.run(self.runc("delete", "--force", self.name), capture_output=True, timeout=30)

    def probe(self, kind, port):
        """Whether the probe succeeds, on this port of the test's network."""
        action = self.container[kind]["httpGet"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within(5))
        try:
            connection.request("GET", action["path"], headers={"Host": f"192.0.2.1:{port}"})
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def wait_probe(self, kind, port, expected, timeout):
        begun = time.monotonic()
        wait_until(lambda: self.probe(kind, port) == expected, within(timeout), f"{kind} {expected}")
        return time.monotonic() - begun
