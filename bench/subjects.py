"""What is measured against what: how each proxy is installed, started, known to be ready and ended.

Ports are fixed, so that every configuration in `peers/` and `world/` can be read and used by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from measure import GATEWAY_CORE, HERE, LOAD_CORE, Upstream

PEERS = HERE / "peers"
STATE = HERE / ".peers"  # ignored by git: environments, working folders, the last result
CALL_UPSTREAM, STREAM_UPSTREAM, LIMIT_STORE = 18100, 18101, 18102
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
DEBIAN = {"haproxy": "haproxy", "nginx": "nginx-light", "wrk": "wrk", "redis-server": "redis-server"}


_QUOTA = (
    "requests_per_minute = 100_000_000, tokens_per_minute = 10_000_000_000, in_flight = 10_000, "
    'budgets = [{ amount_micros = 1_000_000_000_000, period = "month" }]'
)
ALL_LIMITS = {
    "[gateway]\n": '[gateway]\naccess_log = "on"\n',
    'screening = "clear"\n': f'screening = "clear"\nlimits = {{ {_QUOTA} }}\n',
    'channel = "direct"\n': f'channel = "direct"\nlimits = {{ {_QUOTA} }}\nkey_limits = {{ {_QUOTA} }}\n',
    "[policy]\n": """[[model]]
name = "gpt-4o"
version = "2024-11-20"
prices = [{ from = 2024-11-20T00:00:00Z, input_micros = 2_500_000, output_micros = 10_000_000 }]

