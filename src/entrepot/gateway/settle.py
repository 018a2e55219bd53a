"""settle: what became of the call, booked exactly once, whatever happened."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Literal

from msgspec import UNSET

from entrepot.errors import Code
from entrepot.gateway.call import Call
from entrepot.gateway.journal import Journal
from entrepot.gateway.limiting import Limiting
from entrepot.gateway.records import used
from entrepot.gateway.upstreams import now_s
from entrepot.ledger.entries import Usage
from entrepot.telemetry.metrics import BUCKETS_S, Metrics

Word = Literal["served", "refused", "failed", "cut", "client_gone"]
Kind = tuple[str, str, int, str | None]
"""Operation, outcome, status, error code: what calls are told apart by."""

_bisect: Final = bisect_left  # compiled, these are no look-ups in a module
_BUCKETS_S: Final = BUCKETS_S
STAGES: Final = ("admit", "ledger", "upstream")
DEPLOYMENTS: Final = 1_000
"""So many deployments have series of their own in a worker."""
OTHER: Final = "*other*"
_CUT: Final = Code.UPSTREAM_CUT.label


class Tally:
    """Calls of one kind: how many, and how long."""

    __slots__ = ("buckets", "calls", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)


class Stage:
    """How long one stage of all admitted calls took."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)


class Books:
    """The tallies of a worker, spread over metrics only when they are asked for."""

    def __init__(self) -> None:
        self._tallies: dict[Kind, Tally] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        """Tries by upstream and result."""
        self._tokens: dict[str, tuple[int, int]] = {}
        """Of prompts and completions, by the upstream that answered."""
        self._stages = (Stage(), Stage(), Stage())
        self._deployments: dict[tuple[str, str, str], int] = {}
        self._named: set[tuple[str, str]] = set()

    def book(self, kind: Kind) -> Tally:
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = Tally()
        tally.calls += 1
        return tally

    def attempts(self, call: Call) -> None:
        counted, usage = self._attempts, call.usage
        for attempt in call.attempts:
            counted[attempt] = counted.get(attempt, 0) + 1
        if usage is not None and call.attempts:
            upstream = call.attempts[-1][0]
            prompt, completion = self._tokens.get(upstream, (0, 0))
            self._tokens[upstream] = prompt + usage.prompt, completion + usage.completion

    def stages(self, call: Call) -> None:
        """Where the time of an admitted call went, up to its first byte."""
        judged_s, decided_s, first_s = call.judged_s, call.decided_s, call.first_byte_s
        admit, ledger, upstream = self._stages
        took = judged_s - call.started_s  # written out three times: it is done at every call
        admit.seconds += took
        admit.buckets[_bisect(_BUCKETS_S, took)] += 1
        took = decided_s - judged_s
        ledger.seconds += took
        ledger.buckets[_bisect(_BUCKETS_S, took)] += 1
        if first_s is not None:
            took = first_s - decided_s
            upstream.seconds += took
            upstream.buckets[_bisect(_BUCKETS_S, took)] += 1

    def deployment(self, account: str, deployment: str, result: str) -> None:
        """By deployment, for so many of them; the rest together."""
        key = (account, deployment, result)
        known = self._deployments
        if key in known:
            known[key] += 1
            return
        pair = (account, deployment)
        if pair not in self._named:
            if len(self._named) >= DEPLOYMENTS:
                key = (OTHER, OTHER, result)
            else:
                self._named.add(pair)
        known[key] = known.get(key, 0) + 1

    def report(self, metrics: Metrics) -> None:
        """Add all that was booked, to metrics that hold none of it yet."""
        for (operation, outcome, status, code), tally in self._tallies.items():
            metrics.count("entrepot_calls_total", (operation, outcome, str(status)), tally.calls)
            if code is not None:
                metrics.count("entrepot_errors_total", (code,), tally.calls)
            if any(tally.buckets):
                metrics.add_observed("entrepot_call_seconds", (operation,), tally.buckets, tally.seconds)
        for attempt, number in self._attempts.items():
            metrics.count("entrepot_attempts_total", attempt, number)
        for upstream, (prompt, completion) in self._tokens.items():
            metrics.count("entrepot_tokens_total", (upstream, "prompt"), prompt)
            metrics.count("entrepot_tokens_total", (upstream, "completion"), completion)
        for stage, took in zip(STAGES, self._stages, strict=True):
            if any(took.buckets):
                metrics.add_observed("entrepot_stage_seconds", (stage,), took.buckets, took.seconds)
        for labels, calls in self._deployments.items():
            metrics.count("entrepot_deployment_calls_total", labels, calls)


def settle(call: Call, books: Books, journal: Journal | None, limits: Limiting, at_ms: int) -> Word:
    """What became of the call, in one word."""
    result = outcome(call)
    if call.held is not None:
        limits.settle(call, spent_in(call), at_ms)
    error = call.error
    code = error.code.label if error is not None else _CUT if result == "cut" else None
    if call.deployment is not None and call.account is not None:
        books.deployment(call.account.name, call.deployment.name, result if error is None else error.name)
    tally = books.book((call.operation, result, call.status, code))
    if call.admission is not None:
        if journal is not None and result != "refused":
            journal.settle(call, result, at_ms)
        books.stages(call)
        seconds = now_s() - call.started_s
        tally.seconds += seconds
        tally.buckets[_bisect(_BUCKETS_S, seconds)] += 1
    books.attempts(call)
    return result


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
