"""What deployments draw from: quota per subscription, region, model and SKU, in thousands of tokens a minute. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from entrepot.resources import rates
from entrepot.resources.model import Model

# Thousands of tokens per minute where neither the subscription nor the model says otherwise.
DEFAULTS: Mapping[str, int] = {"Standard": 1_000, "DataZoneStandard": 3_000, "GlobalStandard": 10_000}
_EMBEDDING_FACTOR = 3  # embeddings are cheap per token, and are asked for in bulk


class Held(msgspec.Struct, frozen=True):
    """What one deployment holds; also after its account was deleted, until that is purged."""

    location: str
    model: str
    sku: str
    capacity: int
    deployment: str


class Quota(msgspec.Struct, frozen=True):
    """`name` is the usage's name, as the models' `skus[].usageName` gives it."""

    name: str
    model: str
    sku: str
    used: int
    limit: int


def usage_name(model: str, sku: str) -> str:
    return f"OpenAI.{sku}.{model}"


def quota_name(model: str, sku: str) -> str:
    """As the real service's messages call it: the SKU is named only when it is not `Standard`."""
    return f"Tokens Per Minute (thousands) - {model}" + ("" if sku == "Standard" else f" - {sku}")


def used(held: Iterable[Held], location: str, model: str, sku: str, *, besides: str = "") -> int:
    """The sum of the capacities, but for the deployment whose lower-case id is `besides`."""
    return sum(
        each.capacity
        for each in held
        if (each.location, each.model, each.sku) == (location, model, sku) and each.deployment != besides
    )


def limit(model: str, sku: str, location: str, own: Mapping[str, Any], default: Mapping[str, Any]) -> int:
    """The subscription's own (`{location}/{usage name}`, then the usage name), the model's, then the default."""
    name = usage_name(model, sku)
    for found in (own.get(f"{location}/{name}"), own.get(name), default.get(sku)):
        if type(found) is int and found >= 0:
            return found
    factor = _EMBEDDING_FACTOR if "embed" in model else 1
    return DEFAULTS.get(sku, 0) * factor


def requests_per_minute(model: str, capacity: int) -> int:
    return rates.requests_per_minute(Model(model, ""), capacity)


def rate_limits(model: str, capacity: int) -> list[dict[str, Any]]:
    """As deployments show them: requests over ten seconds where that is a whole number, tokens over a minute."""
    requests = requests_per_minute(model, capacity)
    window = (10.0, requests / 6) if requests % 6 == 0 else (60.0, float(requests))
    return [
        {"key": "request", "renewalPeriod": window[0], "count": window[1]},
        {"key": "token", "renewalPeriod": 60.0, "count": capacity * 1_000.0},
    ]
