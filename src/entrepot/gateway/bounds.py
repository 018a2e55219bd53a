"""Which limits a call meets: those of its deployment, key, account and organization, found once for many calls."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, final

from entrepot.gateway.remembered import MOST, remember
from entrepot.limits import rate
from entrepot.limits.rate import Limit
from entrepot.limits.reserve import Asked
from entrepot.projections.prices import History
from entrepot.resources import model as declared
from entrepot.resources import rates
from entrepot.snapshot import Account, Deployment, Snapshot
from entrepot.wire.quotas import amount_line

Kind = Literal["requests", "in_flight", "tokens", "budget"]
Scope = Literal["deployment", "key", "account", "organization"]

UNIT_PER_MICRO = 1_000_000
"""Money is counted in 10^-12 of a currency's unit: micros for a million tokens, times tokens."""
TOKENS_WINDOW_MS = 60_000
"""A minute's tokens may come at once, as the real service has it."""


@final
class Bound:
    """One limit, the same for all who are given it. With `soft` left a budget begins to be told of.

    `mark` is what its keys have behind scope and name, `line` what headers tell of its amount.
    """

    __slots__ = ("currency", "kind", "limit", "line", "mark", "scope", "soft", "window_ms")

    def __init__(self, limit: Limit, kind: Kind, scope: Scope, mark: str) -> None:
        self.limit = limit
        self.kind = kind
        self.scope = scope
        self.mark = mark
        self.line = amount_line(kind, limit.amount)
        self.window_ms = limit.window_ms
        self.currency = ""
        self.soft = 0

    def is_drawn(self, price: declared.Price | None) -> bool:
        """Whether a call at this price draws from the budget: not in another currency, nor without a price."""
        return price is not None and price.currency == self.currency


@final
class Terms:
    """All that calls meet which are limited alike, the cheapest to mend first: requests, calls, tokens, money.

    INVARIANT: `all` is requests, calls in flight, tokens, budgets, in this order; so are keys and what a call asks for.
    `flights`, `tokens` and `money` are where the second, third and fourth begin.
    """

    __slots__ = (
        *("_prices", "all", "budgets", "default_tokens", "flights", "limits", "money", "most_tokens", "tokens"),
    )

    def __init__(self, found: list[Bound], model: declared.Model) -> None:
        of: dict[Kind, list[Bound]] = {"requests": [], "in_flight": [], "tokens": [], "budget": []}
        for each in found:
            of[each.kind].append(each)
        self.budgets = of["budget"]
        self.all = [each for bounds in of.values() for each in bounds]
        self.limits = [each.limit for each in self.all]
        self.flights = len(of["requests"])
        self.tokens = self.flights + len(of["in_flight"])
        self.money = self.tokens + len(of["tokens"])
        self.most_tokens = min([limit.amount for limit in self.limits[self.tokens : self.money]])
        self.default_tokens = model.default_output_tokens
        self._prices = History(model)

    def price(self, at_ms: int) -> declared.Price | None:
        """The one in force at an instant, for budgets; None where there are none, or the model has none then."""
        return self._prices.at(at_ms) if self.budgets else None


class Bounds:
    """What calls with one key to one deployment meet. `keys` name the limits in every process, in the terms' order.

    Thousands are remembered: what can be shared is in the terms.
    """

    __slots__ = ("keys", "terms")

    def __init__(self, terms: Terms, keys: tuple[bytes, ...]) -> None:
        self.terms = terms
        self.keys = keys


@final
class Held:
    """What a call has reserved, until it is settled. `price` is that of its budgets, if it has any."""

    __slots__ = ("asked", "completion", "price", "prompt", "terms")

    def __init__(self, terms: Terms, asked: Asked) -> None:
        self.terms = terms
        self.asked = asked
        self.price: declared.Price | None = None
        self.prompt = self.completion = 0


class Allowances:
    """The bounds of one snapshot's calls, remembered."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._most = max(MOST, 2 * len(snapshot.keys))
        """Room for all of a world, whose deployments are about as many as its keys."""
        self._known: dict[tuple[str, str, str], Bounds] = {}
        self._terms: dict[tuple[str, str, int, tuple[int, int, int]], Terms] = {}

    def of(self, account: Account, deployment: Deployment, key_name: str) -> Bounds:
        """`account` and `deployment` are the snapshot's."""
        key = (account.name, deployment.name, key_name if account.limits_keys else "")
        found = self._known.get(key)
        if found is None:
            made = self._bounds(account, deployment, key_name)
            found = remember(self._known, key, made, self._most)
        return found

    def _bounds(self, account: Account, deployment: Deployment, key_name: str) -> Bounds:
        terms, name, keys = self._terms_of(account, deployment), account.name, []
        for bound in terms.all:
            scope, whose = bound.scope, name
            if scope == "deployment":
                whose = f"{name}/{deployment.name}"
            elif scope == "key":
                whose = f"{name}/{key_name}"
            elif scope == "organization":
                whose = account.organization.name
            keys.append(key_of(scope, whose, bound.mark))
        return Bounds(terms, tuple(keys))

    def _terms_of(self, account: Account, deployment: Deployment) -> Terms:
        """The same for all deployments of a model and capacity under the same limits."""
        given, organization = account.given, account.organization
        (capacity,) = [each.capacity for each in given.deployments if each.name == deployment.name]
        # The snapshot holds the limits: nothing else gets their ids.
        limits = (id(given.key_limits), id(given.limits), id(organization.limits))
        key = (deployment.model, deployment.version, capacity, limits)
        found = self._terms.get(key)
        if found is None:
            model = self.snapshot.models.get((deployment.model, deployment.version))
            if model is None:
                model = declared.Model(deployment.model, deployment.version)
            bounds = _capacity(model, capacity)
            bounds += _quota("key", given.key_limits)
            bounds += _quota("account", given.limits)
            bounds += _quota("organization", organization.limits)
            found = remember(self._terms, key, Terms(bounds, model))
        return found


def _capacity(model: declared.Model, capacity: int) -> list[Bound]:
    requests = rate.requests_per_minute(rates.requests_per_minute(model, capacity))
    tokens = rate.tokens_per_minute(rates.tokens_per_minute(capacity), TOKENS_WINDOW_MS)
    return [_bound(requests, "requests", "deployment"), _bound(tokens, "tokens", "deployment")]


def _quota(scope: Scope, quota: declared.Quota) -> list[Bound]:
    found = []
    if quota.requests_per_minute is not None:
        found.append(_bound(rate.requests_per_minute(quota.requests_per_minute), "requests", scope))
    if quota.in_flight is not None:
        found.append(_bound(rate.in_flight(quota.in_flight), "in_flight", scope))
    if quota.tokens_per_minute is not None:
        found.append(_bound(rate.tokens_per_minute(quota.tokens_per_minute, TOKENS_WINDOW_MS), "tokens", scope))
    return found + [budget_bound(scope, budget) for budget in quota.budgets]


def _bound(limit: Limit, kind: Kind, scope: Scope) -> Bound:
    return Bound(limit, kind, scope, kind)


def budget_bound(scope: Scope, budget: declared.Budget) -> Bound:
    amount = budget.amount_micros * UNIT_PER_MICRO
    window_ms = rate.DAY_MS if budget.period == "day" else rate.MONTH_MS
    mark = f"budget\0{budget.period}\0{budget.currency}"
    bound = Bound(rate.budget(amount, window_ms), "budget", scope, mark)
    bound.currency = budget.currency
    bound.soft = amount * (100 - budget.soft_percent) // 100
    return bound


def key_of(*parts: str) -> bytes:
    """16 bytes, the same in every process of every gateway."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()
