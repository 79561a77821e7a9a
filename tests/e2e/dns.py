"""A name server for tests, and the files that make a program use this one and no other source of names.

    dns = Dns(tmp_path, names={"a.test": ["127.0.0.1"]}, hosts={"b.test": ["127.0.0.2"]})
    Process(..., files=dns.files)

Needs root: to mount these files over the program's view of the system's, and to bind port 53.
"""

import collections
import ipaddress
import os
import random
import socket
import struct
import threading

TYPE_A, TYPE_AAAA = 1, 28
OK, FAILED, NO_SUCH_NAME = 0, 2, 3


def resolver_files(workdir, server, hosts=None, options=""):
    """For Process(files=...): the program asks the name server at this address, after `hosts`."""
    texts = {
        "/etc/hosts": "".join(f"{address} {name}\n" for name, addresses
                              in (hosts or {}).items() for address in addresses),
        "/etc/resolv.conf": f"nameserver {server}\noptions ndots:1 {options}\n",
        "/etc/nsswitch.conf": "hosts: files dns\npasswd: files\ngroup: files\n",
    }
    files = {}
    for place, text in texts.items():
        if not os.path.exists(place):
            continue  # another C library
        path = workdir / os.path.basename(place)
        path.write_text(text)
        files[os.path.realpath(place)] = path
    return files


class Dns:
    """names: {name: addresses}; other names do not exist. is_silent: the server answers no query;
    silent_names: none for one of these.

    queries: {(name, type): how many came}."""

    def __init__(self, workdir, names=None, hosts=None, options="", silent_names=()):
        self.names = dict(names or {})
        self.is_silent = False
        self.silent_names = set(silent_names)
        self.queries = collections.Counter()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # A random address: runs of the tests at the same time must not share it.
        self.address = f"127.53.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self.sock.bind((self.address, 53))
        self.files = resolver_files(workdir, self.address, hosts, options)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def count(self, name):
        """How often the name was looked up: the resolver asks for both families at once."""
        return max(self.queries[name, TYPE_A], self.queries[name, TYPE_AAAA])

    def _run(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(512)
            except OSError:
                return
            if not query:
                return  # stop()
            answer = self._answer(query)
            if not self.is_silent and answer:
                self.sock.sendto(answer, peer)

    def _answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name = ".".join(labels).lower()
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        self.queries[name, kind] += 1
        if name in self.silent_names:
            return None
        question = query[12 : at + 5]
        records = []
        for text in self.names.get(name, ()):
            address = ipaddress.ip_address(text)
            if (address.version == 6) == (kind == TYPE_AAAA):
                packed = address.packed
                records.append(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed)
        code = OK if name in self.names else NO_SUCH_NAME
        head = struct.pack("!2sHHHHH", query[:2], 0x8180 | code, 1, len(records), 0, 0)
        return head + question + b"".join(records)

    def stop(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # ENOTCONN, but the call still wakes the thread
        self.sock.close()
        self.thread.join(5)
