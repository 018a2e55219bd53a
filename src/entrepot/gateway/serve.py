"""serve: one client request from its first byte to its settlement. Start reading the data plane here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.gateway import local, routes
from entrepot.gateway.access_log import AccessLog
from entrepot.gateway.admit import Verdicts, admit
from entrepot.gateway.aggregated import Aggregated
from entrepot.gateway.call import NO_OPERATION, Call
from entrepot.gateway.dispatch import dispatch
from entrepot.gateway.heads import id_head, id_lines
from entrepot.gateway.ids import Ids
from entrepot.gateway.journal import Journal
from entrepot.gateway.limiting import Limiting
from entrepot.gateway.relay import relay
from entrepot.gateway.settle import Books, settle
from entrepot.gateway.upstreams import Lines, Upstreams
from entrepot.http1.server import Exchange
from entrepot.ledger.ledger import Ledger
from entrepot.limits.reserve import Memory, Store
from entrepot.snapshot import Snapshot
from entrepot.telemetry.metrics import Metrics
from entrepot.wire.forms import form_of
from entrepot.wire.problems import headers_for, render, render_status


class InForce(NamedTuple):
    """What a call begins with and keeps: the snapshot, what the policy says by it, the ways to its upstreams, and the
    journal of its calls.
    """

    snapshot: Snapshot
    verdicts: Verdicts
    lines: Lines
    journal: Journal | None


class Gateway:
    """The data plane of one worker. `adopt` swaps the snapshot; a call keeps the one that it began with.

    `ledger` records what is decided; without one nothing is recorded, which is for trying things out only. `clock_ms`
    is the time by which rules and approvals are in force.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        limits: Store | None = None,
    ) -> None:
        """`limits` holds what is used of them; without one it is this process's own memory."""
        self._ledger = ledger
        self._limits = Limiting(limits or Memory())
        self._aggregated = Aggregated()
        self._clock_ms = clock_ms
        self._books = Books()
        self._upstreams = Upstreams()
        self._ids = Ids()
        self._in_force: InForce | None = None
        self._access_log: AccessLog | None = None

    def adopt(self, snapshot: Snapshot) -> None:
        """Decide by `snapshot` from the next call on."""
        before, journal = self._in_force, None
        if self._ledger is not None:
            journal = Journal(self._ledger, snapshot, self._aggregated)
            if before is None or before.snapshot.program.release != snapshot.program.release:
                journal.announce(self._clock_ms())
        if snapshot.gateway.access_log != "off" and self._access_log is None:
            self._access_log = AccessLog()
        self._limits.adopt(snapshot)
        self._in_force = InForce(snapshot, Verdicts(snapshot), self._upstreams.adopt(snapshot), journal)

    def healthy(self) -> dict[str, bool]:
        """Each upstream's name, and whether this worker finds it in good health."""
        return self._upstreams.healthy()

    def age(self) -> None:
        """Let time pass for what grows old without an edit: the geographic edition, limits that are whole again."""
        self._limits.age(self._clock_ms())
        if self._in_force is not None:
            self._in_force[0].origins.tick(self._clock_ms())

    def settled(self) -> bool:
        """Whether all calls that are over have been counted by their limits."""
        return self._limits.settled(self._clock_ms())

    def geo_problem(self) -> str | None:
        """Why every origin beyond sites and attested networks is unknown, if it is."""
        return self._in_force[0].origins.problem if self._in_force is not None else None

    def report(self, metrics: Metrics) -> None:
        """Add what this worker has served to metrics that hold none of it yet."""
        self._books.report(metrics)
        self._limits.report(metrics)
        if self._access_log is not None:
            metrics.count("entrepot_access_log_dropped_total", by=self._access_log.dropped)
        for upstream, good in self.healthy().items():
            metrics.set("entrepot_upstream_healthy", good, (upstream,))

    def note(self, *, all_of_them: bool = False) -> None:
        """Put refusals that were only counted into the ledger, of the minutes that are over."""
        if self._ledger is not None:
            for entry, personal in self._aggregated.due(self._clock_ms(), all_of_them=all_of_them):
                self._ledger.outcome(entry, personal)

    async def close(self) -> None:
        self.note(all_of_them=True)
        await self._upstreams.close()
        if self._access_log is not None:
            await self._access_log.close()

    def render_error(self, path: str, status: int, message: str) -> tuple[bytes, bytes]:
        """Headers and body for a request that the HTTP engine refuses before it is a call, or for one that failed."""
        if status != 500:  # a call that failed is counted as such
            self._books.book((NO_OPERATION, "refused", status, None))
        head, text = render_status(path, status, message)
        return id_lines(self._ids.next(), form_of(path)) + head, text

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. CancelledError means that the client has gone; it is settled and goes on up."""
        if self._in_force is None:
            raise Error(Code.NOT_READY, "no world is loaded yet")
        snapshot, verdicts, lines, journal = self._in_force
        call = Call(exchange, snapshot, lines, self._ids.next(), self._clock_ms())
        try:
            await self._answer(call, verdicts, journal)
        except Error as error:
            fail(call, error)
        except asyncio.CancelledError:
            # Who was given a stream to its `[DONE]` may leave before the upstream ends it, as OpenAI's SDK does.
            call.client_gone = call.cut or not call.relayed_events
            raise
        finally:
            result = settle(call, self._books, journal, self._limits, self._clock_ms())
            if self._access_log is not None and snapshot.gateway.access_log != "off":
                self._access_log.add(call, result)

    async def _answer(self, call: Call, verdicts: Verdicts, journal: Journal | None) -> None:
        request = call.exchange.request
        try:
            route = call.route = routes.route(request.method, request.path, request.query)
        except Error:
            call.form = form_of(request.path)
            raise
        call.form, call.operation = route.form, route.operation
        if route.operation in local.OPERATIONS:
            local.answer(call, route)
            return
        admission = call.admission = await admit(call, route, verdicts, journal, self._limits)
        answer = await dispatch(call, admission)
        await relay(call, answer)


def fail(call: Call, error: Error) -> None:
    """Word the error in the path's form. Every error before the first relayed byte ends here."""
    call.error = error
    call.status = error.code.status
    head = id_head(call) + headers_for(error)
    call.exchange.respond(call.status, head, render(error, call.form, decision_id=call.id))
