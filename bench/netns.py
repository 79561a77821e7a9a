"""Where server and client run: both on loopback, or in two network namespaces joined by veth.

    namespace S: visitor --lo--> server ==veth== client --lo--> service :namespace C

The names of the namespaces contain the driver's pid; namespaces that a killed run left behind are
removed at the start. Run as a program ("netns.py segment IFACE"), this turns the offloads of an
interface off with the ioctl that ethtool -K uses, so that ethtool need not be installed.
"""

import atexit
import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys

import procs

PREFIX = "rubench"
SERVER_ADDRESS, CLIENT_ADDRESS = "10.203.113.1", "10.203.113.2"
MTU = 1500
# tbf(8): room for the largest segment that crosses with offload; and how long its queue may get.
BURST, QUEUE_LATENCY = "256kb", "20ms"
SIOCETHTOOL = 0x8946
SET_OFFLOAD = {"tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # ETHTOOL_STSO, _SGSO, _SGRO


class Loopback:
    visitor_host = "127.0.0.1"
    server_space = client_space = visitor_space = service_space = None

    def control_host(self, _peer):
        return "127.0.0.1"

    def service_host(self, _peer):
        return "127.0.0.1"

    def close(self):
        pass


class Namespaces:
    """Two namespaces joined by veth. With `offload` False every segment crosses as 1500 bytes. rate: what
    the link carries in each direction, as tc(8) has it."""

    def __init__(self, offload, rate=None):
        remove_stale()
        tag = f"{PREFIX}{os.getpid()}"
        self.server_space, self.client_space = f"{tag}s", f"{tag}c"
        self.visitor_space, self.service_space = self.server_space, self.client_space
        self.visitor_host = "127.0.0.1"
        atexit.register(self.close)
        for space in (self.server_space, self.client_space):
            _ip("netns", "add", space)
        _ip(
            "link",
            "add",
            "bench0",
            "netns",
            self.server_space,
            "type",
            "veth",
            "peer",
            "name",
            "bench0",
            "netns",
            self.client_space,
        )
        for space, address in (
            (self.server_space, SERVER_ADDRESS),
            (self.client_space, CLIENT_ADDRESS),
        ):
            _ip("-n", space, "address", "add", f"{address}/30", "dev", "bench0")
            _ip("-n", space, "link", "set", "bench0", "mtu", str(MTU), "up")
            _ip("-n", space, "link", "set", "lo", "up")
            if rate:
                _shape(space, "bench0", rate)
            if not offload:
                procs.run(
                    [sys.executable, os.path.abspath(__file__), "segment", "bench0"], 10, space
                )

    def control_host(self, peer):
        # A chain has no reverse connection: its first proxy dials the second one.
        return CLIENT_ADDRESS if peer.chain else SERVER_ADDRESS

    def service_host(self, peer):
        return CLIENT_ADDRESS if not peer.programs else "127.0.0.1"

    def close(self):
        for space in (self.server_space, self.client_space):
            subprocess.run(
                ["ip", "netns", "delete", space], capture_output=True, timeout=20, check=False
            )
        atexit.unregister(self.close)


def supported():
    return os.geteuid() == 0 and shutil.which("ip") is not None


def can_shape():
    """Whether tc(8) is there, and the kernel has tbf: tried on a namespace's loopback."""
    if not supported() or shutil.which("tc") is None:
        return False
    space = f"{PREFIX}{os.getpid()}s"
    _ip("netns", "add", space)
    try:
        _shape(space, "lo", "1gbit")
    except procs.BenchError:
        return False
    finally:
        _ip("netns", "delete", space)
    return True


def _shape(space, interface, rate):
    procs.run(["tc", "-n", space, "qdisc", "add", "dev", interface, "root", "tbf", "rate", rate,
               "burst", BURST, "latency", QUEUE_LATENCY], 20)


def remove_stale():
    listing = procs.run(["ip", "netns", "list"], 20)
    for name, pid in re.findall(rf"^({PREFIX}(\d+)[sc])\b", listing, re.M):
        if not procs.is_running(pid):
            _ip("netns", "delete", name)


def _ip(*arguments):
    procs.run(["ip", *arguments], 20)


def turn_offloads_off(interface):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in SET_OFFLOAD.values():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "segment":
        sys.exit("usage: netns.py segment IFACE")
    turn_offloads_off(sys.argv[2])
