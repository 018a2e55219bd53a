"""The admin listener: metrics, readiness in detail. It has no authentication and must not be reachable from outside."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from entrepot.gateway.metrics import CATALOGUE
from entrepot.gateway.reckoning import Reckoning
from entrepot.http1.message import render_headers
from entrepot.http1.server import Exchange, Server
from entrepot.ledger.log import Places
from entrepot.ledger.receipt import receipt_of
from entrepot.ledger.verify import Unproved
from entrepot.resources.model import Limits
from entrepot.telemetry.metrics import Report, exposition

_TEXT = render_headers([("content-type", "text/plain; charset=utf-8")])
_METRICS = render_headers([("content-type", "text/plain; version=0.0.4; charset=utf-8")])
RECEIPTS = "/receipts/"
LONGEST_ORIGIN = 200
_JSON = render_headers([("content-type", "application/json")])


log = logging.getLogger(__name__)


class Readiness(msgspec.Struct, frozen=True):
    """What `/readyz` says: `problem` is why the files as they are now are not the world that is served.

    `ledger_problem` is why no call is served, `geo_problem` why origins are unknown, `limits_problem` why limits
    are not counted with other gateways.
    """

    ready: bool
    revision: int
    workers: int
    problem: str | None
    ledger_problem: str | None
    limits_problem: str | None
    geo_problem: str | None
    unhealthy_upstreams: tuple[str, ...]


class Admin:
    """Serves GET /metrics, /readyz and /healthz from what the parent knows, /receipts/… from the ledger's files.

    GET /budgets compares what is counted of budgets with the ledger, and puts it right.
    """

    def __init__(
        self,
        readiness: Callable[[], Coroutine[Any, Any, Readiness]],
        reports: Callable[[], Coroutine[Any, Any, list[Report]]],
        reckoning: Callable[[], Coroutine[Any, Any, Reckoning]],
        data: Path,
    ) -> None:
        self._places = Places(data)
        self._readiness = readiness
        self._reports = reports
        self._reckoning = reckoning
        self._server = Server(self._serve, render_plain, Limits())

    async def start(self, listener: socket.socket) -> None:
        await self._server.start(listener)

    async def stop(self) -> None:
        await self._server.drain(0.5)

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method not in {"GET", "HEAD"}:
            exchange.respond(405, _TEXT, b"only GET\n")
        elif request.path == "/metrics":
            exchange.respond(200, _METRICS, exposition(CATALOGUE, await asyncio.create_task(self._reports())))
        elif request.path == "/readyz":
            readiness = await asyncio.create_task(self._readiness())
            exchange.respond(200 if readiness.ready else 503, _JSON, msgspec.json.encode(readiness))
        elif request.path == "/budgets":
            reckoning = await asyncio.create_task(self._reckoning())
            exchange.respond(503 if reckoning.problems else 200, _JSON, msgspec.json.encode(reckoning))
        elif request.path == "/healthz":
            exchange.respond(200, _TEXT, b"ok\n")
        elif request.path.startswith(RECEIPTS):
            await self._receipt(exchange, request.path.removeprefix(RECEIPTS))
        else:
            exchange.respond(404, _TEXT, b"paths here: /metrics /readyz /healthz /budgets /receipts/{origin}/{index}\n")

    async def _receipt(self, exchange: Exchange, place: str) -> None:
        """What `x-entrepot-receipt` names, as a C2SP tlog-proof. A receipt is there once a checkpoint covers it."""
        origin, _, index = place.rpartition("/")
        if not (0 < len(origin) <= LONGEST_ORIGIN and index.isascii() and index.isdigit() and len(index) <= 15):
            exchange.respond(400, _TEXT, b"ask for /receipts/{origin}/{index}, as in the header x-entrepot-receipt\n")
            return
        try:
            receipt = await asyncio.to_thread(receipt_of, self._places, origin, int(index))
        except (Unproved, OSError) as wrong:
            log.error("a receipt cannot be made", extra={"fields": {"receipt": place, "problem": str(wrong)}})
            why = f"no receipt can be made: {wrong}; see `entrepot ledger verify`\n"
            exchange.respond(500, _TEXT, why.encode(errors="replace"))
            return
        if receipt is None:
            exchange.respond(404, _TEXT, b"no checkpoint covers this entry yet, or there is none; try again in 2 s\n")
            return
        exchange.respond(200, _TEXT, receipt)


def render_plain(_path: str, _status: int, message: str) -> tuple[bytes, bytes]:
    return _TEXT, message.encode() + b"\n"
