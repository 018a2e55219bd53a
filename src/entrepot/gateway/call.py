"""One client request on its way through the gateway, filled in step by step until `settle` books it."""

from __future__ import annotations

import msgspec

from entrepot.errors import Error
from entrepot.gateway.routes import Route
from entrepot.gateway.upstreams import Lines, now_s
from entrepot.http1.server import Exchange
from entrepot.origin.resolve import Origin
from entrepot.policy import Decision
from entrepot.snapshot import Account, Candidate, Deployment, Snapshot
from entrepot.wire.forms import Form
from entrepot.wire.usage import Usage


class Occasion(msgspec.Struct, frozen=True):
    """What one call adds to what is known of its account and deployment. `at_ms` is its arrival."""

    at_ms: int
    origin: Origin
    operation: str


class Admission(msgspec.Struct, frozen=True):
    """Proof that a call may go on, and to which targets. Made by `admit` only; `permitted` is never empty.

    `decisions` has one for each candidate of the deployment, in their order.
    """

    origin: Origin
    permitted: tuple[Candidate, ...]
    decisions: tuple[Decision, ...]


class Call:
    """`at_ms` is its arrival in UTC, `started_s` the same on the monotonic clock. The rest is unset until its step."""

    __slots__ = (
        "account",
        "admission",
        "at_ms",
        "attempts",
        "candidate",
        "client_gone",
        "cut",
        "deployment",
        "error",
        "exchange",
        "fields",
        "form",
        "id",
        "lines",
        "operation",
        "route",
        "snapshot",
        "started_s",
        "status",
        "streams",
        "usage",
        "usage_asked",
    )

    def __init__(self, exchange: Exchange, snapshot: Snapshot, lines: Lines, guid: str, at_ms: int) -> None:
        self.exchange = exchange
        self.snapshot = snapshot
        self.lines = lines
        self.id = guid
        self.at_ms = at_ms
        self.started_s = now_s()
        self.form = Form.OPENAI
        self.operation = "none"
        self.route: Route | None = None
        self.account: Account | None = None
        self.deployment: Deployment | None = None
        self.fields: dict[str, msgspec.Raw] = {}
        self.streams = False
        self.usage_asked = False
        self.admission: Admission | None = None
        self.candidate: Candidate | None = None
        self.attempts: list[tuple[str, str]] = []
        self.status = 0
        self.usage: Usage | None = None
        self.error: Error | None = None
        self.cut = False
        self.client_gone = False
