"""What a call and a worker cost as deployments grow: gateways over worlds of 10 to 100,000 deployments, side by side.

Each account has two keys and two deployments, so a world has as many keys as deployments; wrk asks for random ones.
The worlds are loaded in turns, a window each: whatever else the machine does, it does to all. CPU time a call is that
of the whole process tree; memory is the worker's: resident, and its proportional share. At the end: calls a second
with one worker and with two, on both cores together with the load.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median

import measure
import subjects
from measure import GATEWAY_CORE, HERE, LOAD_CORE, Load

WORLD = """
[gateway]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
territory = "JP"
log_name = "scale"
[[site]]
network = "127.0.0.0/8"
territory = "JP"
network_class = "business"
[[operator]]
name = "harbour"
legal_name = "Harbour Cloud K.K."
territory = "JP"
[[region]]
name = "japaneast"
territory = "JP"
zones = ["apac"]
operator = "harbour"
[[provider]]
name = "openai"
[[upstream]]
name = "calls"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "http://127.0.0.1:{port}/v1"
credential = "none"
models = {{ "gpt-4o@2024-11-20" = "gpt-4o" }}
[policy]
packs = ["entrepot:base", "entrepot:openai-api"]
"""
CLIENT = """
[[organization]]
name = "org-{number}"
legal_name = "Organization {number}"
territory = "JP"
entity_type = "enterprise"
kyc = "approved"
screening = "clear"
[[subscription]]
id = "00000000-0000-0000-0000-{number:012x}"
organization = "org-{number}"
[[account]]
name = "account-{number}"
subscription = "00000000-0000-0000-0000-{number:012x}"
resource_group = "rg"
location = "japaneast"
channel = "direct"
operator = "harbour"
keys = {{ key1 = "{key1}", key2 = "{key2}" }}
"""
DEPLOYMENT = """
[[account.deployment]]
name = "{name}"
model = "gpt-4o"
version = "2024-11-20"
sku = "GlobalStandard"
capacity = 1_000_000
"""


@dataclass
class Running:
    """A gateway over a world of so many deployments."""

    deployments: int
    process: subprocess.Popen[bytes]
    port: int
    ready_s: float
    costs_us: list[float] = field(default_factory=list)
    errors: int = 0


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--deployments", default="10,1000,10000,100000", help="default: %(default)s")
    arguments.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    arguments.add_argument("--seconds", type=float, default=4, help="whole seconds a window; default: %(default)s")
    arguments.add_argument("--connections", type=int, default=32, help="default: %(default)s")
    arguments.add_argument(
        "--program", help="an `entrepot` to measure; without it the compiled wheel, built if need be, in `bench/.peers`"
    )
    return arguments.parse_args()


def world_text(deployments: int, port: int) -> str:
    text = [WORLD.format(port=port)]
    for number in range(max(1, deployments // 2)):
        keys = {f"key{which}": f"sha256:{digest(number, which)}" for which in (1, 2)}
        text.append(CLIENT.format(number=number, **keys))
        text += [DEPLOYMENT.format(name=name) for name in ("gpt-4o", f"own-{number}")]
    return "".join(text)


def digest(number: int, which: int) -> str:
    """Of the key that `load/many.lua` sends."""
    return sha256(f"sk-bench-{number}-{which}-0123456789abcdef".encode()).hexdigest()


def pinned(cores: str, *command: str) -> list[str]:
    """Ended by the kernel should this process die."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", cores, *command]