[policy]
""",
}
"""What is written instead: every limit that there is, none of which is ever reached, and a line for each call."""


class MissingError(Exception):
    """Something that the benchmark needs is not there; the message says how to get it."""


@dataclass(frozen=True)
class Subject:
    name: str
    call_port: int
    stream_port: int
    command: tuple[str, ...] = ()  # none: the upstream itself, without a proxy
    version: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    ready_s: float = 30.0
    once: bool = False  # measured in the first round only, over longer windows
    extra: bool = False  # measured only when it is named
    beside: tuple[str, ...] = ()  # a server that it needs, on the core of the load


def environment(name: str) -> Path:
    return STATE / name


def script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


CALLS = Subject(
    "calls",
    CALL_UPSTREAM,
    CALL_UPSTREAM,
    ("nginx", "-e", "stderr", "-p", f"{STATE}/run/", "-c", f"{PEERS}/upstream.conf"),
)
STREAMS = Subject(
    "streams", STREAM_UPSTREAM, STREAM_UPSTREAM, (sys.executable, f"{HERE}/upstream.py", f"--port={STREAM_UPSTREAM}")
)


def entrepot_with(what: str, port: int, beside: tuple[str, ...] = ()) -> Subject:
    """The compiled one over a world of `lay_out_worlds`."""
    return Subject(
        f"entrepot-{what}",
        port,
        port,
        (
            *(f"{environment('entrepot')}/bin/entrepot", "gateway", "--world", f"{STATE}/run/{what}"),
            *("--data", f"{STATE}/run/{what}-data", "--workers", "1"),
        ),
        version=(f"{environment('entrepot')}/bin/python", f"{HERE}/whoami.py"),
        extra=True,
        beside=beside,
    )


SUBJECTS = (
    Subject("direct", CALL_UPSTREAM, STREAM_UPSTREAM),
    Subject(
        "entrepot",
        18110,
        18110,
        (
            *(f"{environment('entrepot')}/bin/entrepot", "gateway", "--world", f"{HERE}/world"),
            *("--data", f"{STATE}/run/data", "--workers", "1"),
        ),
        version=(f"{environment('entrepot')}/bin/python", f"{HERE}/whoami.py"),
    ),
    Subject(
        "entrepot-pure",
        18112,
        18112,
        (script("entrepot"), "gateway", "--world", f"{STATE}/run/pure", "--data", f"{STATE}/run/pure-data"),
        version=(script("python"), f"{HERE}/whoami.py"),
        extra=True,
    ),
    entrepot_with("limits", 18114),
    entrepot_with("leases", 18116, beside=("redis-server", "--port", str(LIMIT_STORE), "--save", "")),
    Subject("haproxy", 18120, 18121, ("haproxy", "-db", "-f", f"{PEERS}/haproxy.cfg"), version=("haproxy", "-v")),
    Subject(
        "nginx",
        18130,
        18131,
        ("nginx", "-e", "stderr", "-p", f"{STATE}/run/", "-c", f"{PEERS}/nginx.conf"),
        version=("nginx", "-v"),
    ),
    Subject(
        "envoy",
        18140,
        18141,
        (
            *(f"{environment('envoy')}/bin/envoy", "-c", f"{PEERS}/envoy.yaml", "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "critical"),
        ),
        version=(f"{environment('envoy')}/bin/envoy", "--version"),
    ),
    Subject(
        "litellm",
        18150,
        18150,
        (
            *(f"{environment('litellm')}/bin/litellm", "--config", f"{PEERS}/litellm.yaml", "--host", "127.0.0.1"),
            *("--port", "18150", "--num_workers", "1", "--log_config", f"{PEERS}/litellm-log.json"),
        ),
        version=(
            *(f"{environment('litellm')}/bin/python", "-c"),
            "import importlib.metadata as m; print('litellm', m.version('litellm'))",
        ),
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "CRITICAL", "LITELLM_MODE": "PRODUCTION"},
        ready_s=120.0,
        once=True,
    ),
)


def install_debian(names: set[str]) -> None:
    """Have apt-get install what is missing of `names` and wrk; needs root. Raises MissingError otherwise."""
    needed = (names & DEBIAN.keys()) | {"nginx", "wrk"} | ({"redis-server"} if "entrepot-leases" in names else set())
    packages = [DEBIAN[name] for name in sorted(needed) if shutil.which(name) is None]
    if not packages:
        return
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingError(f"{', '.join(packages)} not found; as root: {' '.join(command)}")
    print(f"installing {', '.join(packages)} …", file=sys.stderr, flush=True)
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    )


def find_uv() -> str:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise MissingError("uv not found; `make setup` puts it into .venv")
    return uv


def install_python(name: str) -> None:
    """Make the environment of a peer from its locked requirements, unless it is there already."""
    requirements = PEERS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = environment(name) / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    uv = find_uv()
    print(f"installing {name} into {environment(name)} …", file=sys.stderr, flush=True)
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, environment(name)], check=True)
    python = f"{environment(name)}/bin/python"
    subprocess.run([uv, "pip", "sync", "-q", "--require-hashes", "--python", python, requirements], check=True)
    stamp.write_text(digest)


def distribution_python() -> str:
    """The distribution's interpreter if it is new enough, else the one that runs this.

    Every peer is an optimised build of its distributor's; so is this. An interpreter that somebody compiled on the
    machine, without profile-guided optimisation, costs a quarter more a call.
    """
    question = "import sys; sys.exit(sys.version_info < (3, 11))"
    found = Path("/usr/bin/python3")
    if found.exists() and subprocess.run([found, "-c", question], check=False).returncode == 0:
        return str(found)
    return sys.executable


def install_entrepot() -> None:
    """The wheel as it is released, hot modules compiled, in an environment of its own."""
    uv = find_uv()
    source = [
        *sorted((HERE.parent / "src").rglob("*.py")),
        HERE.parent / "hatch_build.py",
        HERE.parent / "tools" / "exercise.py",
    ]
    python = distribution_python()
    parts = [python.encode(), *(path.read_bytes() for path in [*source, HERE.parent / "uv.lock"])]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    stamp = environment("entrepot") / "source.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"building entrepot for {python} (five minutes) …", file=sys.stderr, flush=True)
    wheels, requirements = STATE / "wheel", STATE / "run" / "entrepot.txt"
    shutil.rmtree(wheels, ignore_errors=True)
    requirements.parent.mkdir(parents=True, exist_ok=True)
    quietly(uv, "build", "-q", "--wheel", "--python", python, "-o", str(wheels))
    quietly(uv, "export", "-q", "--frozen", "--no-dev", "--no-emit-project", "-o", str(requirements))
    quietly(uv, "venv", "-q", "--clear", "--python", python, str(environment("entrepot")))
    inside = f"{environment('entrepot')}/bin/python"
    quietly(uv, "pip", "sync", "-q", "--require-hashes", "--python", inside, str(requirements))
    (wheel,) = wheels.glob("*.whl")
    quietly(uv, "pip", "install", "-q", "--no-deps", "--python", inside, str(wheel))
    stamp.write_text(digest)


def quietly(*command: str) -> None:
    """Run in the project's folder, building compiled wheels; its output only matters when it fails."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | {"ENTREPOT_COMPILE": "pgo"},
    )
    if done.returncode:
        raise MissingError(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")


def lay_out_worlds() -> None:
    """Fresh ledgers, and the world once more on other ports: for the pure build, and with more in it."""
    text = (HERE / "world" / "world.toml").read_text(encoding="utf-8")
    shutil.rmtree(STATE / "run" / "data", ignore_errors=True)
    store = f'limit_store = {{ url = "redis://127.0.0.1:{LIMIT_STORE}/0" }}\n'
    for folder, port, more in (
        ("pure", 18112, {}),
        ("limits", 18114, ALL_LIMITS),
        ("leases", 18116, {**ALL_LIMITS, "[gateway]\n": ALL_LIMITS["[gateway]\n"] + store}),
    ):
        world = text.replace("18110", str(port)).replace("18119", str(port + 1))
        for before, after in more.items():
            world = world.replace(before, after)
        for each in (folder, f"{folder}-data"):
            shutil.rmtree(STATE / "run" / each, ignore_errors=True)
        (STATE / "run" / folder).mkdir(parents=True)
        (STATE / "run" / folder / "world.toml").write_text(world, encoding="utf-8")


def install(names: set[str]) -> None:
    if shutil.which("taskset") is None or shutil.which("setpriv") is None:
        raise MissingError("taskset and setpriv not found; they are in the package util-linux")
    install_debian(names)
    for name in sorted(names & {"envoy", "litellm"}):
        install_python(name)
    if any(each.startswith("entrepot") and each != "entrepot-pure" for each in names):
        install_entrepot()
    lay_out_worlds()


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def log(subject: Subject) -> Path:
    return STATE / "run" / f"{subject.name}.log"


def start(subject: Subject, core: int) -> subprocess.Popen[bytes]:
    """Start a subject on one core, ended by the kernel should this process die. MissingError if a port is taken."""
    for port in {subject.call_port, subject.stream_port}:
        if listening(port):
            raise MissingError(f"port {port} is taken; is another benchmark running?")
    log(subject).parent.mkdir(parents=True, exist_ok=True)
    with log(subject).open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *subject.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to handle
            env={**os.environ, **subject.environment},
        )


