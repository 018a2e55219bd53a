"""The control plane as one ASGI application: routes collected, errors rendered, each request on one line of the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.management import (
    access,
    arm,
    assignments,
    authority,
    enrol,
    graph,
    metrics,
    principals,
    publish,
    shipping,
)
from entrepot.management.arm.deleted import purge_due
from entrepot.management.authority import Authority, Site
from entrepot.management.authorize import Directory
from entrepot.management.control import Control
from entrepot.management.http import AnyCase, path_of
from entrepot.management.keyring import Keyring
from entrepot.telemetry.metrics import Metrics
from entrepot.wire.arm import problem, problem_headers

CHORES_S = 120.0

log = logging.getLogger(__name__)


async def app(control: Control, site: Site) -> Starlette:
    """Raises Error where the first start was never finished."""
    directory = Directory(control.store)
    found = await Authority.open(control.store, site, directory)
    made = Starlette(
        routes=[
            *authority.routes(),
            *enrol.routes(),
            *publish.routes(),
            *shipping.routes(),
            *metrics.routes(),
            *assignments.routes(),
            *principals.routes(),
            *graph.routes(),
            *arm.routes(),
            *access.routes(),
        ],
        middleware=[Middleware(Edge)],
        exception_handlers={Error: _told, HTTPException: _framework},
        lifespan=_living,
    )
    made.router.redirect_slashes = False
    made.state.control = control
    made.state.metrics = Metrics(metrics.CATALOGUE)
    made.state.shipments = shipping.Shipments(control.data)
    made.state.directory = directory
    made.state.keyring = Keyring(control.store, control.authority.parent)
    made.state.authority = found
    made.state.tenant = site.tenant
    made.state.data_url = site.data_url
    return made


@contextlib.asynccontextmanager
async def _living(made: Starlette) -> AsyncIterator[None]:
    chores = asyncio.create_task(_chores(made.state.control))
    try:
        yield
    finally:
        chores.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await chores


async def _chores(control: Control) -> None:
    """What time alone makes due: soft-deleted accounts are purged when their days are over."""
    while True:
        try:
            await purge_due(control, wall_clock_ms())
        except Exception:
            log.exception("what was due could not be done; it is tried again")
        await asyncio.sleep(CHORES_S)


class Edge:
    """Every request gets its ids; none leaves without an answer in ARM's form, and each leaves one line in the log."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        begun = time.monotonic()
        request = Request(scope, receive)
        state = request.state
        state.request_id = str(uuid.uuid4())
        state.correlation_id = _guid(request.headers.get("x-ms-correlation-request-id")) or state.request_id
        state.principal = None
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _mark(MutableHeaders(scope=message), state.request_id, state.correlation_id)
            await send(message)

        try:
            scope["path"] = path_of(scope)
            await self._inner(scope, receive, sending)
        except Error as error:
            await rendered(error)(scope, receive, sending)
        except Exception:
            log.exception("a request failed", extra={"fields": {"request": state.request_id}})
            if status:
                raise  # the answer has begun: the server cuts the connection, so that nobody takes it for whole
            fault = Error(Code.INTERNAL, f"internal error; it is in the log as request {state.request_id}")
            await rendered(fault)(scope, receive, sending)
        finally:
            self._line(request, status, begun)

    def _line(self, request: Request, status: int, begun: float) -> None:
        metrics.count(request.app, request.method, status)
        fields = {
            "method": request.method,
            "path": request.scope["path"][:512],
            "status": status,
            "ms": round((time.monotonic() - begun) * 1_000, 1),
            "principal": request.state.principal,
            "peer": request.client.host if request.client is not None else None,
            "request": request.state.request_id,
            "correlation": request.state.correlation_id,
        }
        log.info("request", extra={"fields": fields})


def rendered(error: Error) -> Response:
    return Response(problem(error), error.code.status, problem_headers(error), media_type="application/json")


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, Error)
    return rendered(error)


async def _framework(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: a path or a method that no route has."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        there = _there(request)
        allowed = ", ".join(sorted({method for each in there for method in each.methods or ()}))
        told = next((f": {each.instead}" for each in there if each.instead), "")
        message = f"'{request.method}' is not possible here; {allowed} is{told}"
        return rendered(Error(Code.METHOD_NOT_ALLOWED, message, subject=allowed))
    if error.status_code == 404:
        return rendered(
            Error(Code.NOT_FOUND, f"The path '{request.url.path[:200]}' names nothing that is served here.")
        )
    return rendered(Error(Code.BAD_REQUEST, str(error.detail)))


def _there(request: Request) -> list[AnyCase]:
    """All the routes that a path has, each of one method; the framework knows the first."""
    routes = (each for each in request.app.routes if isinstance(each, AnyCase))
    return [each for each in routes if each.path_regex.match(request.scope["path"])]


def _mark(headers: MutableHeaders, request_id: str, correlation_id: str) -> None:
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers["x-ms-request-id"] = request_id
    headers["x-ms-correlation-request-id"] = correlation_id
    headers["x-ms-routing-request-id"] = f"ENTREPOT:{at}:{request_id}"
    headers["x-content-type-options"] = "nosniff"
    headers["strict-transport-security"] = "max-age=31536000"
    headers.setdefault("cache-control", "no-cache")


def _guid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text else None
    except ValueError:
        return None
