"""A slice of the accuracy table of docs/limits.md, by the program that measures it: three times a limit is offered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "bench" / "limits.py"


def test_what_processes_admit_together_is_within_the_bound_and_none_starves() -> None:
    chosen = ["--seconds", "4", "--window-ms", "2000", "--stores", "table", "--processes", "4", "--no-cost"]
    command = [sys.executable, str(PROGRAM), *chosen]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| \n").split(" | ") for line in done.stdout.splitlines() if line.startswith("| table")]
    assert [row[:3] for row in rows] == [["table", "4", load] for load in ("even", "skewed", "edge")]
    assert all(float(row[7].rstrip("%")) <= 100.1 for row in rows), "of every stretch of time"
    assert all(int(row[4].replace(",", "")) > 20_000 for row in rows), "more than the burst was admitted"
