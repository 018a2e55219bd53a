"""Calls in the ledger: a decision is durable before anything follows from it, its outcome follows in time."""

from __future__ import annotations

from entrepot.errors import Code, Error
from entrepot.gateway.aggregated import Aggregated
from entrepot.gateway.call import Call, Verdict
from entrepot.gateway.records import Records, outcome
from entrepot.ledger.entries import Result
from entrepot.ledger.faults import LedgerUnavailable
from entrepot.ledger.ledger import Ledger
from entrepot.snapshot import Snapshot


class Journal:
    """Writes what the calls of one snapshot were decided and became. `aggregated` outlives it."""

    def __init__(self, ledger: Ledger, snapshot: Snapshot, aggregated: Aggregated) -> None:
        self._ledger = ledger
        self.aggregated = aggregated
        self._records = Records(snapshot, snapshot.revision.number())

    def announce(self, at_ms: int) -> None:
        """The snapshot's policy is in force from here on: the entry stands before every decision that names it."""
        self._ledger.outcome(self._records.release(at_ms))

    async def decide(self, call: Call, verdict: Verdict, refusal: Error | None) -> None:
        """Returns when the decision is durable; raises Error LEDGER_UNAVAILABLE when that cannot be had."""
        entry = self._records.decision(call, verdict, refusal)
        try:
            call.place = await self._ledger.decide(entry, call.personal)
        except LedgerUnavailable as unavailable:
            raise Error(
                Code.LEDGER_UNAVAILABLE, "the decision cannot be recorded now, and no call is served unrecorded"
            ) from unavailable

    def settle(self, call: Call, result: Result, at_ms: int) -> None:
        """Only for admitted calls, once each."""
        self._ledger.outcome(outcome(call, result, at_ms))
