"""Which limits a call meets: those of its deployment, key, account and organization, found once for many calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, NamedTuple

from entrepot.limits import rate
from entrepot.limits.rate import Limit
from entrepot.limits.reserve import Want
from entrepot.projections.prices import Prices
from entrepot.resources import model as declared
from entrepot.resources import rates
from entrepot.snapshot import Account, Deployment, Snapshot

Kind = Literal["requests", "in_flight", "tokens", "budget"]
Scope = Literal["deployment", "key", "account", "organization"]

UNIT_PER_MICRO = 1_000_000
"""Money is counted in 10^-12 of a currency's unit: micros for a million tokens, times tokens."""
TOKENS_WINDOW_MS = 60_000
"""A minute's tokens may come at once, as the real service has it."""


class Bound(NamedTuple):
    """One limit. `key` names it in every process; `soft` is where a budget begins to be told of."""

    key: bytes
    limit: Limit
    kind: Kind
    scope: Scope
    currency: str = ""
    soft: int = 0


class Bounds:
    """All that calls with one key to one deployment meet, the cheapest to mend first: requests, calls, tokens, money.

    INVARIANT: `all` is requests, calls in flight, tokens, budgets, in this order; so are a call's wants.

    Thousands are remembered: what can be shared or left out is.
    """

    __slots__ = (
        *("_model", "_prices", "all", "asked", "budgets", "charged", "default_tokens", "fixed", "flights"),
        *("most_tokens", "requests", "tokens"),
    )

    def __init__(self, found: list[Bound], model: declared.Model) -> None:
        self.requests = [each for each in found if each.kind == "requests"]
        self.tokens = [each for each in found if each.kind == "tokens"]
        self.budgets = [each for each in found if each.kind == "budget"]
        flights = [each for each in found if each.kind == "in_flight"]
        self.all = [*self.requests, *flights, *self.tokens, *self.budgets]
        self.asked = [Want(each.key, each.limit, 1) for each in self.requests]
        self.fixed = self.asked + [Want(each.key, each.limit, 1) for each in flights] if flights else self.asked
        self.charged = len(self.asked)
        self.flights = len(flights)
        self.most_tokens = min(each.limit.amount for each in self.tokens)
        self.default_tokens = model.default_output_tokens
        self._model = model
        self._prices = Prices((model,)) if self.budgets else None

    def price(self, at_ms: int) -> declared.Price | None:
        """The one in force at an instant, for budgets; None where the model has none then."""
        return None if self._prices is None else self._prices.at(self._model.name, self._model.version, at_ms)


class Held(NamedTuple):
    """What a call has reserved, until it is settled. `wants` are those to settle, in the order of `bounds.all`."""

    bounds: Bounds
    wants: list[Want]
    price: declared.Price | None
    prompt: int
    completion: int


def bounds_of(snapshot: Snapshot, account: Account, deployment: Deployment, key_name: str) -> Bounds:
    model = snapshot.models.get((deployment.model, deployment.version))
    if model is None:
        model = declared.Model(deployment.model, deployment.version)
    given = next(each for each in account.given.deployments if each.name == deployment.name)
    found = [*_capacity(account.name, given, model)]
    found += _quota("key", f"{account.name}/{key_name}", account.given.key_limits)
    found += _quota("account", account.name, account.given.limits)
    found += _quota("organization", account.organization.name, account.organization.limits)
    return Bounds(found, model)


def _capacity(account: str, given: declared.Deployment, model: declared.Model) -> Iterator[Bound]:
    name = f"{account}/{given.name}"
    requests, tokens = _limits(model, given.capacity)
    yield Bound(key_of("deployment", name, "requests"), requests, "requests", "deployment")
    yield Bound(key_of("deployment", name, "tokens"), tokens, "tokens", "deployment")


@lru_cache(4096)
def _limits(model: declared.Model, capacity: int) -> tuple[Limit, Limit]:
    """Requests and tokens: the same for all deployments of a model and capacity."""
    requests = rate.requests_per_minute(rates.requests_per_minute(model, capacity))
    return requests, rate.tokens_per_minute(rates.tokens_per_minute(capacity), TOKENS_WINDOW_MS)


def _quota(scope: Scope, name: str, quota: declared.Quota) -> Iterator[Bound]:
    if quota.requests_per_minute is not None:
        limit = rate.requests_per_minute(quota.requests_per_minute)
        yield Bound(key_of(scope, name, "requests"), limit, "requests", scope)
    if quota.in_flight is not None:
        yield Bound(key_of(scope, name, "in_flight"), rate.in_flight(quota.in_flight), "in_flight", scope)
    if quota.tokens_per_minute is not None:
        limit = rate.tokens_per_minute(quota.tokens_per_minute, TOKENS_WINDOW_MS)
        yield Bound(key_of(scope, name, "tokens"), limit, "tokens", scope)
    for budget in quota.budgets:
        yield budget_bound(scope, name, budget)


def budget_bound(scope: Scope, name: str, budget: declared.Budget) -> Bound:
    amount = budget.amount_micros * UNIT_PER_MICRO
    window_ms = rate.DAY_MS if budget.period == "day" else rate.MONTH_MS
    key = key_of(scope, name, "budget", budget.period, budget.currency)
    soft = -(-amount * budget.soft_percent // 100)
    return Bound(key, rate.budget(amount, window_ms), "budget", scope, budget.currency, soft)


def key_of(*parts: str) -> bytes:
    """16 bytes, the same in every process of every gateway."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()
