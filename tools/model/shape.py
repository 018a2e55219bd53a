"""The size of the model."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    vocabulary: int
    context: int = 1024
    width: int = 192
    layers: int = 4
    heads: int = 4
    hidden: int = 512
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5
