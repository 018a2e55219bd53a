"""What tests of the control plane share: a master key, a world put into it, an actor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from entrepot.management.changes import Actor, Change
from entrepot.management.control import Control
from entrepot.management.world import ref
from entrepot.policy import shipped, shipped_names
from entrepot.resources.documents import Document, documents_of
from entrepot.resources.ids import access_id, part
from entrepot.resources.load import load_world, read_world
from entrepot.resources.model import World
from entrepot.storage import MasterKey

MASTER = MasterKey(b"0123456789abcdef0123456789abcdef")
ADMIN = Actor("00000000-0000-4000-8000-000000000001", "admin", "req-1", "127.0.0.1")
DEMO = Path(__file__).resolve().parent.parent / "src" / "entrepot" / "demo_world"
RELEASE = access_id("policyRelease", "first")
BATCH = 500


def demo_world(upstream: str = "http://127.0.0.1:1/v1") -> World:
    filled = {b"LISTEN": b"127.0.0.1:0", b"ADMIN": b"127.0.0.1:0", b"ENGINE": upstream.encode()}
    files = read_world(DEMO)
    for word, value in filled.items():
        files = {name: data.replace(word, value) for name, data in files.items()}
    return load_world(files, {name.removeprefix("entrepot:"): shipped(name).data for name in shipped_names()}).world


def key_of(account: str, which: str = "key1") -> str:
    """The key that an account of these tests has."""
    return f"{account}-{which}-0123456789abcdef"


async def open_control(data: Path, url: str | None = None, *, name: str = "control") -> Control:
    await asyncio.to_thread(data.mkdir, parents=True, exist_ok=True)
    return await Control.open(data, url or f"sqlite:///{data / 'control.db'}", MASTER, name=name)


async def put_world(control: Control, world: World, credentials: Mapping[str, str] | None = None) -> None:
    """As an administrator would, but many resources at once."""
    documents = documents_of(world)
    for at in range(0, len(documents), BATCH):
        async with control.change(ADMIN, "test/write") as change:
            for document in documents[at : at + BATCH]:
                await put_document(change, document, credentials or {})
    if world.packs:
        async with control.change(ADMIN, "test/release") as change:
            await put_release(change, world)


async def put_release(change: Change, world: World, release: str = RELEASE, *, enforce: bool = True) -> None:
    packs = [{"name": pack.name, "text": pack.data.decode()} for pack in world.packs]
    body = {"properties": {"packs": packs, "state": "proposed"}}
    await change.put(change.draft(release, "policyRelease", body))
    if enforce:
        await change.enforce(release)


async def put_document(change: Change, document: Document, credentials: Mapping[str, str]) -> None:
    body = dict(document.body)
    subscription = part(document.id, "subscriptions")
    operator = body["properties"].get("operator") if document.kind in ("organization", "subscription") else None
    row = change.draft(document.id, document.kind, body, operator=operator, subscription=subscription)
    if document.kind == "upstream" and body["properties"].get("credential") == "secret":
        await change.put_secret(ref(document.id, "credential"), credentials[document.name].encode())
    await change.put(row)
    if document.kind == "account":
        for which in ("key1", "key2"):
            await change.put_secret(ref(document.id, which), key_of(document.name, which).encode())


def ids_of(documents: Iterable[Document], kind: str) -> dict[str, str]:
    return {each.name: each.id for each in documents if each.kind == kind}
