"""What the demo walks through: a running `entrepot serve`, two people who manage it, and its world put into it.

Every step is a command that its user would type; their answers are read as JSON.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from rich.console import Console

from entrepot.config import Config
from entrepot.errors import Code, Error
from entrepot.lifeline import ends_with_parent
from entrepot.management.roles import DEFINITIONS, OWNER, REVIEWER
from entrepot.resources.documents import documents_of
from entrepot.resources.folder import read_world
from entrepot.snapshot import publish_files

# Addresses of public networks, registered in the territory that they stand for; nothing is sent to them.
SHANGHAI: Final = "36.112.0.1"
TOKYO: Final = "133.242.0.1"
NOWHERE: Final = "203.0.113.9"  # reserved for documentation (RFC 5737): it is registered nowhere
GATEWAY: Final = "gateway-1"
START_S: Final = 90.0
_ACCESS: Final = "/providers/Entrepot.Access"
_BARRED: Final = "CannotDeployDueToLocalRegulations"


class Person(NamedTuple):
    """Somebody who can log in."""

    name: str
    client_id: str
    secret: str


class House(NamedTuple):
    """`config` has the data folder, and an environment with the keys that the world names."""

    config: Config
    world: Path
    console: Console

    async def entrepot(self, who: Person, *arguments: str) -> tuple[int, Any]:
        """Exit status and answer of a command, run as `who`. Raises Error where it says nothing that can be read."""
        command = [sys.executable, "-m", "entrepot", *arguments, "--data", str(self.config.data), "--json"]
        environ = {**self.config.environ, "ENTREPOT_CLIENT_ID": who.client_id, "ENTREPOT_CLIENT_SECRET": who.secret}
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # a Ctrl-C at the terminal is ours alone
        )
        try:
            answer, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        status = process.returncode or 0
        try:
            return status, msgspec.json.decode(answer)
        except msgspec.DecodeError:
            message = f"`entrepot {' '.join(arguments)}` failed; its messages are above"
            raise Error(Code.INTERNAL, message) from None


@asynccontextmanager
async def serving(house: House, ports: tuple[int, int, int]) -> AsyncIterator[dict[str, str]]:
    """`entrepot serve` as its user starts it, and its URLs. `ports` are wanted: data plane, metrics, management.

    It ends with the demo, also with one that was killed.
    """
    listen, admin, management = (f"127.0.0.1:{free_port(port)}" for port in ports)
    command = [sys.executable, "-m", "entrepot", "serve", "--data", str(house.config.data), "--territory", "JP"]
    command += ["--listen", listen, "--admin-listen", admin, "--management", management]
    log = house.world.parent / "serve.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(house.config.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            process_group=0,
            preexec_fn=ends_with_parent(),
        )
    try:
        assert process.stdout is not None
        urls = await asyncio.wait_for(_told(process.stdout), START_S)
        if "next" not in urls:
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
            raise Error(Code.NOT_READY, "\n".join(("`entrepot serve` did not start", *last)))
        urls["metrics"] = urls["metrics"].removesuffix("/metrics")
        out = house.console
        out.print(f"[bold]serve[/]    data plane {urls['data plane']}   management {urls['management']}")
        out.print(f"         metrics {urls['metrics']}/metrics   world {house.world}\n")
        yield urls
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _told(stdout: asyncio.StreamReader) -> dict[str, str]:
    """What `entrepot serve` says of itself, up to its last line or its end."""
    told: dict[str, str] = {}
    while "next" not in told and (line := (await stdout.readline()).decode()):
        name, _, value = line.strip().partition("   ")
        told[name.strip()] = value.strip()
        if name.startswith("next"):
            told["next"] = value
    return told


async def management_walk(house: House, url: str) -> None:
    """Steps 1 to 3: a policy, clients, and an eligibility that two people agree on."""
    out = house.console
    office = await asyncio.to_thread(Office, house.config.data, url)
    officer, reviewer = await asyncio.to_thread(
        lambda: (office.person("officer", OWNER), office.person("reviewer", REVIEWER))
    )

    out.print("[bold cyan]1. The operator opens: its catalogue, and a policy that two people agree on[/]")
    waiting = await _applied(house, officer, {})
    await _approved(house, reviewer, waiting)
    out.print()

    out.print("[bold cyan]2. Clients sign up: an enterprise and a person in mainland China, a company in Japan[/]")
    clients = files("entrepot") / "demo_world" / "clients.toml"
    (house.world / "clients.toml").write_bytes(clients.read_bytes())
    barred = {"robotics-ai/assistant": _BARRED, "li-lei-ai/assistant": _BARRED}
    waiting = await _applied(house, officer, {**barred, "meridian-direct/assistant": "UnsupportedTerritory"})
    out.print("   That machine might stand anywhere. The company in Japan asks itself, from Tokyo:")
    await asyncio.to_thread(office.deploy, house, "meridian-direct", TOKYO)
    out.print("   [green]deployed   meridian-direct/assistant[/]\n")

    out.print("[bold cyan]3. Two people make the enterprise eligible; the person's deployment stays refused[/]")
    await _approved(house, reviewer, waiting)
    await _applied(house, officer, {"li-lei-ai/assistant": _BARRED})
    out.print()


async def _applied(house: House, who: Person, refused: Mapping[str, str]) -> list[Mapping[str, str]]:
    """Put the world into the control plane. What waits for a second person; `refused`: codes of what is forbidden."""
    out = house.console
    out.print(f"   {who.name:<10} entrepot apply {house.world.name}")
    _, answer = await house.entrepot(who, "apply", str(house.world), "--yes")
    outcome = answer["outcome"] or {}
    failures = outcome.get("failures", [])
    for each in failures:
        out.print(f"   [red]refused    {each['name']}: {each['code']}[/]")
        out.print(f"              {each['lines'][0]}")
    waiting: list[Mapping[str, str]] = outcome.get("waiting", [])
    for each in waiting:
        out.print(f"   waits      {_about(each)}")
    out.print(f"   [green]done       {outcome.get('done', 0)} changes[/]")
    codes = {each["name"]: each["code"] for each in failures}
    if codes != refused:
        raise Error(Code.INTERNAL, f"`entrepot apply` ended otherwise than it should: {outcome}")
    return waiting


async def _approved(house: House, who: Person, waiting: list[Mapping[str, str]]) -> None:
    for each in waiting:
        house.console.print(f"   {who.name:<10} entrepot policy approve {each['name']}")
        status, answer = await house.entrepot(who, "policy", "approve", each["name"])
        if status != 0:
            raise Error(Code.INTERNAL, f"`{each['about']}` was not approved: {answer}")


def _about(waiting: Mapping[str, str]) -> str:
    """`eligibility: openai@cloud (organization yangtze-robotics)`; of a policy release the beginning of its hash."""
    kind, _, name = waiting["about"].partition(" ")
    return f"{kind} {name[:19]}…" if kind == "policyRelease" else f"{waiting['told']} ({kind} {name})"


class Office:
    """The administrator, over the management API. Every call takes a connection of its own."""

    def __init__(self, data: Path, url: str) -> None:
        told = msgspec.json.decode((data / "control.json").read_bytes())
        self._url, self._tls = url, ssl.create_default_context(cafile=told["ca"])
        secret = (data / "admin.secret").read_text(encoding="utf-8")
        form = {"grant_type": "client_credentials", "client_id": told["client_id"], "client_secret": secret}
        answer = httpx.post(f"{url}/adfs/oauth2/token", data=form, verify=self._tls, trust_env=False)
        self._token = _answer(answer)["access_token"]

    def person(self, name: str, role: str) -> Person:
        """A new principal with a role at the whole instance."""
        path = f"{_ACCESS}/principals/{name}"
        made = self._send("PUT", path, {"properties": {"displayName": name, "owner": name}})
        client_id = made["properties"]["appId"]
        secret = self._send("POST", f"{path}/newSecret", {})["secret"]
        assignment = {"roleDefinitionId": DEFINITIONS + role, "principalId": client_id}
        at = f"/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        self._send("PUT", at, {"properties": assignment})
        return Person(name, client_id, secret)

    def deploy(self, house: House, account: str, address: str) -> None:
        """What the world declares for the account, asked for from `address`."""
        declared = publish_files(read_world(house.world), house.config).world
        for each in documents_of(declared):
            if each.kind == "deployment" and f"/accounts/{account}/" in each.id:
                self._send("PUT", each.id, each.body, address)

    def _send(self, method: str, path: str, body: Any, address: str | None = None) -> Any:
        headers = {"authorization": f"Bearer {self._token}"}
        if address is not None:
            headers["x-forwarded-for"] = address
        query = {"api-version": "2026-11-01"}
        url = f"{self._url}{path}"
        return _answer(
            httpx.request(
                method, url, params=query, json=body, headers=headers, verify=self._tls, timeout=30, trust_env=False
            )
        )


def _answer(response: httpx.Response) -> Any:
    if not response.is_success:
        raise Error(Code.INTERNAL, f"{response.request.method} {response.request.url}: {response.text}")
    return response.json()


def free_port(wanted: int) -> int:
    """`wanted` if nobody has it, else one below those that the system gives to outgoing connections."""
    others = (random.randrange(20_000, 32_000) for _ in range(100))  # noqa: S311 - a port is no secret
    for port in (wanted, *others):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Error(Code.NOT_READY, "no port is free on 127.0.0.1")
