"""What a simulated upstream has served, for comparison with what a gateway says that it asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Counters:
    """Since the start. Tokens are counted as they are sent, those of broken answers included.

    `connections` has those that only asked for counters taken out. `abandoned` answers lost their client half-way.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.observers = 0
        self.requests = 0
        self.abandoned = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.statuses: Counter[int] = Counter()
        self.models: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        return self.opened - self.observers

    def as_json(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "requests": self.requests,
            "abandoned": self.abandoned,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "models": dict(self.models),
            "keys": dict(self.keys),
        }
