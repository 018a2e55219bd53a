"""Limits on the way of a call: reserved before it is decided upon in the ledger, settled once when it is over.

What a call will use is estimated: a token for four bytes of its body, and as many for the answer as it lets the model
write, else the model's default. What it did not use is given back at the end.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import msgspec

from entrepot.errors import Code, Error
from entrepot.gateway.bounds import Allowances, Bound, Bounds, Held, Terms
from entrepot.gateway.call import Call
from entrepot.ledger.entries import Usage
from entrepot.limits.rate import same_window, window_end_ms
from entrepot.limits.reserve import Refusal, State, Store, StoreBusy, Want
from entrepot.projections.prices import cost
from entrepot.resources.model import Price
from entrepot.snapshot import Snapshot
from entrepot.telemetry.metrics import Metrics
from entrepot.wire import quotas
from entrepot.wire.usage import BYTES_PER_TOKEN, estimated

log = logging.getLogger(__name__)

DEGRADED = ("limits",)
MOST_TOKENS = 1_000_000_000
EMBEDDED = b";base64,"
"""In a body that has an image or a sound in it, whose bytes are no text."""


class Asking(NamedTuple):
    """What a call wants of its limits, and what it holds if it gets it: None for one that is refused anyway."""

    terms: Terms
    wants: list[Want]
    held: Held | None


class Limiting:
    """Of one worker. `adopt` takes another snapshot; calls in flight settle by what they reserved."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._allowances: Allowances | None = None
        self._told: set[tuple[bytes, int]] = set()
        self._refused: dict[tuple[str, str], int] = {}
        self._unsettled: list[tuple[list[Want], list[int]]] = []

    def adopt(self, snapshot: Snapshot) -> None:
        self._allowances = Allowances(snapshot)

    def reserve(self, call: Call, *, permitted: bool) -> Error | None:
        """Take what the call may use, all of it or nothing; sets `call.held` and `call.limit_head`.

        A call that the access policy does not permit is a request all the same, and takes nothing else. Raises Short;
        then `reserve_there` is to be awaited.
        """
        asking = self._asking(call, permitted)
        try:
            if self._unsettled:
                self._settle_again(call.at_ms)
            return self._reserved(call, asking, self._store.reserve(asking.wants, call.at_ms))
        except StoreBusy as busy:
            raise not_now() from busy

    async def reserve_there(self, call: Call, *, permitted: bool) -> Error | None:
        asking = self._asking(call, permitted)
        try:
            return self._reserved(call, asking, await self._store.reserve_there(asking.wants, call.at_ms))
        except StoreBusy as busy:
            raise not_now() from busy

    def settle(self, call: Call, spent: list[Usage], now_ms: int) -> None:
        """Exactly once for each call that holds something. `spent` is the usage of the answer and of all other legs."""
        held = call.held
        if held is None:
            return
        call.held = None
        terms, tokens = held.terms, 0
        for usage in spent:
            tokens += usage.prompt + usage.completion
        used = [0] * terms.flights + [tokens] * len(terms.tokens)
        money = worth(held.price, spent) if terms.budgets else 0
        for each in terms.budgets:
            window_ms = each.limit.window_ms
            # What belongs to the window of its decision, which is over, is counted no more.
            over = not same_window(window_ms, call.at_ms, now_ms)
            used.append(money if drawn(each, held.price) and not over else 0)
        self._settle(held.wants, used, now_ms)

    def _asking(self, call: Call, permitted: bool) -> Asking:
        bounds = self._bounds(call)
        terms, keys = bounds.terms, bounds.keys
        wants: list[Want] = []
        for limit in terms.fixed:
            wants.append(Want(keys[len(wants)], limit, 1))
        if not permitted:
            return Asking(terms, wants[: terms.charged], None)
        prompt, completion = expected(call, terms)
        tokens = prompt + completion
        for limit in terms.tokens:
            wants.append(Want(keys[len(wants)], limit, tokens))
        price = None
        if terms.budgets:
            price = terms.price(call.at_ms)
            money = worth(price, [Usage(0, completion, prompt, 0, "estimated")])
            for each in terms.budgets:
                wants.append(Want(keys[len(wants)], each.limit, money if drawn(each, price) else 0))
        return Asking(terms, wants, Held(terms, wants[terms.charged :], price, prompt, completion))

    def _reserved(self, call: Call, asking: Asking, refusal: Refusal | None) -> Error | None:
        store, (terms, wants, held) = self._store, asking
        if store.degraded:
            call.degraded = DEGRADED
        if held is not None:
            if refusal is None:
                call.held = held
            states = store.states(wants, call.at_ms)
            call.limit_head = head_of(call, terms, states)
            if terms.budgets:
                call.limit_head += self._soft(call, terms, wants, states)
        if refusal is None:
            return None
        return self._refusal(call, terms, refusal, wants[refusal.which], store.states(wants, call.at_ms))

    def _settle(self, wants: list[Want], used: list[int], now_ms: int) -> None:
        try:
            self._store.settle(wants, used, now_ms)
        except StoreBusy:
            self._unsettled.append((wants, used))

    def _settle_again(self, now_ms: int) -> None:
        waiting, self._unsettled = self._unsettled, []
        for wants, used in waiting:
            self._settle(wants, used, now_ms)

    def age(self, now_ms: int) -> None:
        """Forget what is whole again."""
        self._settle_again(now_ms)
        self._store.forget(now_ms)
        self._told = {told for told in self._told if told[1] > now_ms}

    def settled(self, now_ms: int) -> bool:
        """Whether all calls that are over could be counted."""
        if self._unsettled:
            self._settle_again(now_ms)
        return not self._unsettled

    def report(self, metrics: Metrics) -> None:
        metrics.set("entrepot_limits_shared", not self._store.degraded)
        for labels, number in self._refused.items():
            metrics.count("entrepot_limited_total", labels, number)

    def _bounds(self, call: Call) -> Bounds:
        account, deployment, snapshot = call.account, call.deployment, call.snapshot
        assert account is not None
        assert deployment is not None
        known = self._allowances
        if known is None or known.snapshot is not snapshot:  # it began before the last change, by what was in force
            known = Allowances(snapshot)
        return known.of(account, deployment, call.key_name)

    def _refusal(self, call: Call, terms: Terms, refusal: Refusal, want: Want, states: list[State]) -> Error:
        bound = terms.all[refusal.which]
        labels = (bound.scope, bound.kind)
        self._refused[labels] = self._refused.get(labels, 0) + 1
        if bound.kind == "budget":
            return Error(Code.QUOTA_EXHAUSTED, f"the {bound.scope}'s budget is spent")
        assert call.deployment is not None
        told = quotas.Exceeded(
            bound.kind,
            bound.scope,
            call.deployment.name,
            call.deployment.model,
            limit=bound.limit.amount or bound.limit.burst,
            remaining=states[refusal.which].remaining,
            asked=want.units,
            wait_ms=refusal.wait_ms,
        )
        request = call.exchange.request
        message = quotas.message(told, call.form, call.operation, request.query)
        if told.retry_after_ms is None:
            return Error(Code.LIMIT_TOO_SMALL, message)
        kind = "tokens" if bound.kind == "tokens" else "requests"
        return Error(Code.RATE_LIMITED, message, subject=kind, retry_after_ms=told.retry_after_ms)

    def _soft(self, call: Call, terms: Terms, wants: list[Want], states: list[State]) -> bytes:
        """Tell of budgets that are nearly spent: in the answer, and once for each window in the log."""
        highest = 0
        first = len(states) - len(terms.budgets)
        for index, each in enumerate(terms.budgets, first):
            amount = each.limit.burst
            used = amount - states[index].remaining
            if used < each.soft:
                continue
            highest = max(highest, used * 100 // amount)
            told = wants[index].key, window_end_ms(each.limit.window_ms, call.at_ms)
            if told not in self._told:
                self._told.add(told)
                assert call.account is not None
                fields = {"scope": each.scope, "account": call.account.name, "percent": used * 100 // amount}
                log.warning("a budget is nearly spent", extra={"fields": fields})
        return b"x-entrepot-budget-used: %d%%\r\n" % highest if highest else b""


def not_now() -> Error:
    return Error(Code.NOT_READY, "limits cannot be counted now", retry_after_s=1)


def expected(call: Call, terms: Terms) -> tuple[int, int]:
    """Tokens of prompt and answer that a call will use at most, about.

    What the call leaves to the model's default never makes it too large for a limit that it would fit by itself.
    """
    data, fields = call.exchange.request.body, call.fields
    prompt = estimated(data) if EMBEDDED in data else -(-len(data) // BYTES_PER_TOKEN)
    if call.operation == "embeddings":
        return prompt, 0
    limit = whole(fields.get("max_completion_tokens"))
    if limit is None:
        limit = whole(fields.get("max_tokens"))
    times = max(whole(fields.get("n")) or 1, whole(fields.get("best_of")) or 1)
    if limit is not None:
        return prompt, min(limit * times, MOST_TOKENS)
    return prompt, max(0, min(terms.default_tokens * times, terms.most_tokens - prompt))


def whole(value: msgspec.Raw | None) -> int | None:
    """A number of tokens, at most MOST_TOKENS; None for what is none: the upstream judges it."""
    if value is None:
        return None
    text = bytes(value)
    if text.isdigit() and len(text) < 10:
        return int(text)
    return math.ceil(min(float(text), MOST_TOKENS)) if text[:1].isdigit() else None  # `1e6`, `1000.0`: some take it


def worth(price: Price | None, spent: list[Usage]) -> int:
    """In 10^-12 of the price's currency."""
    return 0 if price is None else sum([cost(price, usage) for usage in spent])


def drawn(budget: Bound, price: Price | None) -> bool:
    """Whether a call at this price draws from the budget: not in another currency, nor without a price."""
    return price is not None and price.currency == budget.currency


def head_of(call: Call, terms: Terms, states: list[State]) -> bytes:
    """The tightest limit of requests, and that of tokens, as they are with this call under way."""
    requests = tightest(states, 0, terms.charged)
    if len(states) <= terms.charged + terms.flights:
        return b""
    tokens = tightest(states, terms.charged + terms.flights, len(terms.tokens))
    of_requests, of_tokens = states[requests], states[tokens]
    return quotas.head(
        call.form,
        (terms.all[requests].limit.amount, of_requests.remaining, of_requests.reset_ms),
        (terms.all[tokens].limit.amount, of_tokens.remaining, of_tokens.reset_ms),
    )


def tightest(states: list[State], first: int, number: int) -> int:
    found = first
    for index in range(first + 1, first + number):
        if states[index].remaining < states[found].remaining:
            found = index
    return found
