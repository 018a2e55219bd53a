"""How often a deployment may be asked, by its capacity: the model's own rate, or that of the real service by name."""

from __future__ import annotations

from entrepot.resources.model import Model, Rate

TOKENS_PER_UNIT = 1_000
"""A minute, for each unit of a deployment's capacity."""

# The name, or the beginning of one that goes on with a hyphen.
_RATES: tuple[tuple[str, Rate], ...] = (
    ("o1-mini", Rate(1, 10)),
    ("o3-mini", Rate(1, 10)),
    ("o3-pro", Rate(1, 10)),
    ("o1", Rate(1, 6)),
    ("o3", Rate(1, 1)),
    ("o4-mini", Rate(1, 1)),
)
_OTHER = Rate(6, 1)


def rate_of(model: Model) -> Rate:
    name = f"{model.name}-"
    return model.rate or next((rate for known, rate in _RATES if name.startswith(f"{known}-")), _OTHER)


def requests_per_minute(model: Model, capacity: int) -> int:
    rate = rate_of(model)
    return max(1, capacity * rate.requests // rate.capacity)


def tokens_per_minute(capacity: int) -> int:
    return capacity * TOKENS_PER_UNIT
