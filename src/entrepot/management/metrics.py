"""The control plane's own metrics, in Prometheus' text format, for this machine only."""

from __future__ import annotations

import ipaddress
import time
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrepot.errors import Code, Error
from entrepot.management.control import Control
from entrepot.management.http import control_of, peer_of, route
from entrepot.projections.follower import Follower
from entrepot.telemetry.metrics import Description, Metrics, exposition

CATALOGUE: Final = {
    "entrepot_control_requests_total": Description(
        "counter", "Requests answered, by method and HTTP status.", ("method", "status")
    ),
    "entrepot_control_ready": Description("gauge", "1 while changes can be made."),
    "entrepot_control_revision": Description("gauge", "Number of the last change that is published."),
    "entrepot_gateway_seen_seconds": Description(
        "gauge",
        "Since the gateway asked this control plane last, or since it began; only of the enrolled.",
        ("gateway",),
    ),
    "entrepot_gateway_behind_seconds": Description(
        "gauge", "Since what the gateway does not run yet was published; 0 while it runs the newest.", ("gateway",)
    ),
    "entrepot_gateway_ready": Description("gauge", "1 while the gateway says that it serves calls.", ("gateway",)),
    "entrepot_shipping_refused": Description(
        "gauge", "1 while what the gateway ships of its ledger is refused.", ("gateway",)
    ),
    "entrepot_follower_entries_total": Description("counter", "Entries of ledgers that were proved and added up."),
    "entrepot_follower_problems": Description("gauge", "Logs that are not followed, since they do not prove true."),
    "entrepot_follower_age_seconds": Description("gauge", "Since the follower last came to the end of all logs."),
}
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS"})


def count(app: Starlette, method: str, status: int) -> None:
    app.state.metrics.count(
        "entrepot_control_requests_total", (method if method in METHODS else "*other*", str(status))
    )


def routes() -> list[Route]:
    """`GET /metrics`; wants no caller, and answers this machine only."""
    return [route("GET", "/metrics", _metrics, public=True)]


async def _metrics(request: Request) -> Response:
    if not _local(peer_of(request)):
        raise Error(Code.NOT_FOUND, f"The path '{request.url.path}' names nothing that is served here.")
    state = request.app.state
    now = Metrics(CATALOGUE)
    _of_gateways(now, control_of(request), state.shipments.problems)
    follower: Follower | None = getattr(state, "follower", None)
    if follower is not None:
        now.count("entrepot_follower_entries_total", by=follower.taken)
        now.set("entrepot_follower_problems", len(follower.problems))
        now.set("entrepot_follower_age_seconds", time.monotonic() - follower.done_s)
    reports = [state.metrics.report(), now.report()]
    return Response(exposition(CATALOGUE, reports), media_type="text/plain; version=0.0.4")


def _of_gateways(metrics: Metrics, control: Control, refused: dict[str, str]) -> None:
    publisher = control.publisher
    metrics.set("entrepot_control_ready", control.ready and control.problem is None)
    metrics.set("entrepot_control_revision", publisher.revision.n)
    now_s = time.monotonic()
    for name, gateway in publisher.gateways.items():
        metrics.set("entrepot_shipping_refused", name in refused, (name,))
        seen = publisher.seen(name)
        if gateway.secret is not None:  # one that never asked is silent since this process began, not unknown
            since_s = publisher.begun_s if seen is None else seen.at_s
            metrics.set("entrepot_gateway_seen_seconds", now_s - since_s, (name,))
        if seen is not None:
            metrics.set("entrepot_gateway_ready", seen.ready, (name,))
            metrics.set("entrepot_gateway_behind_seconds", publisher.behind_ms(seen) / 1_000, (name,))


def _local(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
