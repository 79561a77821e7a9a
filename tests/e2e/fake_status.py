"""A node that is not there: the page with a /status that a test writes.

    node = FakeNode(port)      its attributes may be changed at any time
    python3 fake_status.py [PORT [SERVICES]]    to look at the page"""

import http.server
import json
import math
import pathlib
import random
import runpy
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "app" / "status_page.html"
_embed = runpy.run_path(str(ROOT / "scripts" / "embed_page"))
BEGAN = int(time.time())
NAMES = ["ssh", "web", "git", "grafana", "mail", "postgres", "minecraft", "wireguard", "vnc-lab", "backup"]


def _page():
    return _embed["squeezed"](PAGE.read_text("utf-8"))


def row_of(name, **changes):
    row = {"name": name, "type": "tcp", "addr": "0.0.0.0:6022", "bound": True, "up": True,
           "client": "203.0.113.4:51342", "client_since": BEGAN - 4000, "clients": 1, "open": 0,
           "waiting": 0, "parked": 2, "visitors_total": 0,
           "refused": {"limit": 0, "queue": 0, "no_client": 0}, "bytes_in_total": 0, "bytes_out_total": 0,
           "connect_ms": {"count": 0, "p50": 0, "p99": 0}, "first_byte_ms": {"count": 0, "p50": 0, "p99": 0}}
    row.update(changes)
    return row


def status(services, uptime=5000, **changes):
    """A whole answer; history and totals follow from nothing, so a test sets what it looks at."""
    rows = list(services)
    answer = {
        "version": 1,
        "program": {"name": "rathole-uring", "version": "0.2.0", "role": "server",
                    "started_at": BEGAN - uptime, "uptime_s": uptime, "workers": 2, "ready": True,
                    "draining": False,
                    "sandbox": {"on": True, "no_new_privs": True, "seccomp": True, "landlock": True,
                                "landlock_main": True, "refused_total": 0}},
        "totals": {"visitors_total": sum(row["visitors_total"] for row in rows),
                   "visitors_open": sum(row["open"] for row in rows),
                   "visitors_waiting": sum(row["waiting"] for row in rows),
                   "bytes_in_total": sum(row["bytes_in_total"] for row in rows),
                   "bytes_out_total": sum(row["bytes_out_total"] for row in rows),
                   "refused_total": sum(sum((row.get("refused") or {}).values()) for row in rows),
                   "udp_visitors_open": 0},
        "services": rows[:1000], "services_total": len(rows),
        "history": {"interval_s": 5, "samples": 120, "visitors_per_s": [], "bytes_in_per_s": [],
                    "bytes_out_per_s": [], "open": []},
        "errors": [], "counters": {"visitors_accepted": 1, "logins": 1, "names_failed": 0},
    }
    answer.update(changes)
    return answer


class FakeNode:
    """token: what /status wants. code: what it answers with, None for not at all. requests: how often
    /status has been asked."""

    def __init__(self, port, answer, token=None):
        self.port, self.answer, self.token, self.code, self.requests = port, answer, token, 200, 0
        self.policy = _embed["policy"](_page())
        self.server = None
        self.start()

    def start(self):
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                node.handle(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def handle(self, request):
        if request.path == "/":
            body, kind, code = _embed["packed"](_page()), "text/html; charset=utf-8", 200
        elif request.path == "/status":
            self.requests += 1
            code = self.code
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                code = 401
            answer = self.answer() if callable(self.answer) else self.answer
            body, kind = json.dumps(answer).encode() if code == 200 else b"", "application/json"
        else:
            body, kind, code = b"", "text/plain", 404
        request.send_response(code)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Cache-Control", "no-store")
        if request.path == "/":
            request.send_header("Content-Encoding", "gzip")
            request.send_header("Content-Security-Policy", self.policy)
        request.end_headers()
        request.wfile.write(body)


def lively(count=10):
    """A function for FakeNode(answer=...): a node at work, for the eye."""
    began, rates = time.time(), [random.lognormvariate(0, 2) for _ in range(count)]

    def wave(at, seed):
        return (1 + 0.5 * math.sin(at / 40 + seed) + 0.3 * math.sin(at / 7 + 2 * seed)
                + 0.1 * math.sin(at * 3 + seed))

    def answer():
        now = time.time() - began + 86400 * 3
        rows = []
        for i, rate in enumerate(rates):
            up, work = i % 7 != 5, int(now * rate * 3 + wave(now, i) * 9 * rate)
            name = NAMES[i % len(NAMES)] + (f"-{i // len(NAMES)}" if i >= len(NAMES) else "")
            is_udp = name.startswith("wireguard")
            rows.append(row_of(
                name, type="udp" if is_udp else "tcp", addr=f"0.0.0.0:{6000 + i}", up=up,
                client=f"203.0.113.{4 + i}:51342" if up else "",
                open=int(rate * 9 * wave(now, i)) if up else 0,
                waiting=int(wave(now, i) * rate) // 8, visitors_total=work // 50,
                bytes_in_total=work * 3000, bytes_out_total=work * 41000,
                refused={"limit": i % 3 * 4, "queue": 0, "no_client": 0 if up else 17},
                first_byte_ms={"count": work, "p50": 0.4 * (i + 1), "p99": 1.7 * (i + 1) ** 2}))
            if is_udp:
                rows[-1]["dropped"] = rows[-1].pop("refused")
        times = [now - 5 * i for i in range(120, 0, -1)]
        history = {"interval_s": 5, "samples": 120, "visitors_per_s": [12 * wave(t, 1) for t in times],
                   "bytes_in_per_s": [800e3 * wave(t, 2) for t in times],
                   "bytes_out_per_s": [11e6 * wave(t, 3) for t in times],
                   "open": [int(90 * wave(t, 4)) for t in times]}
        errors = [{"time": time.time() - 700, "level": "warn", "service": "postgres",
                   "text": "its client has gone: the control channel ended"},
                  {"time": time.time() - 90, "level": "warn", "service": "ssh",
                   "text": "12 visitors were refused in the last 10 s: max_connections_per_ip"},
                  {"time": time.time() - 20, "level": "error", "service": "",
                   "text": "can't bind 0.0.0.0:6005: Address already in use; trying again every second"}]
        return status(rows, 86400 * 3 + 7200, history=history, errors=errors)

    return answer


if __name__ == "__main__":
    fake = FakeNode(int(sys.argv[1]) if len(sys.argv) > 1 else 9100,
                    lively(int(sys.argv[2]) if len(sys.argv) > 2 else 10))
    print(fake.url)
    threading.Event().wait()