def start_upstream(stack: ExitStack, folder: Path) -> int:
    """The benchmark's nginx, on a port of its own."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    text = (subjects.PEERS / "upstream.conf").read_text(encoding="utf-8")
    (folder / "upstream.conf").write_text(text.replace(str(subjects.CALL_UPSTREAM), str(port)), encoding="utf-8")
    command = pinned(str(LOAD_CORE), "nginx", "-e", "stderr", "-p", f"{folder}/", "-c", f"{folder}/upstream.conf")
    process = subprocess.Popen(command, start_new_session=True)
    stack.callback(subjects.stop, process)
    deadline = time.monotonic() + 10
    while not subjects.listening(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise subjects.MissingError("nginx did not come up")
        time.sleep(0.05)
    return port


def start(stack: ExitStack, program: str, deployments: int, world: Path, cores: str, workers: int = 1) -> Running:
    """Raises MissingError when it does not come up."""
    data = stack.enter_context(tempfile.TemporaryDirectory())
    command = [program, "gateway", "--world", str(world), "--data", data, "--workers", str(workers)]
    began = time.monotonic()
    log = stack.enter_context((Path(data) / "stderr").open("w"))
    process = subprocess.Popen(pinned(cores, *command), stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    stack.callback(subjects.stop, process)
    assert process.stdout is not None
    found = re.search(rb"http://127\.0\.0\.1:(\d+)", stack.enter_context(process.stdout).readline())
    if found is None:
        raise subjects.MissingError(
            f"no gateway over {deployments} deployments:\n{(Path(data) / 'stderr').read_text()}"
        )
    return Running(deployments, process, int(found[1]), time.monotonic() - began)


def load(running: Running, seconds: float, connections: int, cores: str, seed: int) -> Load:
    """Raises RuntimeError with wrk's output when it does not end well."""
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
    command += ["--timeout", "30s", "-s", str(HERE / "load" / "many.lua"), f"http://127.0.0.1:{running.port}"]
    command += ["--", str(HERE / "load" / "call.json"), str(max(1, running.deployments // 2)), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("json: ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    seen = json.loads(lines[0].removeprefix("json: "))
    return Load(seen["calls"], seen["duration_us"] / 1e6, seen["p50_us"], seen["p99_us"], seen["errors"])


def window(running: Running, upstream: int, chosen: argparse.Namespace, seed: int) -> float:
    """CPU µs a call, of those that the upstream counted."""
    pid = running.process.pid
    calls, cpu_s = measure.sent(upstream), measure.cpu_s(pid)
    running.errors += load(running, chosen.seconds, chosen.connections, str(LOAD_CORE), seed).errors
    measure.settle(pid)
    return (measure.cpu_s(pid) - cpu_s) / max(1, measure.sent(upstream) - calls) * 1e6


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident, and the proportional share of what is shared."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) for name in ("Rss", "Pss"))  # type: ignore[index]
    return rss / 1024, pss / 1024


def worker_of(running: Running) -> int:
    """The process that serves: a child of the gateway's."""
    return next(pid for pid in measure.tree(running.process.pid) if b"gateway.worker" in cmdline(pid))


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def grow(program: str, chosen: argparse.Namespace, folder: Path) -> None:
    """Cost and memory of a world beside those of the smallest one."""
    with ExitStack() as stack:
        upstream = start_upstream(stack, folder)
        gateways, idle = [], {}
        for deployments in map(int, chosen.deployments.split(",")):
            world = folder / str(deployments)
            world.mkdir()
            (world / "world.toml").write_text(world_text(deployments, upstream))
            gateways.append(start(stack, program, deployments, world, str(GATEWAY_CORE)))
            idle[deployments] = memory_mib(worker_of(gateways[-1]))
            print(f"{deployments:,} deployments: ready after {gateways[-1].ready_s:.1f} s", file=sys.stderr, flush=True)
        for number in range(chosen.rounds + 1):
            turn = number % len(gateways)
            for each in gateways[turn:] + gateways[:turn]:
                cost = window(each, upstream, chosen, number)
                if number:  # the first one warms up
                    each.costs_us.append(cost)
                print(f"{each.deployments:,}: {cost:.1f} µs", file=sys.stderr, flush=True)
        print(
            "| deployments and keys | CPU µs a call, median | least | ÷ smallest, median of rounds | ÷, of the least | "
            "worker RSS MiB, fresh | after the load | PSS MiB | ready after s | errors |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        base = gateways[0].costs_us
        for each in gateways:
            ratio = median(cost / other for cost, other in zip(each.costs_us, base, strict=True))
            rss, pss = memory_mib(worker_of(each))
            print(
                f"| {each.deployments:,} | {median(each.costs_us):.1f} | {min(each.costs_us):.1f} | {ratio:.2f} | "
                f"{min(each.costs_us) / min(base):.2f} | {idle[each.deployments][0]:.0f} | {rss:.0f} | {pss:.0f} | "
                f"{each.ready_s:.1f} | {each.errors} |",
                flush=True,
            )


def widen(program: str, chosen: argparse.Namespace, folder: Path) -> None:
    """One worker and two, in turns, over the same world."""
    cores = f"{GATEWAY_CORE},{LOAD_CORE}"
    with ExitStack() as stack:
        upstream = start_upstream(stack, folder)
        world = folder / "two"
        world.mkdir()
        (world / "world.toml").write_text(world_text(1000, upstream))
        gateways = {workers: start(stack, program, 1000, world, cores, workers) for workers in (1, 2)}
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(chosen.rounds + 1):
            for workers, each in gateways.items():
                calls, cpu_s = measure.sent(upstream), measure.cpu_s(each.process.pid)
                seen = load(each, chosen.seconds, chosen.connections, cores, number)
                measure.settle(each.process.pid)
                if number:
                    rates[workers].append(seen.calls / seen.duration_s)
                    spent = measure.cpu_s(each.process.pid) - cpu_s
                    each.costs_us.append(spent / max(1, measure.sent(upstream) - calls) * 1e6)
        print("\n| workers | calls/s, median | most | CPU µs a call, median |")
        print("| ---: | ---: | ---: | ---: |")
        for workers, each in gateways.items():
            found = rates[workers]
            print(f"| {workers} | {median(found):,.0f} | {max(found):,.0f} | {median(each.costs_us):.1f} |", flush=True)


def main() -> int:
    chosen = options()
    try:
        subjects.install_debian(set())
        if chosen.program is None:
            subjects.install_entrepot()
        program = chosen.program or f"{subjects.environment('entrepot')}/bin/entrepot"
        busy = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # nginx's worker is another user
            grow(program, chosen, Path(folder))
            widen(program, chosen, Path(folder))
        print(f"\nload average before: {busy:.1f}, after: {os.getloadavg()[0]:.1f}")
    except subjects.MissingError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
