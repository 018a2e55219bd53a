"""The collections of `Entrepot.Access`: list, read, create or replace, merge into, delete. One way for all of them.

What a kind has of its own (who may write it, what the system fills in) is in `writing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Detail, Error
from entrepot.management import enrol, http, publish
from entrepot.management.access import envelope, gateways, writing
from entrepot.management.access.fitting import fit
from entrepot.management.access.instants import iso
from entrepot.management.access.merge import merge
from entrepot.management.authorize import INSTANCE, caller, chain_from, chain_of, may, not_found, require
from entrepot.resources import values
from entrepot.resources.ids import ACCESS, COLLECTIONS, access_id
from entrepot.storage import EVERYTHING, Row

ROOT: Final = f"/providers/{ACCESS}"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_METHODS: Final = ("GET", "PUT", "PATCH", "DELETE")


class Collection(NamedTuple):
    """`pattern` is the form of a name; `methods` are those of one resource, each list has only GET."""

    kind: str
    pattern: str = _NAME
    methods: tuple[str, ...] = _METHODS
    instead: str = ""

    @property
    def name(self) -> str:
        return COLLECTIONS[self.kind]


COLLECTED: Final = (
    Collection("operator"),
    Collection("region"),
    Collection("provider"),
    Collection("model", rf"{values.MODEL.replace('/', '')}@{values.VERSION}"),
    Collection("upstream"),
    Collection("site", r"[0-9a-f][0-9a-f.:]{1,44}-[0-9]{1,3}"),
    Collection("organization"),
    Collection("gateway", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    Collection("settings", "default", ("GET", "PUT", "PATCH")),
    Collection(
        "policyRelease",
        r"sha256:[0-9a-f]{64}",
        ("GET",),
        "a policy release is proposed by one person and approved by another: PUT "
        f"{ROOT}/proposals/{{guid}} with `kind` `policyRelease`",
    ),
)


def routes() -> list[Route]:
    found = [route for each in COLLECTED for route in _routes(each)]
    return [*found, http.route("POST", f"{ROOT}/gateways/{{name}}/enrol", _enrol)]


def _routes(collection: Collection) -> list[Route]:
    many, one = f"{ROOT}/{collection.name}", f"{ROOT}/{collection.name}/{{name}}"
    makers = {"GET": _get, "PUT": _put, "PATCH": _patch, "DELETE": _delete}
    instead = collection.instead
    found = [http.route(method, one, makers[method](collection), instead=instead) for method in collection.methods]
    return [http.route("GET", many, _list(collection)), *found]


def _list(collection: Collection) -> http.Handler:
    async def handle(request: Request) -> Response:
        who, control = caller(request), http.control_of(request)
        rows = await control.store.list(who.tenancy, collection.kind)
        action = f"{ACCESS}/{collection.name}/read"
        await _look(request, collection)
        return http.paged(request, [row for row in rows if may(who, action, chain_of(row))], _shower(request))

    return handle


def _get(collection: Collection) -> http.Handler:
    async def handle(request: Request) -> Response:
        who, control = caller(request), http.control_of(request)
        id = _id(request, collection, not_found)  # noqa: A001
        row = await control.store.get(who.tenancy, id)
        if row is None:
            raise not_found(id)
        require(who, f"{ACCESS}/{collection.name}/read", chain_of(row))
        await _look(request, collection)
        return envelope.answer(row, _shower(request)(row))

    return handle


async def _look(request: Request, collection: Collection) -> None:
    """Whether gateways believe what they are to believe is said of the keys as they are now."""
    if collection.kind == "gateway":
        await publish.keys_of(request)


def _shower(request: Request) -> Callable[[Row], dict[str, Any]]:
    control = http.control_of(request)

    def show(row: Row) -> dict[str, Any]:
        properties = gateways.shown(control, row) if row.kind == "gateway" else None
        return envelope.shown(row, properties)

    return show


def _put(collection: Collection) -> http.Handler:
    async def handle(request: Request) -> Response:
        body = merge({}, envelope.sent(await http.body(request)))  # null is what is not there
        return await _written(request, collection, lambda _: body)

    return handle


def _patch(collection: Collection) -> http.Handler:
    async def handle(request: Request) -> Response:
        patch = envelope.sent(await http.body(request), patch=True)

        def merged(before: Row | None) -> dict[str, Any]:
            if before is None:
                raise not_found(_id(request, collection, _misnamed))
            found: dict[str, Any] = merge(before.body, patch)
            return found

        return await _written(request, collection, merged)

    return handle


async def _written(request: Request, collection: Collection, make: Callable[[Row | None], dict[str, Any]]) -> Response:
    who, control = caller(request), http.control_of(request)
    id = _id(request, collection, not_found if request.method == "PATCH" else _misnamed)  # noqa: A001
    async with control.change(who.actor, f"{ACCESS}/{collection.name}/write") as change:
        before = await change.get(EVERYTHING, id)  # names are the instance's: whose it is, is asked next
        if before is not None:
            require(who, f"{ACCESS}/{collection.name}/read", chain_of(before))
        write = writing.Write(who, change, id, _last(id), before, make(before))
        operator = await writing.prepare(collection.kind, write)
        envelope.check_conditions(request, before)
        fit(collection.kind, id, write.body)
        row = await change.put(change.draft(id, collection.kind, write.body, operator=operator))
    return envelope.answer(row, _shower(request)(row), 200 if before is not None else 201)


def _delete(collection: Collection) -> http.Handler:
    async def handle(request: Request) -> Response:
        who, control = caller(request), http.control_of(request)
        id = _id(request, collection, not_found)  # noqa: A001
        action = f"{ACCESS}/{collection.name}/delete"
        async with control.change(who.actor, action) as change:
            before = await change.get(EVERYTHING, id)
            # Only who sees everything may learn from a 204 that there is nothing.
            require(who, action, chain_from(id, None) if before is None else chain_of(before))
            envelope.check_conditions(request, before)
            if before is None:
                return http.answer(None, 204)
            await writing.prepare_removal(writing.Write(who, change, id, before.name, before, {}))
            await change.delete(id)
            await change.forget_secrets(f"{id.lower()}/")
        return http.answer(None)

    return handle


async def _enrol(request: Request) -> Response:
    who, control = caller(request), http.control_of(request)
    name = request.path_params["name"]
    id = access_id("gateway", name)  # noqa: A001
    row = await control.store.get(who.tenancy, id)
    require(who, f"{ACCESS}/gateways/enrol/action", (id.lower(), INSTANCE))
    if row is None:
        raise not_found(id)
    token, expires_ms = await enrol.make_token(control, who.actor, row.name)
    return http.answer({"token": token, "expiresAt": iso(expires_ms)})


def _id(request: Request, collection: Collection, otherwise: Callable[[str], Error]) -> str:
    name: str = request.path_params["name"]
    id = access_id(collection.kind, name)  # noqa: A001
    if not re.fullmatch(collection.pattern, name):
        raise otherwise(id)
    return id


def _misnamed(id: str) -> Error:  # noqa: A002
    name = _last(id)
    return envelope.invalid([Detail("InvalidName", f"`{name[:80]}` is no name here; see `docs/access-api.md`", "name")])


def _last(id: str) -> str:  # noqa: A002
    return id.rpartition("/")[2]
