"""settle: what became of the call, booked exactly once, whatever happened."""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal

from msgspec import UNSET

from entrepot.gateway.call import Call
from entrepot.gateway.journal import Journal
from entrepot.gateway.limiting import Limiting
from entrepot.gateway.records import used
from entrepot.gateway.upstreams import now_s
from entrepot.ledger.entries import Usage
from entrepot.telemetry.metrics import BUCKETS_S, Metrics

Word = Literal["served", "refused", "failed", "cut", "client_gone"]
Kind = tuple[str, str, int, str | None, tuple[tuple[str, str], ...]]
"""Operation, outcome, status, error code, and each try's upstream and result: what calls are told apart by."""


class Tally:
    """Calls of one kind: how many, how long, how many tokens."""

    __slots__ = ("buckets", "calls", "completion", "prompt", "seconds")

    def __init__(self) -> None:
        self.calls = self.prompt = self.completion = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)


class Books:
    """The tallies of a worker: one look-up a call, spread over metrics only when they are asked for."""

    def __init__(self) -> None:
        self._tallies: dict[Kind, Tally] = {}

    def book(self, kind: Kind) -> Tally:
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = Tally()
        tally.calls += 1
        return tally

    def report(self, metrics: Metrics) -> None:
        """Add all that was booked, to metrics that hold none of it yet."""
        for (operation, outcome, status, code, attempts), tally in self._tallies.items():
            metrics.count("entrepot_calls_total", (operation, outcome, str(status)), tally.calls)
            if code is not None:
                metrics.count("entrepot_errors_total", (code,), tally.calls)
            for attempt in attempts:
                metrics.count("entrepot_attempts_total", attempt, tally.calls)
            if any(tally.buckets):
                metrics.add_observed("entrepot_call_seconds", (operation,), tally.buckets, tally.seconds)
            if attempts and (tally.prompt or tally.completion):
                upstream = attempts[-1][0]
                metrics.count("entrepot_tokens_total", (upstream, "prompt"), tally.prompt)
                metrics.count("entrepot_tokens_total", (upstream, "completion"), tally.completion)


def settle(call: Call, books: Books, journal: Journal | None, limits: Limiting, at_ms: int) -> None:
    result = outcome(call)
    if call.held is not None:
        limits.settle(call, spent_in(call), at_ms)
    code = None if call.error is None else call.error.code.label
    tally = books.book((call.operation, result, call.status, code, call.attempts))
    if call.admission is not None:
        if journal is not None and result != "refused":
            journal.settle(call, result, at_ms)
        seconds = now_s() - call.started_s
        tally.seconds += seconds
        tally.buckets[bisect_left(BUCKETS_S, seconds)] += 1
    usage = call.usage
    if usage is not None:
        tally.prompt += usage.prompt
        tally.completion += usage.completion


def spent_in(call: Call) -> list[Usage]:
    """What the call cost, as its outcome has it: the answer, and legs that did not give it."""
    usage = used(call)
    spent = [] if usage is UNSET else [usage]
    if len(call.attempts_usage) > 1 or not spent:
        spent += [leg for leg in call.attempts_usage if leg is not UNSET]
    return spent


def outcome(call: Call) -> Word:
    """One word: `served`, `refused` (no admission), `failed` (admitted, no answer), `cut` or `client_gone`."""
    if call.client_gone:
        return "client_gone"
    if call.cut:
        return "cut"
    if call.error is None:
        return "served" if call.status else "failed"  # without a status a fault of ours ended it
    return "refused" if call.admission is None else "failed"
