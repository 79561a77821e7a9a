"""What the figures depend on: the machine, its kernel and the versions of the programs."""

import os
import re
import shutil
import subprocess

TOOLS = {"iperf3": "--version", "wrk": "-v", "nginx": "-v", "strace": "-V", "haproxy": "-v", "dnsmasq": "-v"}


def _first_line(path, default=""):
    try:
        with open(path) as text:
            return text.readline().strip()
    except OSError:
        return default


def _tool_version(tool, flag):
    if not shutil.which(tool):
        return None
    done = subprocess.run([tool, flag], capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    found = re.search(r"\d+\.\d[\w.\-+]*", lines[0]) if lines else None
    return found.group(0) if found else "unknown"


def describe():
    with open("/proc/cpuinfo") as cpuinfo:
        model = re.search(r"^model name\s*: (.*)$", cpuinfo.read(), re.M)
    with open("/proc/meminfo") as meminfo:
        memory_kb = int(re.search(r"MemTotal:\s+(\d+)", meminfo.read()).group(1))
    return {
        "cpu": model.group(1) if model else "unknown",
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kb / 2**20, 1),
        "kernel": os.uname().release,
        "architecture": os.uname().machine,
        "congestion_control": _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "default_qdisc": _first_line("/proc/sys/net/core/default_qdisc"),
        "pipe_user_pages_soft": _first_line("/proc/sys/fs/pipe-user-pages-soft"),
        "load_average": _first_line("/proc/loadavg"),
        "user": "root" if os.geteuid() == 0 else "unprivileged",
        "tools": {
            tool: version for tool, flag in TOOLS.items() if (version := _tool_version(tool, flag))
        },
    }