def await_ready(subject: Subject, process: subprocess.Popen[bytes]) -> None:
    """Until its ports are open. Raises MissingError, with the end of its log, if it has ended or takes too long."""
    deadline = time.monotonic() + subject.ready_s
    while not (listening(subject.call_port) and listening(subject.stream_port)):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log(subject).read_text(errors="replace")[-2000:]
            raise MissingError(f"{subject.name} did not come up; the end of {log(subject)}:\n{tail}")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End a subject and its children: politely, then not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # `start` made it the leader of its own group
    process.wait()


class Running:
    """Everything that the benchmark has started, by name; ended when the block is left, however it is left."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            stop(process)

    def start(self, *subjects: Subject, core: int = GATEWAY_CORE) -> None:
        """Start them side by side and wait until all are up. Raises MissingError."""
        started = [subject for subject in subjects if subject.command]
        for subject in started:
            if subject.beside:
                port = int(subject.beside[subject.beside.index("--port") + 1])
                self.start(Subject(f"beside {subject.name}", port, port, subject.beside), core=LOAD_CORE)
            self.processes[subject.name] = start(subject, core)
        for subject in started:
            await_ready(subject, self.processes[subject.name])

    def start_upstreams(self, pace_ms: float) -> None:
        paced = replace(STREAMS, command=(*STREAMS.command, f"--pace-ms={pace_ms}"))
        self.start(CALLS, paced, core=LOAD_CORE)

    def stop(self, subject: Subject) -> None:
        for name in (subject.name, f"beside {subject.name}"):
            if process := self.processes.pop(name, None):
                stop(process)

    def pid(self, name: str) -> int:
        return self.processes[name].pid

    def upstream(self, stream: bool) -> Upstream:
        name, port = ("streams", STREAM_UPSTREAM) if stream else ("calls", CALL_UPSTREAM)
        return Upstream(port, self.processes[name].pid if name in self.processes else 0)


def version(subject: Subject) -> str:
    if not subject.version:
        return ""
    done = subprocess.run(subject.version, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""
