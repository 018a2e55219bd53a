"""The two keys of an account: shown to who may, and made anew one at a time."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management import world
from entrepot.management.arm import texts
from entrepot.management.arm.accounts import KEYS, new_key
from entrepot.management.arm.fields import Fields
from entrepot.management.arm.where import account_at
from entrepot.management.http import answer, body, route
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import EVERYTHING, Row

_A = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{COGNITIVE}/accounts/{{account}}"


def routes() -> list[Route]:
    return [
        route("POST", f"{_A}/listKeys", list_keys),
        route("POST", f"{_A}/regenerateKey", regenerate),
    ]


async def list_keys(request: Request) -> Response:
    where = await account_at(request, f"{texts.ACCOUNTS}/listKeys/action")
    row = await where.account(request.path_params["group"], request.path_params["account"])
    _check_enabled(row, "list")
    found = await where.control.store.secrets(f"{row.id.lower()}/")
    return _answered(row, found)


async def regenerate(request: Request) -> Response:
    """The old key is refused on every connected gateway within a second of the answer; the other key goes on."""
    where = await account_at(request, f"{texts.ACCOUNTS}/regenerateKey/action")
    where.writable()
    row = await where.account(request.path_params["group"], request.path_params["account"])
    given = await body(request)
    fields = Fields()
    name = fields.choice(given, "keyName", ("Key1", "Key2"))
    if name is None and given.get("keyName") is None:
        fields.mistake("keyName", "it is missing", "write `Key1` or `Key2`")
    fields.finish()
    assert name is not None
    _check_enabled(row, "regenerate")
    async with where.control.change(where.caller.actor, f"{texts.ACCOUNTS}/regenerateKey/action") as change:
        held = await change.get(EVERYTHING, row.id)
        if held is None:
            raise texts.resource_missing(texts.ACCOUNTS, row.name, request.path_params["group"])
        await change.put_secret(world.ref(row.id, name.lower()), new_key())
        await change.put(
            change.draft(held.id, "account", held.body, operator=held.operator, subscription=held.subscription)
        )
    return _answered(row, await where.control.store.secrets(f"{row.id.lower()}/"))


def _check_enabled(row: Row, what: str) -> None:
    if row.body.get("properties", {}).get("disableLocalAuth"):
        raise texts.keys_disabled(what)


def _answered(row: Row, found: dict[str, bytes]) -> Response:
    """A key of which only the hash was ever given is null: nobody here knows it."""
    value: dict[str, Any] = {}
    for key in KEYS:
        secret = found.get(world.ref(row.id, key))
        if secret is None:
            raise Error(Code.INTERNAL, f"the account `{row.name}` has no {key}")
        value[key] = None if world.HASHED_KEY.fullmatch(secret.decode()) else secret.decode()
    return answer(value, headers={"cache-control": "no-store"})
