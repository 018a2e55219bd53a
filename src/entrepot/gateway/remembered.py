"""Memories of what would otherwise be made again at every call, each with a bound."""

from __future__ import annotations

from itertools import islice
from typing import Final, TypeVar

MOST: Final = 16_384

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(memory: dict[Key, Value], key: Key, value: Value, most: int = MOST) -> Value:
    """The value. A memory that is full forgets the oldest sixteenth of it."""
    if len(memory) >= most:
        for each in list(islice(memory, most // 16)):
            del memory[each]
    memory[key] = value
    return value
