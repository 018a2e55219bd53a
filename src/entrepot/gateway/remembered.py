"""Memories of what would otherwise be made again at every call, each with a bound."""

from __future__ import annotations

from itertools import islice
from typing import Final, TypeVar

MOST: Final = 16_384

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(memory: dict[Key, Value], key: Key, value: Value) -> Value:
    """The value. A memory that is full forgets the older half of it."""
    if len(memory) >= MOST:
        for each in list(islice(memory, MOST // 2)):
            del memory[each]
    memory[key] = value
    return value
