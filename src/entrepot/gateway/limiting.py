"""Limits on the way of a call: reserved before it is decided upon in the ledger, settled once when it is over.

What a call will use is estimated: a token for four bytes of its body, and as many for the answer as it lets the model
write, else the model's default. What it did not use is given back at the end.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import msgspec

from entrepot.errors import Code, Error
from entrepot.gateway.bounds import Allowances, Bound, Bounds, Held, Terms
from entrepot.gateway.call import Call
from entrepot.ledger.entries import Usage
from entrepot.limits.rate import same_window, window_end_ms
from entrepot.limits.reserve import Asked, Bucket, Refusal, Store, StoreBusy
from entrepot.projections.prices import cost_of
from entrepot.snapshot import Snapshot
from entrepot.telemetry.metrics import Metrics
from entrepot.wire import quotas
from entrepot.wire.usage import BYTES_PER_TOKEN, estimated

log = logging.getLogger(__name__)

DEGRADED: Final = ("limits",)
MOST_TOKENS: Final = 1_000_000_000
IMAGE: Final = b";base64,"
SOUND: Final = b'"input_audio"'
"""In a body that has such in it, whose bytes are no text."""
SMALL: Final = 4_096
"""Bytes. A body of no more is taken for text: what else is in it makes less than a thousand tokens."""


class Limiting:
    """Of one worker. `adopt` takes another snapshot; calls in flight settle by what they reserved."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._allowances: Allowances | None = None
        self._told: set[tuple[bytes, int]] = set()
        self._refused: dict[tuple[str, str], int] = {}
        self._unsettled: list[tuple[Asked, list[int]]] = []

    def adopt(self, snapshot: Snapshot) -> None:
        self._allowances = Allowances(snapshot)

    def reserve(self, call: Call, *, permitted: bool) -> Error | None:
        """Take what the call may use, all of it or nothing; sets `call.held` and `call.limit_head`.

        A call that the access policy does not permit is a request all the same, and takes nothing else. Raises Short;
        then `reserve_there` is to be awaited.
        """
        held = self._asking(call, permitted)
        try:
            if self._unsettled:
                self._settle_again(call.at_ms)
            refusal = self._store.reserve(held.asked, call.at_ms)
        except StoreBusy as busy:
            raise not_now() from busy
        return self._reserved(call, held, refusal, permitted)

    async def reserve_there(self, call: Call, *, permitted: bool) -> Error | None:
        held = self._asking(call, permitted)
        try:
            refusal = await self._store.reserve_there(held.asked, call.at_ms)
        except StoreBusy as busy:
            raise not_now() from busy
        return self._reserved(call, held, refusal, permitted)

    def settle(self, call: Call, spent: list[Usage], now_ms: int) -> None:
        """Exactly once for each call that holds something. `spent` is the usage of the answer and of all other legs."""
        held = call.held
        if held is None:
            return
        call.held = None
        terms, price = held.terms, held.price
        tokens = money = 0
        for usage in spent:
            prompt, completion = usage.prompt, usage.completion
            tokens += prompt + completion
            if price is not None:
                money += cost_of(price, prompt, usage.cached, completion)
        used = [0] * terms.tokens + [tokens] * (terms.money - terms.tokens)
        for each in terms.budgets:
            # What belongs to the window of its decision, which is over, is counted no more.
            over = not same_window(each.window_ms, call.at_ms, now_ms)
            used.append(0 if over or not each.is_drawn(price) else money)
        self._settle(held.asked, used, now_ms)

    def _asking(self, call: Call, permitted: bool) -> Held:
        """What a call asks for: all of it is held if it gets it, and is permitted."""
        bounds = self._bounds(call)
        terms = bounds.terms
        if not permitted:
            return Held(terms, Asked(bounds.keys, terms.limits, [1] * terms.flights))
        prompt, completion = expected(call, terms)
        units = [1] * terms.tokens + [prompt + completion] * (terms.money - terms.tokens)
        held = Held(terms, Asked(bounds.keys, terms.limits, units))
        held.prompt, held.completion = prompt, completion
        price = held.price = terms.price(call.at_ms)
        money = 0 if price is None else cost_of(price, prompt, 0, completion)
        for each in terms.budgets:
            units.append(money if each.is_drawn(price) else 0)
        return held

    def _reserved(self, call: Call, held: Held, refusal: Refusal | None, permitted: bool) -> Error | None:
        if self._store.degraded:
            call.degraded = DEGRADED
        if permitted:
            if refusal is None:
                call.held = held
            call.limit_head = self._head(call, held)
        return None if refusal is None else self._refusal(call, held, refusal)

    def _settle(self, asked: Asked, used: list[int], now_ms: int) -> None:
        try:
            self._store.settle(asked, used, now_ms)
        except StoreBusy:
            self._unsettled.append((asked, used))

    def _settle_again(self, now_ms: int) -> None:
        waiting, self._unsettled = self._unsettled, []
        for asked, used in waiting:
            self._settle(asked, used, now_ms)

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

    def _refusal(self, call: Call, held: Held, refusal: Refusal) -> Error:
        bound, asked = held.terms.all[refusal.which], held.asked
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
            remaining=asked.met[refusal.which].left(call.at_ms),
            asked=asked.units[refusal.which],
            wait_ms=refusal.wait_ms,
        )
        request = call.exchange.request
        message = quotas.message(told, call.form, call.operation, request.query)
        if told.retry_after_ms is None:
            return Error(Code.LIMIT_TOO_SMALL, message)
        kind = "tokens" if bound.kind == "tokens" else "requests"
        return Error(Code.RATE_LIMITED, message, subject=kind, retry_after_ms=told.retry_after_ms)

    def _head(self, call: Call, held: Held) -> bytes:
        """The tightest limit of requests, and that of tokens, as they are with this call under way; budgets."""
        terms, met, at_ms = held.terms, held.asked.met, call.at_ms
        requests, tokens = tightest(met, 0, terms.flights, at_ms), tightest(met, terms.tokens, terms.money, at_ms)
        head = quotas.head(
            call.form,
            (terms.all[requests].line, met[requests].left(at_ms), met[requests].reset_ms(at_ms)),
            (terms.all[tokens].line, met[tokens].left(at_ms), met[tokens].reset_ms(at_ms)),
        )
        highest = 0
        for index in range(terms.money, len(met)):
            each = terms.all[index]
            left = met[index].left(at_ms)
            if left <= each.soft:
                highest = max(highest, self._soft(call, each, held.asked.keys[index], left))
        return head + b"x-entrepot-budget-used: %d%%\r\n" % highest if highest else head

    def _soft(self, call: Call, budget: Bound, key: bytes, left: int) -> int:
        """How much of a budget is spent, in percent, which is nearly all: once for each window the log tells it."""
        percent = (budget.limit.burst - left) * 100 // budget.limit.burst
        told = key, window_end_ms(budget.limit.window_ms, call.at_ms)
        if told not in self._told:
            self._told.add(told)
            assert call.account is not None
            fields = {"scope": budget.scope, "account": call.account.name, "percent": percent}
            log.warning("a budget is nearly spent", extra={"fields": fields})
        return percent


