"""What tokens cost: a model's prices from the world, each in force from its instant on. Exact."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from entrepot.ledger.entries import Usage
from entrepot.resources.model import Model, Price

# Costs are integers in 10^-12 of a currency's unit: micros per 10^6 tokens, times tokens.
PLACES = 12


class Prices:
    def __init__(self, models: Iterable[Model]) -> None:
        self._prices: dict[tuple[str, str], tuple[list[int], list[Price]]] = {}
        for model in models:
            prices = sorted(model.prices, key=lambda price: price.from_ms)
            self._prices[model.name, model.version] = ([price.from_ms for price in prices], prices)

    def at(self, model: str, version: str, at_ms: int) -> Price | None:
        """The price in force at an instant; None where the model has none then."""
        starts, prices = self._prices.get((model, version), ([], []))
        index = bisect_right(starts, at_ms)
        return prices[index - 1] if index else None


def cost(price: Price, usage: Usage) -> int:
    """In 10^-12 of the unit. Cached tokens are part of the prompt, at a price of their own if there is one."""
    cached_micros = price.input_micros if price.cached_micros is None else price.cached_micros
    cached = min(usage.cached, usage.prompt)
    return (
        (usage.prompt - cached) * price.input_micros + cached * cached_micros + usage.completion * price.output_micros
    )


def exact(amount: int) -> str:
    """A cost as a decimal number with all of its places."""
    sign, digits = "-" if amount < 0 else "", str(abs(amount)).rjust(PLACES + 1, "0")
    return f"{sign}{digits[:-PLACES]}.{digits[-PLACES:]}"


def rounded(amount: int, places: int = 4) -> str:
    """To be read: half up, to so many places."""
    unit = 10 ** (PLACES - places)
    return exact((amount + unit // 2) // unit * unit)[: places - PLACES]
