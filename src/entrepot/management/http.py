"""What all routes of the management plane share: matching, authentication, bodies, answers. No business of any one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes, urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from entrepot.errors import Code, Error
from entrepot.management.authorize import Caller, authenticate
from entrepot.wire import arm

if TYPE_CHECKING:
    from entrepot.management.control import Control

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")

PATH_BYTES = 8_192
BODY_BYTES = 4 * 1024 * 1024
DEPTH = 64
PAGE = 1_000
API_VERSION = "api-version"
_IN_PATHS = "/:@!$&'()*+,;=~"  # what needs no encoding there (RFC 3986 §3.3)
_VERSIONED = ("/subscriptions", "/providers", "/tenants")


class AnyCase(Route):
    """A route that is matched without regard to case; what stands for a name comes as it was written.

    `instead` tells whoever tries a method that the path does not have how it is done.
    """

    def __init__(self, method: str, path: str, handler: Handler, *, public: bool, instead: str) -> None:
        super().__init__(path, endpoint=handler if public else _authenticated(handler), methods=[method])
        # Without regard to the case of ASCII's letters only: the long s (U+017F) is an `s` to no other comparison here.
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE | re.ASCII)
        self.public = public
        self.instead = instead

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.methods))})
        await self.app(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path without needless slashes. Raises Error BAD_REQUEST for one whose segments could be read in two ways."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(raw) > PATH_BYTES:
        raise Error(Code.TARGET_TOO_LONG, f"the path is longer than {PATH_BYTES} bytes")
    lower = raw.lower()
    if b"%2f" in lower or b"%5c" in lower or b"\\" in raw:
        raise Error(Code.BAD_REQUEST, "the path holds an encoded slash or a backslash; a name cannot have one")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Error(Code.BAD_REQUEST, "the path is not UTF-8") from None
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise Error(Code.BAD_REQUEST, "the path holds a control character")
    if any(part in {".", ".."} for part in path.split("/")):
        raise Error(Code.BAD_REQUEST, "the path holds `.` or `..` as a segment")
    return "/" + path.strip("/")


def route(method: str, path: str, handler: Handler, *, public: bool = False, instead: str = "") -> Route:
    """`path` with `{name}`s. All but `public` routes have a caller, and those of ARM an api-version."""
    return AnyCase(method, path, handler, public=public, instead=instead)


def _authenticated(handler: Handler) -> Handler:
    async def endpoint(request: Request) -> Response:
        # What is part of a batch has its caller.
        found: Caller | None = getattr(request.state, "caller", None)
        if found is None:
            request.state.caller = found = await authenticate(request, peer_of(request))
        request.state.principal = found.actor.principal
        if request.url.path.lower().startswith(_VERSIONED) and not _versions(request):
            raise Error(
                Code.BAD_REQUEST,
                "The api-version query parameter (?api-version=) is required for all requests.",
                name="MissingApiVersionParameter",
            )
        return await handler(request)

    return endpoint


def _versions(request: Request) -> list[str]:
    return [value for key, value in request.query_params.multi_items() if key.lower() == API_VERSION and value]


def peer_of(request: Request) -> str:
    """The socket peer's address, without port."""
    return request.client.host if request.client is not None else ""


def control_of(request: Request) -> Control:
    found: Control = request.app.state.control
    return found


async def body(request: Request, *, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `optional`, nothing at all is an empty one. Raises Error: a 400 or 413."""
    try:
        data = await _read(request)
    except ClientDisconnect:
        raise Error(Code.BAD_REQUEST, "the request ended early") from None
    if not data.strip() and optional:
        return {}
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Error(Code.INVALID_BODY, f"the body is not JSON: {error}", name="InvalidRequestContent") from None
    if not isinstance(value, dict):
        raise Error(Code.INVALID_BODY, "the body is not a JSON object", name="InvalidRequestContent")
    _check(value, 0)
    return value


async def _read(request: Request) -> bytes:
    """No more than the limit is ever held, whatever `content-length` says."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES:
            raise Error(Code.BODY_TOO_LARGE, f"the body is larger than {BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _check(value: Any, depth: int) -> None:
    """Neither NUL, which PostgreSQL's text cannot hold, nor nesting that nobody means."""
    if depth > DEPTH:
        raise Error(Code.INVALID_BODY, f"the body is nested deeper than {DEPTH} levels", name="InvalidRequestContent")
    if isinstance(value, str):
        if "\0" in value:
            raise Error(Code.INVALID_BODY, "the body holds a NUL character", name="InvalidRequestContent")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check(key, depth)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON; `None` is no body."""
    content = b"" if value is None else msgspec.json.encode(value)
    return Response(content, status, headers, media_type="application/json" if content else None)


def paged(request: Request, rows: Sequence[T], render: Callable[[T], Any]) -> Response:
    """One page of `rows`: `$top` bounds it, `$skipToken` is what `nextLink` carried."""
    top = _number(request, "$top", PAGE)
    begin = _number(request, "$skiptoken", 0)
    end = begin + max(1, min(top, PAGE))
    link = None
    if end < len(rows):
        kept = [(key, value) for key, value in request.query_params.multi_items() if key.lower() != "$skiptoken"]
        path = quote(request.url.path, safe=_IN_PATHS)
        link = str(request.url.replace(path=path, query=urlencode([*kept, ("$skipToken", str(end))])))
    return answer(arm.page([render(row) for row in rows[begin:end]], link))


def _number(request: Request, name: str, default: int) -> int:
    for key, value in request.query_params.multi_items():
        if key.lower() == name:
            if not value.isascii() or not value.isdigit() or len(value) > 9:
                raise Error(Code.BAD_REQUEST, f"`{name}` is not a number", name="InvalidQueryParameter", param=name)
            return int(value)
    return default
