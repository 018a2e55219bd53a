"""Gateways as their users run them: a process over a world's folder, spoken to over sockets.

`World` writes the folder, `Fleet` starts gateways over it and sees that no secret leaves them, `ask` is one HTTP call.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from entrepot.sim.server import Sim

CONTENT = "the-client's-own-words-5e1d0c"
"""In the body of every call that the harness makes; it may appear nowhere but upstream."""
FROM_JP, FROM_CN, FROM_NOWHERE, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.9"
"""Addresses to call from: two sites, a private address of no site, and a proxy that the world trusts."""
DOMAIN = "models.example.test"
START_S = 60.0
STOP_S = 30.0

_SERVING = re.compile(r"serving \S+ on (https?)://(\S+):(\d+) \(metrics and readiness on http://(\S+):(\d+)\)")

_CATALOGUE = """
[[site]]
network = "127.0.0.1/32"
territory = "JP"
network_class = "business"
[[site]]
network = "127.0.0.2/32"
territory = "CN"
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
display_name = "Japan East"
[[region]]
name = "koreacentral"
territory = "KR"
zones = ["apac"]
operator = "harbour"
[[region]]
name = "westeurope"
territory = "NL"
zones = ["eu"]
operator = "harbour"
[[provider]]
name = "openai"
[[provider]]
name = "acme"
[policy]
packs = ["packs/base.toml", "entrepot:openai-api"]
"""

BASE_PACK = """
[pack]
id = "test-base"
owner = "compliance@operator.example"
source = { title = "Terms of a test" }
[[rule]]
id = "TEST-PERMIT"
effect = "permit"
when = { account.channel = ["direct", "cloud"], org.kyc = "approved", org.screening = "clear" }
[[rule]]
id = "TEST-SUSPENDED"
effect = "forbid"
when = { account.state = "suspended" }
code = "account_suspended"
reason = { en = "this account is suspended" }
[[rule]]
id = "TEST-LICENCE"
effect = "forbid"
when = { org.flag = "needs-licence" }
code = "licence_required"
reason = { en = "a valid business licence is required" }
[[rule]]
id = "TEST-NOT-IN-EUROPE"
effect = "forbid"
when = { org.flag = "not-in-europe", target.zone = "eu" }
reason = { en = "not in this zone" }
"""


@dataclass
class Account:
    """One account of an organization of its own, with one deployment a model named like it, or those given."""

    name: str
    channel: str = "direct"
    territory: str = "JP"
    kyc: str = "approved"
    flag: str = ""
    state: str = "active"
    more: str = ""
    deployments: tuple[tuple[str, str, str], ...] = (("gpt-4o", "gpt-4o", "GlobalStandard"),)
    second_key: bool = False
    capacity: int = 1_000_000

    @property
    def key(self) -> str:
        return f"sk-{self.name}-0123456789abcdef"

    @property
    def key2(self) -> str:
        return f"sk-{self.name}-second-0123456789"

    def toml(self, number: int) -> str:
        guid = f"00000000-0000-0000-0000-{number:012x}"
        keys = f'key1 = "sha256:{sha256(self.key.encode()).hexdigest()}"'
        if self.second_key:
            keys += f', key2 = "sha256:{sha256(self.key2.encode()).hexdigest()}"'
        text = f"""
[[organization]]
name = "org-{self.name}"
legal_name = "The Organization of {self.name}"
territory = "{self.territory}"
entity_type = "enterprise"
kyc = "{self.kyc}"
screening = "clear"
flag = [{f'"{self.flag}"' if self.flag else ""}]
[[subscription]]
id = "{guid}"
organization = "org-{self.name}"
[[account]]
name = "{self.name}"
subscription = "{guid}"
resource_group = "rg"
location = "japaneast"
channel = "{self.channel}"
operator = "harbour"
state = "{self.state}"
keys = {{ {keys} }}
{self.more}
"""
        for name, model, sku in self.deployments:
            text += f"""[[account.deployment]]
name = "{name}"
model = "{model}"
version = "2024-11-20"
sku = "{sku}"
capacity = {self.capacity}
"""
        return text


@dataclass
class Upstream:
    """One `[[upstream]]` of a world. `models` maps ours (without the version) to what the upstream calls them."""

    name: str
    url: str
    models: dict[str, str] = field(default_factory=lambda: {"gpt-4o": "gpt-4o-upstream"})
    region: str = "japaneast"
    provider: str = "openai"
    priority: int = 1
    weight: int = 100
    api: str = "openai"
    timeouts: str = ""
    credential: str = "env:UPSTREAM_KEY"

    def toml(self) -> str:
        models = ", ".join(f'"{ours}@2024-11-20" = "{theirs}"' for ours, theirs in self.models.items())
        version = 'api_version = "2024-10-21"' if self.api == "azure" else ""
        base = self.url if self.api == "azure" else f"{self.url}/v1"
        timeouts = f"timeouts = {{ {self.timeouts} }}" if self.timeouts else ""
        return f"""
[[upstream]]
name = "{self.name}"
provider = "{self.provider}"
region = "{self.region}"
api = "{self.api}"
base_url = "{base}"
credential = "{self.credential}"
priority = {self.priority}
weight = {self.weight}
models = {{ {models} }}
{version}
{timeouts}
"""


@dataclass
class World:
    """A folder as an operator would write it. Change the fields and `write` again for an edit."""

    folder: Path
    upstreams: list[Upstream]
    accounts: list[Account]
    gateway: str = ""
    upstream_key: str = "sk-the-operators-own-fedcba9876543210"

    def text(self) -> str:
        parts = [
            '[gateway]\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\nterritory = "JP"\n',
            self.gateway,
            _CATALOGUE,
            *(upstream.toml() for upstream in self.upstreams),
            *(account.toml(number) for number, account in enumerate(self.accounts, 1)),
        ]
        return "".join(parts)

    def write(self) -> None:
        (self.folder / "packs").mkdir(parents=True, exist_ok=True)
        replace(self.folder / "packs" / "base.toml", BASE_PACK)
        replace(self.folder / "world.toml", self.text())

    @property
    def secrets(self) -> set[str]:
        return {self.upstream_key, *(a.key for a in self.accounts), *(a.key2 for a in self.accounts)}


def replace(path: Path, text: str) -> None:
    """Write a file so that nobody sees half of it."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Place:
    """Where to call: host, port, and how TLS is checked."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


def body_of(model: str | None = "gpt-4o", **more: Any) -> bytes:
    fields = {"messages": [{"role": "user", "content": CONTENT}], **more}
    return json.dumps({"model": model, **fields} if model is not None else fields).encode()


def ask(
    place: Place,
    path: str = "/v1/chat/completions",
    body: bytes | None = None,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    source: str = FROM_JP,
    timeout_s: float = 30,
) -> Answer:
    """One call on a connection of its own. `key` goes as a Bearer token; repeated answer headers are an error."""
    with opened(place, source, timeout_s) as connection:
        return asked(connection, path, body, key, headers, method=method)


@contextmanager
def opened(place: Place, source: str = FROM_JP, timeout_s: float = 30) -> Iterator[http.client.HTTPConnection]:
    connection: http.client.HTTPConnection
    if place.tls is None:
        connection = http.client.HTTPConnection(place.host, place.port, timeout=timeout_s, source_address=(source, 0))
    else:
        connection = http.client.HTTPSConnection("localhost", place.port, timeout=timeout_s, context=place.tls)
    try:
        yield connection
    finally:
        connection.close()


def asked(
    connection: http.client.HTTPConnection,
    path: str = "/v1/chat/completions",
    body: bytes | None = None,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
) -> Answer:
    """One call on an open connection."""
    sent = {"content-type": "application/json"} if body is not None else {}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    sent.update(headers or {})
    connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
    response = connection.getresponse()
    data = response.read()
    names = [name.lower() for name, _ in response.getheaders()]
    assert len(names) == len(set(names)), f"a header is repeated: {names}"
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)


def raw(place: Place, request: bytes, source: str = FROM_JP) -> socket.socket:
    """A socket on which `request` has been sent as it is."""
    sock = socket.create_connection((place.host, place.port), timeout=30, source_address=(source, 0))
    sock.sendall(request)
    return sock


def to_end(sock: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: sock.recv(65_536), b""))


def call_bytes(body: bytes, key: str, path: str = "/v1/chat/completions", more: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n{more}content-length: {len(body)}\r\n"
    )
    return head.encode() + b"\r\n" + body


def until(condition: Callable[[], Any], what: str, limit_s: float = 20.0) -> Any:
    """Wait for something that is true in a moment; its value."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)
    return value


