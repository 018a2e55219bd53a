"""A control plane on a real socket, with the application that is served and a small world of two operators."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from entrepot.management import secret, world
from entrepot.management.access.releases import compiled, pack_sources, stored
from entrepot.management.app import app
from entrepot.management.authority import Site
from entrepot.management.changes import ITSELF, Change
from entrepot.management.control import Control
from entrepot.management.issuing import TOKEN_KEY, data_audiences, generate_key, issuer_of, public_keys
from entrepot.management.roles import CONTRIBUTOR, DEFINITIONS, OWNER, READER
from entrepot.resources.ids import SETTINGS, access_id, subscription_id
from entrepot.storage import MasterKey
from tenancies import watched

SECRET = "ep-of-the-tests"
NORTH = "11111111-0000-4000-8000-000000000001"  # subscriptions, each of an operator
SOUTH = "22222222-0000-4000-8000-000000000002"
PERSON = "33333333-0000-4000-8000-000000000003"  # of an individual in mainland China
VERSION = {"api-version": "2025-09-01"}

# Who can log in: their roles, and where.
PRINCIPALS: Mapping[str, tuple[str, str]] = {
    "admin": (OWNER, "/"),
    "north-staff": (OWNER, access_id("operator", "north")),
    "south-staff": (OWNER, access_id("operator", "south")),
    "north-tenant": (OWNER, subscription_id(NORTH)),
    "south-tenant": (OWNER, subscription_id(SOUTH)),
    "person": (OWNER, subscription_id(PERSON)),
    "north-reader": (READER, subscription_id(NORTH)),
    "one-group": (CONTRIBUTOR, f"{subscription_id(NORTH)}/resourceGroups/shared"),
}
CLIENTS = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in PRINCIPALS}

_PACKS = ("entrepot:base", "entrepot:azure-openai-mainland-china", "entrepot:regional-residency")


class Client(httpx.Client):
    """Adds the api-version, as every client of the real service does, but to a link that has one."""

    def request(self, method: str, url: httpx.URL | str, **more: Any) -> httpx.Response:
        if "api-version=" not in str(url):
            more["params"] = {**VERSION, **(more.get("params") or {})}
        return super().request(method, url, **more)


class Plane:
    """`url` is the control plane's. `of(name)` is a client that is logged in as that principal."""

    def __init__(self, url: str, tenant: str, app: Any, run: Callable[[Any], Any], verify: Any) -> None:
        self.run = run  # a coroutine, in the control plane's loop
        self.app = app
        self.url = url
        self.tenant = tenant
        self.control: Control = app.state.control
        self._verify = verify
        self._clients: dict[str, Client] = {}

    def of(self, name: str) -> Client:
        if name not in self._clients:
            form = {"grant_type": "client_credentials", "client_id": CLIENTS[name], "client_secret": SECRET}
            answer = httpx.post(f"{self.url}/adfs/oauth2/token", data=form, verify=self._verify)
            assert answer.status_code == 200, answer.text
            headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
            self._clients[name] = Client(base_url=self.url, headers=headers, verify=self._verify, timeout=30)
        return self._clients[name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@contextmanager
def plane(folder: Path, *, tls: tuple[str, str] | None = None, ca: Any = None) -> Iterator[Plane]:
    """Served in a thread with a loop of its own; every statement is watched. `tls`: certificate's and key's file."""
    with watched():
        yield from _plane(folder, tls, ca)


def _plane(folder: Path, tls: tuple[str, str] | None, ca: Any) -> Iterator[Plane]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="control plane", daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "https" if tls else "http"
    url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    control = server = serving = made = None
    try:
        control = run(_open(folder, url))
        tenant = run(control.store.instance())
        site = Site(url, "http://127.0.0.1:8080", tenant)
        served = run(app(control, site))
        config = uvicorn.Config(
            served,
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=2,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )
        server = uvicorn.Server(config)
        serving = asyncio.run_coroutine_threadsafe(server.serve(sockets=[listener]), loop)
        while not server.started:
            time.sleep(0.01)
            assert not serving.done(), serving.exception()
        made = Plane(url, tenant, served, run, ca or True)
        yield made
    finally:
        if made is not None:
            made.close()
        if server is not None and serving is not None:
            run(_cut(server))
            server.should_exit = True
            serving.result(30)
        if control is not None:
            run(control.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
        listener.close()


async def _cut(server: uvicorn.Server) -> None:
    """What clients left open: over TLS, an end in good manners waits for the other side."""
    for connection in list(server.server_state.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def _open(folder: Path, url: str) -> Control:
    master = MasterKey.from_file(folder / "master.key")
    control = await Control.open(folder, f"sqlite:///{folder / 'control.db'}", master)
    if await control.store.secret(TOKEN_KEY) is None:
        async with control.change(ITSELF, "test/first") as change:
            await _begin(change, url)
    return control


async def _begin(change: Change, url: str) -> None:
    key = generate_key()
    await change.put_secret(TOKEN_KEY, key)
    issuer = {"url": issuer_of(url), "keys": public_keys(key), "audiences": data_audiences()}
    await _put(change, SETTINGS, "settings", {"issuer": issuer})
    await _catalogue(change)
    await _contracts(change)
    for name, (role, scope) in PRINCIPALS.items():
        id_ = access_id("principal", name)
        await _put(change, id_, "principal", {"appId": CLIENTS[name], "displayName": name, "state": "Enabled"}, "")
        await change.put_secret(world.ref(id_, "secret"), secret.kept(SECRET, int(time.time() * 1_000)))
        assignment = f"{scope.rstrip('/')}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        properties = {"roleDefinitionId": DEFINITIONS + role, "principalId": CLIENTS[name], "scope": scope}
        await _put(change, assignment, "roleAssignment", properties, "")
    sources = pack_sources(list(_PACKS))
    release = access_id("policyRelease", compiled(sources, "2026-11-22")[0].release)
    await _put(change, release, "policyRelease", {"packs": stored(sources), "state": "scheduled"})
    await change.enforce(release)


async def _catalogue(change: Change) -> None:
    for name, territory in (("north", "SE"), ("south", "JP")):
        properties = {"legalName": name, "territory": territory}
        await _put(change, access_id("operator", name), "operator", properties, name)
    for name, territory, operator, zones in (
        ("swedencentral", "SE", "north", ["eu"]),
        ("francecentral", "FR", "north", ["eu"]),
        ("japaneast", "JP", "south", []),
    ):
        properties = {"territory": territory, "operator": operator, "zones": zones}
        await _put(change, access_id("region", name), "region", properties)
    await _put(change, access_id("provider", "openai"), "provider", {})
    for name, region, models in (
        ("up-sweden", "swedencentral", ["gpt-4o@2024-05-13", "gpt-4o@2024-11-20"]),
        ("up-japan", "japaneast", ["gpt-4o@2024-11-20", "text-embedding-3-large@1"]),
    ):
        properties = {
            "provider": "openai",
            "region": region,
            "api": "openai",
            "baseUrl": "http://127.0.0.1:9",
            "credential": "none",
            "models": {model: model.partition("@")[0] for model in models},
        }
        operator = "north" if region == "swedencentral" else "south"
        await _put(change, access_id("upstream", name), "upstream", properties, operator)
    for name in ("gpt-4o@2024-05-13", "gpt-4o@2024-11-20", "text-embedding-3-large@1"):
        await _put(change, access_id("model", name), "model", {"provider": "openai"})


async def _contracts(change: Change) -> None:
    for name, operator, territory, entity in (
        ("northwind", "north", "SE", "enterprise"),
        ("southwind", "south", "JP", "enterprise"),
        ("person", "south", "CN", "individual"),
    ):
        properties = {
            "legalName": name,
            "operator": operator,
            "territory": territory,
            "entityType": entity,
            "kyc": "approved",
            "screening": "clear",
        }
        await _put(change, access_id("organization", name), "organization", properties, operator)
    for name, operator, organization in (
        (NORTH, "north", "northwind"),
        (SOUTH, "south", "southwind"),
        (PERSON, "south", "person"),
    ):
        properties = {
            "displayName": organization,
            "organization": organization,
            "operator": operator,
            "channel": "cloud",
            "quotas": {"OpenAI.GlobalStandard.gpt-4o": 100},
        }
        await _put(change, subscription_id(name), "subscription", properties, operator, name)


async def _put(
    change: Change,
    id_: str,
    kind: str,
    properties: dict[str, Any],
    operator: str | None = None,
    subscription: str | None = None,
) -> None:
    draft = change.draft(id_, kind, {"properties": properties}, operator=operator, subscription=subscription)
    await change.put(draft)
