"""A process that takes from one limit as fast as it can. `limits_worker.py TABLE NUMBER PROCESSES SECONDS UNITS`.

Prints the units that it was admitted. With a last argument it is to be killed: `hang` leaves its reservation standing,
`hurry` reserves and settles calls in flight and money without a pause.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from entrepot.limits.rate import budget, in_flight, tokens_per_minute
from entrepot.limits.reserve import asked_of
from entrepot.limits.table import Table

LIMIT = tokens_per_minute(600_000, 1_000)
KEY = b"the same for all"
FLIGHTS = (b"calls in flight.", in_flight(100))
SPENT = (b"money of all....", budget(10**18))


def hurry(table: Table) -> None:
    asked = asked_of((*FLIGHTS, 1), (*SPENT, 3))
    while True:
        now_ms = time.time_ns() // 1_000_000
        if table.reserve(asked, now_ms) is None:
            table.settle(asked, [0, 2], now_ms)


if __name__ == "__main__":
    path, number, processes, seconds, units = sys.argv[1:6]
    table = Table(Path(path), int(number), int(processes), slots=64)
    if sys.argv[6:] == ["hurry"]:
        print("hurrying", flush=True)
        hurry(table)
    asked = asked_of((KEY, LIMIT, int(units)))
    admitted, ends = 0, time.monotonic() + float(seconds)
    while time.monotonic() < ends:
        now_ms = time.time_ns() // 1_000_000
        if table.reserve(asked, now_ms) is None:
            admitted += int(units)
            if sys.argv[6:] == ["hang"]:
                print("holding", flush=True)
                time.sleep(600)
            table.settle(asked, [int(units)], now_ms)
        else:
            time.sleep(0.0005)
    print(admitted)
