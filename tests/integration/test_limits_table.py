"""One limit over several processes of a machine: exact together, and nothing stays reserved by a process that died."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

from entrepot.limits.table import Table

from limits_worker import FLIGHTS, KEY, LIMIT, SPENT  # isort: skip

WORKER = Path(__file__).with_name("limits_worker.py")


def start(table: Path, number: int, seconds: float, units: int, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(WORKER), str(table), str(number), "4", str(seconds), str(units), *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_four_processes_share_one_limit_exactly(tmp_path: Path) -> None:
    started = time.monotonic()
    workers = [start(tmp_path / "limits", number, 2.0, units) for number, units in enumerate((100,) * 4)]
    admitted = [int(worker.communicate()[0]) for worker in workers]
    took_ms = (time.monotonic() - started) * 1_000
    assert all(admitted), f"a worker was starved: {admitted}"
    assert sum(admitted) <= LIMIT.burst + LIMIT.amount * took_ms / LIMIT.period_ms
    assert sum(admitted) >= LIMIT.amount * 1_900 / LIMIT.period_ms, "what was there to take was taken"


def test_what_a_killed_process_had_reserved_is_given_back(tmp_path: Path) -> None:
    table = Table(tmp_path / "limits", 0, 4, slots=64)
    worker = start(tmp_path / "limits", 1, 5.0, 1_000, "hang")
    assert worker.stdout is not None
    assert worker.stdout.readline() == "holding\n"
    assert table.state(KEY, LIMIT, 0).remaining == LIMIT.burst - 1_000
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    table.release(1)
    assert table.state(KEY, LIMIT, 0).remaining == LIMIT.burst


def test_processes_killed_in_the_midst_of_it_leave_no_lock_and_nothing_reserved(tmp_path: Path) -> None:
    table = Table(tmp_path / "limits", 0, 4, slots=64)
    workers = {number: start(tmp_path / "limits", number, 60.0, 1, "hurry") for number in (1, 2, 3)}
    for worker in workers.values():
        assert worker.stdout is not None
        assert worker.stdout.readline() == "hurrying\n"
    for number in itertools.islice(itertools.cycle(workers), 9):
        time.sleep(0.03)
        workers[number].kill()
        workers[number].communicate()
        table.release(number)
        workers[number] = start(tmp_path / "limits", number, 60.0, 1, "hurry")
        assert workers[number].stdout.readline() == "hurrying\n"
    for number, worker in workers.items():
        worker.kill()
        worker.communicate()
        table.release(number)
    now_ms = time.time_ns() // 1_000_000
    flights, spent = (table.state(*each, now_ms) for each in (FLIGHTS, SPENT))
    assert flights.remaining == FLIGHTS[1].burst
    assert spent.remaining < SPENT[1].burst, "they were hurrying"
    for number in range(4):
        successor = Table(tmp_path / "limits", number, 4, slots=64)
        successor.restore(*SPENT, 1_000 + number, now_ms)
        successor.close()
    assert table.state(*SPENT, now_ms).remaining == SPENT[1].burst - 4_006
