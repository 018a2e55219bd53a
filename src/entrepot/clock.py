"""What time it is. Whatever is recorded or compared with an instant of somebody else's goes by this clock."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000
