"""Parent and workers: what ends them, what they outlive, and that no call pays for it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from entrepot.gateway.parent import address, listening
from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Match, Rule, Settings
from harness import (
    Account,
    Fleet,
    Gateway,
    Upstream,
    World,
    ask,
    asked,
    body_of,
    call_bytes,
    opened,
    raw,
    to_end,
    until,
)

CALLER = Account(
    "caller", deployments=(("slow", "slow", "Standard"), ("never", "never", "Standard"), ("quick", "quick", "Standard"))
)
MODELS = {"slow": "slow", "never": "never", "quick": "quick"}
SCRIPT = Settings(
    script=(
        Rule(match=Match(model="slow"), pace_ms=100, tokens=10),
        Rule(match=Match(model="never"), pace_ms=100, tokens=100_000),
    )
)


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with simulated(SCRIPT) as sim:
        yield sim


@dataclass
class Secured:
    """Two workers behind TLS. `certify` puts a certificate of another authority in place."""

    gateway: Gateway
    files: Path

    def certify(self) -> ssl.SSLContext:
        """What trusts the new certificate, and only that."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.files / "key.pem")
        issued.cert_chain_pems[0].write_to_path(self.files / "cert.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def secured(fleet: Fleet, sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("secured")
    tls = f'tls = {{ certificate = "{home}/cert.pem", key = "{home}/key.pem" }}\n'
    world = World(home / "world", [Upstream("main", sim.base_url, MODELS)], [CALLER], tls)
    world.write()
    trusting = Secured.certify(Secured(None, home))  # type: ignore[arg-type]
    with fleet.gateway(world, home / "gateway", "--workers", "2", tls=trusting) as gateway:
        yield Secured(gateway, home)


def test_tls_is_served_and_verified(secured: Secured) -> None:
    gateway = secured.gateway
    assert gateway.url.startswith("https://")
    assert ask(gateway.data, body=body_of("quick"), key=CALLER.key).status == 200
    assert ask(gateway.data, body=body_of("quick", stream=True), key=CALLER.key).body.endswith(b"data: [DONE]\n\n")
    with socket.create_connection((gateway.data.host, gateway.data.port), timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert not to_end(plain).startswith(b"HTTP/1.1 200")
    context = gateway.data.tls
    assert context is not None
    with (
        socket.create_connection((gateway.data.host, gateway.data.port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        assert secure.version() in {"TLSv1.2", "TLSv1.3"}


def test_sighup_takes_a_new_certificate_and_leaves_a_bad_one(secured: Secured) -> None:
    gateway = secured.gateway
    revision = gateway.readiness()["revision"]
    old = gateway.data.tls
    assert old is not None
    with opened(gateway.data) as kept:
        assert asked(kept, body=body_of("quick"), key=CALLER.key).status == 200
        gateway.data.tls = secured.certify()
        gateway.signal(signal.SIGHUP)
        gateway.revision(revision + 1)
        assert ask(gateway.data, "/healthz").status == 200
        assert asked(kept, body=body_of("quick"), key=CALLER.key).status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(type(gateway.data)(gateway.data.host, gateway.data.port, old), "/healthz")

    good = (secured.files / "key.pem").read_bytes()
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(secured.files / "key.pem")
    gateway.signal(signal.SIGHUP)
    assert "gateway.tls" in until(lambda: gateway.readiness()["problem"], "the key of another is told")
    assert gateway.metric("entrepot_world_invalid") == 1
    for _ in range(4):
        assert ask(gateway.data, body=body_of("quick"), key=CALLER.key).status == 200
    (secured.files / "key.pem").write_bytes(good)
    gateway.signal(signal.SIGHUP)
    gateway.revision(revision + 2)
    assert gateway.readiness()["problem"] is None


def test_workers_share_the_port_and_their_counts_add_up(secured: Secured) -> None:
    gateway = secured.gateway
    series = 'entrepot_calls_total{operation="chat",outcome="served",status="200"}'
    before = gateway.metric(series)
    with ExitStack() as stack:
        kept = [stack.enter_context(opened(gateway.data)) for _ in range(24)]
        for connection in kept:
            assert asked(connection, body=body_of("quick"), key=CALLER.key).status == 200
        assert gateway.metric("entrepot_connections") == 24
    assert gateway.metric(series) == before + 24
    assert gateway.metric("entrepot_workers") == 2
    assert gateway.readiness()["workers"] == 2
    assert len(gateway.workers()) == 2


def test_open_files_are_as_many_as_the_system_allows(secured: Secured) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for worker in secured.gateway.workers():
        assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (most, most)


def test_a_killed_worker_is_started_again_and_nobody_is_refused(secured: Secured) -> None:
    gateway = secured.gateway
    victim, other = gateway.workers()
    os.kill(victim, signal.SIGKILL)
    until(lambda: not alive(victim), "it is gone")  # until then it may still accept
    for _ in range(30):  # a connection to the one that is gone waits for its successor
        assert ask(gateway.data, body=body_of("quick"), key=CALLER.key).status == 200
    until(lambda: gateway.readiness()["workers"] == 2, "both serve again")
    assert gateway.metric("entrepot_worker_restarts_total") == 1
    workers = gateway.workers()
    assert other in workers
    assert victim not in workers
    assert [line["level"] for line in gateway.events if line["event"] == "worker ended unasked"] == ["error"]


@pytest.fixture(scope="module")
def gateways(fleet: Fleet, sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Some to be ended, one a test."""
    home = tmp_path_factory.mktemp("ended")
    world = World(home / "world", [Upstream("main", sim.base_url, MODELS)], [CALLER], "limits = { drain_s = 20 }\n")
    world.write()
    with fleet.gateways(world, [home / str(number) for number in range(3)]) as gateways:
        yield list(gateways)


def streaming(gateway: Gateway, model: str) -> socket.socket:
    """A stream of which the first event has come."""
    sock = raw(gateway.data, call_bytes(body_of(model, stream=True), CALLER.key))
    seen = b""
    while b"data: " not in seen:
        block = sock.recv(1_000)
        if not block:
            sock.close()
            raise AssertionError(f"the stream ended: {seen!r}")
        seen += block
    return sock


def refused(gateway: Gateway) -> bool:
    try:
        socket.create_connection((gateway.data.host, gateway.data.port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the listener closed between the handshake and the accept: look again
        return False
    return False


def test_a_stop_lets_streams_end_and_nobody_in(gateways: list[Gateway]) -> None:
    gateway = gateways.pop()
    with streaming(gateway, "slow") as sock, opened(gateway.data) as idle:
        assert asked(idle, "/healthz").status == 200
        gateway.signal(signal.SIGTERM)
        until(lambda: refused(gateway), "new connections are refused")
        assert gateway.process.poll() is None
        rest = to_end(sock)
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"upstream_cut" not in rest
    assert gateway.wait() == 0


def test_asking_twice_ends_at_once(gateways: list[Gateway]) -> None:
    gateway = gateways.pop()
    workers = gateway.workers()
    with streaming(gateway, "never") as sock:
        gateway.signal(signal.SIGINT)
        until(lambda: refused(gateway), "new connections are refused")
        gateway.signal(signal.SIGINT)
        assert gateway.wait(10) == 0
        assert not to_end(sock).endswith(b"0\r\n\r\n")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_workers_end_without_their_parent_but_not_in_mid_stream(gateways: list[Gateway]) -> None:
    gateway = gateways.pop()
    (worker,) = gateway.workers()
    with streaming(gateway, "slow") as sock:
        gateway.process.kill()
        gateway.wait()
        until(lambda: refused(gateway), "new connections are refused")
        assert to_end(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    until(lambda: not alive(worker), "the worker ends")


def alive(pid: int) -> bool:
    """Running; a zombie that nobody has waited for is not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(world: Path, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "entrepot", "gateway", "--world", str(world), *more]
    environ = {**os.environ, "UPSTREAM_KEY": "x"}
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environ, timeout=60, check=False)


def test_a_world_with_mistakes_does_not_start(tmp_path: Path) -> None:
    world = World(tmp_path / "world", [Upstream("main", "ftp://x")], [Account("caller", more='residency = ["moon"]')])
    world.write()
    ended = start(world.folder, tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "moon" in ended.stderr
    assert "upstream[main].base_url" in ended.stderr
    assert "nothing was started" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        world = World(tmp_path / "world", [Upstream("main", "http://127.0.0.1:1", MODELS)], [CALLER])
        world.write()
        path = world.folder / "world.toml"
        path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{port}"', 1))
        ended = start(world.folder, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("the gateway cannot start: ")
    assert "in use; end what listens there, or give another address with `--listen HOST:PORT`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_that_is_none_is_told(tmp_path: Path) -> None:
    ended = start(tmp_path, tmp_path, "--admin-listen", "nowhere")
    assert ended.returncode == 2
    assert "Invalid value for '--admin-listen'" in ended.stderr
    assert "`nowhere` is no address to listen on" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("module", ["entrepot.gateway.worker", "entrepot.gateway.parent", "entrepot.gateway.control"])
def test_the_data_plane_has_no_database_and_no_web_framework(module: str) -> None:
    """Of what a worker imports, all at its start: nothing is imported later in it (`PLC0415` in the lint)."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    heavy = {"sqlalchemy", "alembic", "starlette", "uvicorn", "jinja2", "typer", "openai", "rich", "entrepot.cli"}
    assert heavy.isdisjoint(name for full in loaded for name in (full, full.partition(".")[0]))


def test_two_gateways_never_share_an_address() -> None:
    """As workers do, over which the kernel spreads connections: half of the calls would be another world's."""
    with ExitStack() as opened:
        first = [opened.enter_context(each) for each in listening("127.0.0.1:0", 2)]
        where = address(first[0])
        with pytest.raises(OSError, match=f"{where} cannot be listened on: .*`--listen HOST:PORT`"):
            listening(where, 2)
