"""What Linux says about processes and processors, and one run of the load generator. Linux only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
GATEWAY_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Call:
    """How the load is put: where, with which body and key, over how many connections."""

    port: int
    body: Path
    key: str
    connections: int
    path: str = "/v1/chat/completions"


@dataclass(frozen=True)
class Upstream:
    """`pid` 0: not ours, so its own CPU is not known."""

    port: int
    pid: int = 0


@dataclass(frozen=True)
class Load:
    """What wrk saw. Times in µs; `errors` counts answers that were not 2xx, broken sockets and time-outs."""

    calls: int
    duration_s: float
    p50_us: float
    p99_us: float
    errors: int


@dataclass(frozen=True)
class Window:
    """One measurement. `cpu_s` and `units` run on until the proxy is quiet: calls cut by the end count in both."""

    load: Load
    cpu_s: float
    rss_bytes: int
    upstream_cpu_s: float
    units: int  # calls, or chunks of streams, as the upstream counted them
    gateway_core_busy: float
    load_core_busy: float
    others: float  # share of the gateway's core that went to processes outside the tree


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # ended between the listing and the read
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:  # grows while it is walked
        found += children.get(parent, [])
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far: all threads, dead ones included; children that ended are not."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; pages that its processes share count once for each."""
    pages = 0
    for each in tree(pid):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def cores() -> dict[str, tuple[int, int]]:
    """Per core: (busy, all) ticks since boot."""
    counts = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(field) for field in fields[:8]]
            counts[name] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return counts


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def wrk(call: Call, seconds: float) -> Load:
    """Run wrk on the load's core. Raises RuntimeError with its output when it does not end well."""
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{call.connections}", f"-d{max(round(seconds), 1)}s"]
    command += ["--timeout", "30s", "-s", str(HERE / "load" / "load.lua"), f"http://127.0.0.1:{call.port}{call.path}"]
    command += ["--", str(call.body), call.key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("json: ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    seen = json.loads(lines[0].removeprefix("json: "))
    errors = seen["status_errors"] + seen["socket_errors"] + seen["timeouts"]
    return Load(seen["calls"], seen["duration_us"] / 1e6, seen["p50_us"], seen["p99_us"], errors)


def sent(port: int) -> int:
    """What an upstream has sent so far: chunks (`upstream.py`'s own count) or calls (nginx's `stub_status`)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as answer:
        text = answer.read().decode()
    return int(json.loads(text)["chunks_sent"]) if text.startswith("{") else int(text.splitlines()[2].split()[2]) - 1


def settle(pid: int, patience_s: float = 15.0) -> None:
    """Wait until a proxy has finished what clients that are gone had asked of it."""
    deadline = time.monotonic() + patience_s
    before = cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = cpu_s(pid)
        if now - before <= 0.02:
            return
        before = now


def window(pid: int, upstream: Upstream, call: Call, seconds: float) -> Window:
    """Load `call` for `seconds` and say what the tree of `pid` used for it."""
    units = sent(upstream.port)
    cpu, upstream_cpu, busy = cpu_s(pid), cpu_s(upstream.pid) if upstream.pid else 0.0, cores()
    load = wrk(call, seconds)
    cpu_loaded, busy_after = cpu_s(pid) - cpu, cores()
    settle(pid)
    gateway, loader = f"cpu{GATEWAY_CORE}", f"cpu{LOAD_CORE}"
    elapsed_s = (busy_after[gateway][1] - busy[gateway][1]) * TICK_S
    gateway_busy = share(busy[gateway], busy_after[gateway])
    return Window(
        load=load,
        cpu_s=cpu_s(pid) - cpu,
        rss_bytes=rss_bytes(pid),
        upstream_cpu_s=cpu_s(upstream.pid) - upstream_cpu if upstream.pid else 0.0,
        units=sent(upstream.port) - units,
        gateway_core_busy=gateway_busy,
        load_core_busy=share(busy[loader], busy_after[loader]),
        others=0.0 if pid == upstream.pid else max(gateway_busy - cpu_loaded / elapsed_s, 0.0),
    )


def probe(call: Call, seconds: float) -> dict[str, float]:
    """How chunks arrive at a client: see `probe.py`."""
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, str(HERE / "probe.py"), f"--port={call.port}"]
    command += [f"--body={call.body}", f"--key={call.key}", f"--connections={call.connections}", f"--seconds={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the probe failed: {done.stderr}")
    report: dict[str, float] = json.loads(done.stdout)
    return report
