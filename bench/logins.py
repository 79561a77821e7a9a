"""Many clients that log in at once: at a cold start, and after the server was killed and started again.

The clients are login_load (login_load.c), each at an address of its own. The server is one more process,
not the tunnel's: its services are those of the clients, for our program as one range, for rathole one by
one. With too few descriptors there are fewer clients, and a note says so.
"""

import json
import os
import re
import resource
import time

import peers
import procs
from procs import BenchError

CLIENTS = 1000
SERVICES = 10
FIRST_PORT = 30000
DEAD_S = 2.0  # from the kill to the next start, so that the clients' back-off is at its longest
LIMIT_S = 120
FDS_PER_SERVICE = 4  # two listeners, a control channel, and some to spare
FDS_OTHERS = 1000
SETTLE_S = 1.0


def program(binary):
    return os.path.join(os.path.dirname(binary), "bench", "login_load")


def herd(one_address=False, clients=CLIENTS):
    """All log in, the server dies and starts again, and all log in again."""

    def load(run):
        load_program = program(peers.PEERS_BY_NAME[peers.OURS].paths[peers.OURS])
        if not os.access(load_program, os.X_OK):
            raise BenchError(f"{load_program} is missing: ninja -C BUILD bench/login_load")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        count = max(1, min(clients, (limit - FDS_OTHERS) // FDS_PER_SERVICE // SERVICES))
        if count < clients:
            run.notes.append(f"{count} clients, because there are {limit} descriptors")
        plan = run.tunnel.plan
        control = ("127.0.0.1", procs.free_port())
        argv = _server(run.tunnel.peer, plan, control, count * SERVICES)
        client = _client(plan, control)
        server = run.supervisor.spawn("logins-server", argv, None, peers.QUIET)
        procs.wait_listening(server, control[1])
        time.sleep(SETTLE_S)
        memory = procs.resident_kb(server)[1]
        options = ["--one-address"] if one_address else []
        clients_process = run.supervisor.spawn(
            "login_load", [load_program, client, "--clients", str(count), "--services", str(SERVICES),
                           "--first", str(FIRST_PORT), "--rounds", "2", "--seconds", str(LIMIT_S), *options])
        cold = _round(clients_process, 0)
        figures = {
            "cold_s": cold["seconds"],
            "cold_put_out": cold["put_out"] + cold["timed_out"],
            "cold_cpu_us": procs.cpu_seconds(server) * 1e6 / cold["of"],
        }
        time.sleep(SETTLE_S)
        figures["kb_per_login"] = (procs.resident_kb(server)[1] - memory) / cold["of"]
        server.kill()
        server.wait()
        time.sleep(DEAD_S)
        begun = time.monotonic()
        server = run.supervisor.spawn("logins-server", argv, None, peers.QUIET)
        back = _round(clients_process, 1)
        figures["back_s"] = back["up_ms"] / 1000 - begun
        figures["back_put_out"] = back["put_out"] + back["timed_out"]
        figures["back_cpu_us"] = procs.cpu_seconds(server) * 1e6 / back["of"]
        run.supervisor.stop(clients_process, server)
        return figures

    return load


def _server(peer, plan, control, services):
    lines = ["[server]", f'bind_addr = "{peers.join(control)}"', f'default_token = "{peers.TOKEN}"']
    ports = range(FIRST_PORT, FIRST_PORT + services)
    if peer.name == peers.OURS:
        lines += ['log_level = "error"', "threads = 2"]
    lines += peers.rathole_transport(plan, True)
    if peer.name == peers.OURS:
        lines += ['[server.services."game-{port}"]', f'bind_addr = "127.0.0.1:{ports[0]}-{ports[-1]}"']
    else:
        for port in ports:
            lines += [f"[server.services.game-{port}]", f'bind_addr = "127.0.0.1:{port}"']
    path = plan.write("logins-server.toml", "\n".join(lines) + "\n")
    return [peer.paths[peer.programs[0]], "--server", path]


def _client(plan, control):
    lines = ["[client]", f'remote_addr = "{peers.join(control)}"', f'default_token = "{peers.TOKEN}"',
             *peers.rathole_transport(plan, False), "[client.services.any]", 'local_addr = "127.0.0.1:1"']
    return plan.write("logins-client.toml", "\n".join(lines) + "\n")


def _round(child, number):
    """Waits for the load's line of this round."""
    deadline = time.monotonic() + LIMIT_S + 10
    while time.monotonic() < deadline:
        with open(child.log_path) as log:
            lines = re.findall(r"^\{.*\}$", log.read(), re.M)
        if len(lines) > number:
            result = json.loads(lines[number])
            if result["up"] < result["of"]:
                raise BenchError(f"{result['up']} of {result['of']} logins within {LIMIT_S} s")
            return result
        procs.require_alive(child)
        time.sleep(0.02)
    raise BenchError(f"login_load: no result: {procs.log_tail(child)}")
