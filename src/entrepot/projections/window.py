"""Times in reports: a window of instants, and days in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

DAY_MS = 86_400_000


class Window(NamedTuple):
    """Half-open; None leaves a side open."""

    since_ms: int | None = None
    until_ms: int | None = None

    def __contains__(self, at_ms: object) -> bool:
        assert isinstance(at_ms, int)
        return (self.since_ms is None or self.since_ms <= at_ms) and (self.until_ms is None or at_ms < self.until_ms)


ALWAYS = Window()


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS // 1000, UTC).date().isoformat()


def day_of(at_ms: int) -> str:
    """The day in UTC as `2026-11-22`."""
    return _day(at_ms // DAY_MS)