def not_now() -> Error:
    return Error(Code.NOT_READY, "limits cannot be counted now", retry_after_s=1)


def expected(call: Call, terms: Terms) -> tuple[int, int]:
    """Tokens of prompt and answer that a call will use at most, about.

    What the call leaves to the model's default never makes it too large for a limit that it would fit by itself.
    """
    fields, prompt = call.fields, tokens_in(call.exchange.request.body)
    if call.operation == "embeddings":
        return prompt, 0
    limit = whole(fields.get("max_completion_tokens"))
    if limit is None:
        limit = whole(fields.get("max_tokens"))
    times = max(whole(fields.get("n")) or 1, whole(fields.get("best_of")) or 1)
    if limit is not None:
        return prompt, min(limit * times, MOST_TOKENS)
    return prompt, max(0, min(terms.default_tokens * times, terms.most_tokens - prompt))


def tokens_in(body: bytes) -> int:
    """Of a request, about, and rather too many."""
    # `find`, as `in` first tries whether what is looked for is a number.
    if len(body) > SMALL and (body.find(IMAGE) >= 0 or body.find(SOUND) >= 0):
        return estimated(body)
    return -(-len(body) // BYTES_PER_TOKEN)


def whole(value: msgspec.Raw | None) -> int | None:
    """A number of tokens, at most MOST_TOKENS; None for what is none: the upstream judges it."""
    if value is None:
        return None
    text, number = bytes(value), 0
    for index in range(len(text)):  # several times as fast as `int`
        digit = text[index] - 48
        if not 0 <= digit <= 9 or index == 9:  # `1e6`, `1000.0`: some take it
            return math.ceil(min(float(text), MOST_TOKENS)) if index else None
        number = number * 10 + digit
    return number


def tightest(met: list[Bucket], first: int, end: int, now_ms: int) -> int:
    found, least = first, met[first].left(now_ms)
    for index in range(first + 1, end):
        left = met[index].left(now_ms)
        if left < least:
            found, least = index, left
    return found
