"""One client request on its way through the gateway, filled in step by step until `settle` books it."""

from __future__ import annotations

from typing import Final, final

import msgspec
from msgspec import UnsetType

from entrepot.errors import Error
from entrepot.gateway.bounds import Held
from entrepot.gateway.routes import Route
from entrepot.gateway.upstreams import Lines, now_s
from entrepot.http1.server import Exchange
from entrepot.ledger.entries import Usage as Spent
from entrepot.ledger.ledger import Place
from entrepot.origin.resolve import Origin
from entrepot.policy import Decision
from entrepot.snapshot import Account, Candidate, Deployment, Snapshot
from entrepot.wire.body import Fields
from entrepot.wire.forms import Form
from entrepot.wire.reported import Usage

NO_OPERATION = "none"


@final
class Occasion:
    """What one call adds to what is known of its account and deployment. `at_ms` is its arrival."""

    __slots__ = ("at_ms", "operation", "origin")

    def __init__(self, at_ms: int, origin: Origin, operation: str) -> None:
        self.at_ms: Final = at_ms
        self.origin: Final = origin
        self.operation: Final = operation


@final
class Admission:
    """Proof that a call may go on, and to which targets. Made by `admit` only; `permitted` is never empty.

    `decisions` has one for each candidate of the deployment, in their order. `refused_from_ms` is when a rule that was
    announced will refuse such a call.
    """

    __slots__ = ("decisions", "origin", "permitted", "refused_from_ms")

    def __init__(
        self,
        origin: Origin,
        permitted: tuple[Candidate, ...],
        decisions: tuple[Decision, ...],
        refused_from_ms: int | None = None,
    ) -> None:
        self.origin: Final = origin
        self.permitted: Final = permitted
        self.decisions: Final = decisions
        self.refused_from_ms: Final = refused_from_ms


Spelled = tuple[msgspec.Raw, bytes]
"""Of the entries of admitted calls: candidates, and what stands between the deployment and the call's id."""


@final
class Verdict:
    """What the policy decides on calls of one standing to one choice of targets from one origin, between two instants.

    `facts` are those about the client then. `admission` is None where no target is permitted.
    """

    def __init__(
        self,
        origin: Origin,
        facts: msgspec.Raw,
        decisions: tuple[Decision, ...],
        admission: Admission | None,
        lasts_ms: tuple[int, int],
    ) -> None:
        """`lasts_ms`: the first instant, and the one after the last."""
        self.origin = origin
        self.facts = facts
        self.decisions = decisions
        self.admission = admission
        self.since_ms, self.until_ms = lasts_ms
        self.spelled: Spelled | None = None


@final
class Call:
    """`at_ms` is its arrival in UTC, `started_s` the same on the monotonic clock. The rest is unset until its step.

    What is unset is so in the class: most calls never touch most of it.
    """

    form = Form.OPENAI
    operation = NO_OPERATION
    route: Route | None = None
    account: Account | None = None
    deployment: Deployment | None = None
    fields: Fields
    streams = False
    usage_asked = False
    admission: Admission | None = None
    candidate: Candidate | None = None
    key_name = ""
    personal = b""
    """Salt and value of the personal data, for the ledger's side file."""
    held: Held | None = None
    """What it has reserved of limits, until `settle`."""
    degraded: tuple[str, ...] = ()
    """What did not work as it should when it was decided: `limits` were local ones."""
    limit_head = b""
    """The headers that tell of limits."""
    place: Place | None = None
    """Where the decision stands in the ledger, once it is durable."""
    attempts: tuple[tuple[str, str], ...] = ()
    """Each try's upstream, and `answered`, `failed` or `abandoned`."""
    attempts_ms: tuple[int, ...] = ()
    attempts_usage: tuple[Spent | UnsetType, ...] = ()
    """What each try cost that did not give the client its answer, where it cost something."""
    judged_s = 0.0
    """When it was decided; `decided_s` is when that was durable."""
    decided_s = 0.0
    first_byte_s: float | None = None
    relayed_events = 0
    estimated = 0
    """The tokens of a whole answer that reported none."""
    status = 0
    usage: Usage | None = None
    error: Error | None = None
    cut = False
    client_gone = False

    def __init__(self, exchange: Exchange, snapshot: Snapshot, lines: Lines, guid: str, at_ms: int) -> None:
        self.exchange = exchange
        self.snapshot = snapshot
        self.lines = lines
        self.id = guid
        self.at_ms = at_ms
        self.started_s = now_s()
