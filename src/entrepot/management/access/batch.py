"""Many writes as one change: what each would do alone, by the same routes, but one transaction, entry and publication.

For whoever applies a world's files. All or nothing: the first one that is refused takes the others with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from entrepot.errors import Code, Detail, Error
from entrepot.management import http
from entrepot.management.access.collections import ROOT
from entrepot.management.access.envelope import invalid
from entrepot.management.authorize import INSTANCE, authenticate, caller, require
from entrepot.resources.ids import ACCESS

PATH: Final = f"{ROOT}/batch"
BATCH: Final = f"{ACCESS}/batch/write/action"
MOST: Final = 200
# What does not stand for itself on the ledger, nor gives anybody rights, by the routes that serve it.
_TOGETHER: Final = frozenset(
    f"{ROOT}/{collection}/{{name}}"
    for collection in ("operators", "regions", "providers", "models", "upstreams", "sites", "organizations", "settings")
)
_POSTED: Final = ("/setKeys", "/suspend")
_KNOWN: Final = frozenset({"method", "path", "body", "ifMatch", "ifNoneMatch"})


def routes() -> list[Route]:
    return [http.route("POST", PATH, _batch)]


async def _batch(request: Request) -> Response:
    """`{requests: [{method, path, body, ifMatch?, ifNoneMatch?}]}` → `{value: [{status, error?}]}`, in their order.

    A deployment that the policy forbids has that answer, with the decision's id, and the others stand.
    """
    who, control = caller(request), http.control_of(request)
    require(who, BATCH, (PATH.lower(), INSTANCE))
    asked = _requests(await http.body(request))
    found = [_routed(request, at, each) for at, each in enumerate(asked)]
    told: list[dict[str, Any]] = []
    async with control.shared(who.actor, BATCH) as change:
        # Once for all, and now: until the end of the change nobody can take a role from the caller.
        who = await authenticate(request, http.peer_of(request))
        named = [inner.path_params for _, inner in found]
        await change.hold(
            (each["subscription"] for each in named if "subscription" in each),
            (inner.scope["path"] for _, inner in found),
            (each["account"] for each in named if "account" in each),
        )
        for at, (route, inner) in enumerate(found):
            inner.state.caller = who
            try:
                answer: Response = await route.endpoint(inner)
            except Error as error:
                message = f"{asked[at]['path']}: {error.message}"
                details = (Detail(error.name, message, f"requests[{at}]"), *error.details)
                raise Error(error.code, message, name=error.name, details=details) from error
            refused = msgspec.json.decode(answer.body) if answer.status_code >= 400 else {}
            told.append({"status": answer.status_code, **refused})
    return http.answer({"value": told})


def _requests(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = body.get("requests")
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST:
        raise invalid([Detail("InvalidProperty", f"expected an array of 1 to {MOST} requests", "requests")])
    problems = []
    for at, each in enumerate(listed):
        if not isinstance(each, dict) or each.keys() - _KNOWN or not isinstance(each.get("body", {}), dict):
            problems.append((at, "expected `{method, path, body}`, perhaps with `ifMatch` or `ifNoneMatch`"))
        elif not all(isinstance(each.get(key, ""), str) for key in ("method", "path", "ifMatch", "ifNoneMatch")):
            problems.append((at, "expected strings"))
    if problems:
        raise invalid([Detail("InvalidProperty", message, f"requests[{at}]") for at, message in problems])
    return listed


def _allowed(method: str, path: str) -> bool:
    """By the route's own path, so that no spelling of the request's gets round it."""
    if method in {"PUT", "PATCH"}:
        return path in _TOGETHER or (path.startswith("/subscriptions/") and "/Microsoft.Authorization/" not in path)
    return method == "POST" and path.startswith("/subscriptions/") and path.endswith(_POSTED)


def _routed(request: Request, at: int, each: Mapping[str, Any]) -> tuple[Route, Request]:
    """The route of one of them, and its request: with the headers of the batch, but for conditions of its own."""
    kept = [pair for pair in request.scope["headers"] if not pair[0].startswith((b"if-", b"content-"))]
    for key, header in (("ifMatch", b"if-match"), ("ifNoneMatch", b"if-none-match")):
        if each.get(key):
            kept.append((header, each[key].encode("latin-1", "replace")))
    path, method = each.get("path", ""), each.get("method", "")
    state = dict(request.scope.get("state", {}))
    scope = {**request.scope, "method": method, "raw_path": path.encode("utf-8", "replace"), "headers": kept}
    scope |= {"state": state, "path_params": {}}
    scope["path"] = http.path_of(scope)
    for route in request.app.routes:
        matched, more = route.matches(scope)
        if matched is Match.FULL and isinstance(route, Route):
            if not _allowed(method, route.path):
                problem = "this cannot be done in a batch; send it by itself"
                raise invalid([Detail("InvalidProperty", problem, f"requests[{at}]")])
            return route, Request({**scope, **more}, _body(each.get("body", {})))
    problem = f"`{method[:20]} {path[:200]}` is nothing that is served here"
    raise Error(Code.NOT_FOUND, problem, name="ResourceNotFound", param=f"requests[{at}]")


def _body(value: Mapping[str, Any]) -> Any:
    data = msgspec.json.encode(value)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive
