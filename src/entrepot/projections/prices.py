"""What tokens cost: a model's prices from the world, each in force from its instant on. Exact."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from entrepot.ledger.entries import Usage
from entrepot.resources.model import Model, Price

# Costs are integers in 10^-12 of a currency's unit: micros per 10^6 tokens, times tokens.
PLACES = 12


class History:
    """Of one model."""

    __slots__ = ("_prices", "_starts")

    def __init__(self, model: Model) -> None:
        self._prices = sorted(model.prices, key=lambda price: price.from_ms)
        self._starts = [price.from_ms for price in self._prices]

    def at(self, at_ms: int) -> Price | None:
        """The price in force at an instant; None where the model has none then."""
        index = bisect_right(self._starts, at_ms)
        return self._prices[index - 1] if index else None


class Prices:
    def __init__(self, models: Iterable[Model]) -> None:
        self._of = {(model.name, model.version): History(model) for model in models}

    def at(self, model: str, version: str, at_ms: int) -> Price | None:
        """The price in force at an instant; None where the model has none then."""
        history = self._of.get((model, version))
        return None if history is None else history.at(at_ms)


def cost(price: Price, usage: Usage) -> int:
    """In 10^-12 of the unit."""
    return cost_of(price, usage.prompt, usage.cached, usage.completion)


def cost_of(price: Price, prompt: int, cached: int, completion: int) -> int:
    """In 10^-12 of the unit. Cached tokens are part of the prompt, at a price of their own if there is one."""
    micros = price.input_micros
    total = prompt * micros + completion * price.output_micros
    if cached:
        cached_micros = price.cached_micros
        if cached_micros is not None:
            total += min(cached, prompt) * (cached_micros - micros)
    return total


def exact(amount: int) -> str:
    """A cost as a decimal number with all of its places."""
    sign, digits = "-" if amount < 0 else "", str(abs(amount)).rjust(PLACES + 1, "0")
    return f"{sign}{digits[:-PLACES]}.{digits[-PLACES:]}"


def rounded(amount: int, places: int = 4) -> str:
    """To be read: half up, to so many places."""
    unit = 10 ** (PLACES - places)
    return exact((amount + unit // 2) // unit * unit)[: places - PLACES]