class Gateway:
    """A running `entrepot gateway`, over the world's folder unless it follows a control plane (`--control` …)."""

    def __init__(self, world: World, home: Path, *arguments: str, tls: ssl.SSLContext | None = None) -> None:
        self.world = world
        self._out, self._err = home / "stdout", home / "stderr"
        self._audited = 0
        over = [] if "--control" in arguments else ["--world", str(world.folder)]
        command = [sys.executable, "-m", "entrepot", "gateway", *over, *arguments]
        environ = {
            **os.environ,
            "UPSTREAM_KEY": world.upstream_key,
            "PYTHONWARNINGS": "error",
            "PYTHONFAULTHANDLER": "1",
        }
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environ, cwd=home
            )
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (1_024, most))  # as a usual shell has it
        self.data = Place("127.0.0.1", 0, tls)
        self.admin = Place("127.0.0.1", 0)

    def ready(self) -> None:
        def serving() -> re.Match[str] | None:
            assert self.process.poll() is None, f"the gateway ended: {self.log}"
            return _SERVING.search(self._out.read_text())

        found = until(serving, "the gateway serves", START_S)
        self.data = Place(found[2], int(found[3]), self.data.tls)
        self.admin = Place(found[4], int(found[5]))

    @property
    def url(self) -> str:
        return f"{'http' if self.data.tls is None else 'https'}://{self.data.host}:{self.data.port}"

    @property
    def log(self) -> str:
        return self._out.read_text() + self._err.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log's lines; each is one JSON object."""
        return [json.loads(line) for line in self._err.read_text().splitlines()]

    def workers(self) -> list[int]:
        """Process ids of the workers, which are this process's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def readiness(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._holds_no_secret(ask(self.admin, "/readyz").body.decode()))
        return found

    def metrics(self) -> str:
        return self._holds_no_secret(ask(self.admin, "/metrics").body.decode())

    def metric(self, series: str) -> float:
        """The value of one series, written as in the exposition; 0 when it is not there yet."""
        for line in self.metrics().splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def revision(self, number: int, limit_s: float = 20.0) -> None:
        until(lambda: self.readiness()["revision"] >= number, f"revision {number} is served", limit_s)

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self, limit_s: float = STOP_S) -> int:
        return self.process.wait(limit_s)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            for pid in [*self.workers(), self.process.pid]:
                os.kill(pid, signal.SIGABRT)  # each says where it is
            self.process.wait()
            raise AssertionError(f"the gateway does not end: {self.log}") from None

    def audit(self) -> None:
        """No secret and no content in what was logged since the last look; no traceback either."""
        log = self.log
        new, self._audited = log[self._audited :], len(log)
        self._holds_no_secret(new)
        assert "traceback" not in new.lower(), new[-4_000:]

    def _holds_no_secret(self, text: str) -> str:
        for secret in {*self.world.secrets, CONTENT}:
            assert secret not in text, f"a secret was told: {text[:4_000]}"
        return text


@dataclass
class House:
    """`openai` is the upstream of almost everything, `azure` of the deployment `on-azure` alone."""

    gateway: Gateway
    openai: Sim
    azure: Sim
    accounts: dict[str, Account]

    def key(self, account: str = "kanto") -> str:
        return self.accounts[account].key


class Fleet:
    """All gateways that a test run started."""

    def __init__(self) -> None:
        self._running: list[Gateway] = []
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    @contextmanager
    def gateway(
        self, world: World, home: Path, *arguments: str, tls: ssl.SSLContext | None = None
    ) -> Iterator[Gateway]:
        """A gateway that serves, until the block ends."""
        home.mkdir(parents=True, exist_ok=True)
        gateway = Gateway(world, home, *arguments, tls=tls)
        self._running.append(gateway)
        try:
            gateway.ready()
            yield gateway
            if gateway.process.poll() is None:
                gateway.metrics()  # counts are never taken back: what must not be in them would be there still
        finally:
            gateway.stop()
            self._running.remove(gateway)
            gateway.audit()

    @contextmanager
    def gateways(self, world: World, homes: list[Path]) -> Iterator[list[Gateway]]:
        """Several over one world, started together. Those that a test has ended already are only looked at."""
        with ExitStack() as stack:
            for home in homes:
                home.mkdir(parents=True, exist_ok=True)
                gateway = Gateway(world, home)
                self._running.append(gateway)
                stack.callback(gateway.audit)
                stack.callback(self._running.remove, gateway)
                stack.callback(gateway.stop)
            for gateway in self._running[-len(homes) :]:
                gateway.ready()
            yield self._running[-len(homes) :]

    def audit(self) -> None:
        for gateway in self._running:
            gateway.audit()
