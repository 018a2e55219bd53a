"""A process that takes from one limit as fast as it can. `limits_worker.py TABLE NUMBER PROCESSES SECONDS UNITS`.

Prints the units that it was admitted; `hang` as the last argument leaves its last reservation standing and is killed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from entrepot.limits.rate import tokens_per_minute
from entrepot.limits.reserve import Want
from entrepot.limits.table import Table

LIMIT = tokens_per_minute(600_000, 1_000)
KEY = b"the same for all"

if __name__ == "__main__":
    path, number, processes, seconds, units = sys.argv[1:6]
    table = Table(Path(path), int(number), int(processes), slots=64)
    want = [Want(KEY, LIMIT, int(units))]
    admitted, ends = 0, time.monotonic() + float(seconds)
    while time.monotonic() < ends:
        now_ms = time.time_ns() // 1_000_000
        if table.reserve(want, now_ms) is None:
            admitted += int(units)
            if sys.argv[6:] == ["hang"]:
                print("holding", flush=True)
                time.sleep(600)
            table.settle(want, [int(units)], now_ms)
        else:
            time.sleep(0.0005)
    print(admitted)
