"""What the instance holds as a world declares it, read in bulk; and accounts' keys, set to what such files say.

For whoever keeps an instance as files: its own staff. A tenant makes new keys, it never chooses one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Detail, Error
from entrepot.management import http
from entrepot.management.access.collections import ROOT
from entrepot.management.access.envelope import invalid
from entrepot.management.authorize import INSTANCE, caller, chain_of, may, not_found, require
from entrepot.management.world import HASHED_KEY, ref
from entrepot.resources.ids import ACCESS, COGNITIVE, COLLECTIONS, access_id, account_id
from entrepot.snapshot import Published
from entrepot.storage import Row
from entrepot.wire import arm

PATH: Final = f"{ROOT}/declared"
KEYS_PATH: Final = (
    f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{COGNITIVE}/accounts/{{account}}/setKeys"
)
EXPORT: Final = f"{ACCESS}/declared/export/action"
SET_KEYS: Final = f"{ACCESS}/accounts/setKeys/action"
# What `resources.documents` makes of a world, and what stands beside it.
KINDS: Final = frozenset({*COLLECTIONS, "subscription", "resourceGroup", "account", "deployment"}) - {
    "principal",
    "proposal",
}
PAGE: Final = 2_000
_KEY: Final = re.compile(r"[\x21-\x7e]{8,512}")
_KEYS: Final = ("key1", "key2")


def routes() -> list[Route]:
    return [http.route("GET", PATH, _list), http.route("POST", KEYS_PATH, _set_keys)]


async def _list(request: Request) -> Response:
    """All rows by their ids, with digests of their secrets; a page reads the database once."""
    who, control = caller(request), http.control_of(request)
    require(who, EXPORT, (PATH.lower(), INSTANCE))
    after = next((value for key, value in request.query_params.multi_items() if key.lower() == "$skiptoken"), "")
    rows = await control.store.list(who.tenancy, "", limit=PAGE, after=after)
    digests = digests_of(control.published) if rows else {}
    told = [_told(row, digests.get(row.id.lower(), {})) for row in rows if row.kind in KINDS and _stands(row)]
    more = None
    if len(rows) == PAGE:
        more = str(request.url.include_query_params(**{"$skipToken": rows[-1].id}))
    return http.answer(arm.page(told, more), headers={"cache-control": "no-store"})


def _stands(row: Row) -> bool:
    """Of policy releases only the one in force: there may be hundreds, each with all its text."""
    return row.kind != "policyRelease" or bool(row.body["properties"].get("state") == "inForce")


def _told(row: Row, digests: Mapping[str, str]) -> dict[str, Any]:
    told = {"kind": row.kind, "id": row.id, "name": row.name, "etag": row.etag, "body": row.body}
    return told | ({"digests": dict(digests)} if digests else {})


def digests_of(published: Published) -> dict[str, dict[str, str]]:
    """By id in lower case: of an account's keys as a world names them, of an upstream's credential with its place.

    The place is hashed with it, so that two upstreams with the same credential do not look alike.
    """
    found: dict[str, dict[str, str]] = {}
    for account in published.world.accounts:
        id_ = account_id(account.subscription, account.resource_group, account.name).lower()
        keys = {"key1": account.keys.key1, "key2": account.keys.key2}
        found[id_] = {name: value for name, value in keys.items() if value is not None}
    for upstream in published.world.upstreams:
        if (value := published.secrets.get(upstream.credential)) is not None:
            place = ref(access_id("upstream", upstream.name), "credential")
            found[access_id("upstream", upstream.name).lower()] = {"credential": credential_digest(place, value)}
    return found


def credential_digest(place: str, value: str) -> str:
    """Of an upstream's credential; `place` is where it stands in the store of secrets."""
    return "sha256:" + sha256(f"{place}\n{value}".encode()).hexdigest()


async def _set_keys(request: Request) -> Response:
    """`{key1?, key2?}`: each the key itself, or `sha256:HEX` of one that only the client has; that is never shown."""
    who, control = caller(request), http.control_of(request)
    names = request.path_params
    id = account_id(names["subscription"], names["group"], names["account"])  # noqa: A001
    given = _keys(await http.body(request))
    async with control.change(who.actor, SET_KEYS) as change:
        row = await change.get(who.tenancy, id)
        if row is None or row.kind != "account":
            raise not_found(id)
        if not may(who, SET_KEYS, chain_of(row)):
            require(who, f"{COGNITIVE}/accounts/read", chain_of(row))
            raise Error(
                Code.ACCESS_DENIED,
                "only the staff of its operator sets an account's keys; make a new one with `regenerateKey`",
                name="AuthorizationFailed",
            )
        for name, value in given.items():
            await change.put_secret(ref(row.id, name), value.encode())
    return http.answer({"id": row.id, "name": row.name, "set": sorted(given)}, headers={"cache-control": "no-store"})


def _keys(body: Mapping[str, Any]) -> dict[str, str]:
    problems = [
        Detail("InvalidProperty", f"unknown key `{key}`; write `key1`, `key2`", key) for key in body if key not in _KEYS
    ]
    found: dict[str, str] = {}
    for name in _KEYS:
        value = body.get(name)
        if value is None:
            continue
        plain = isinstance(value, str) and not value.startswith("sha256:") and _KEY.fullmatch(value)
        if not plain and not (isinstance(value, str) and HASHED_KEY.fullmatch(value)):
            fix = (
                "expected a key of 8 to 512 printable characters without spaces, or `sha256:` and 64 digits of its hash"
            )
            problems.append(Detail("InvalidProperty", fix, name))
        else:
            found[name] = value
    if not found and not problems:
        problems.append(Detail("InvalidProperty", "expected `key1`, `key2` or both", "key1"))
    if found.get("key1") is not None and found.get("key1") == found.get("key2"):
        problems.append(Detail("InvalidProperty", "both keys are the same; make another second key", "key2"))
    if problems:
        raise invalid(problems)
    return found
