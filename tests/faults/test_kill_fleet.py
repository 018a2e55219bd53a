"""A slice of `kill_fleet.py`, which is run by hand: a gateway and a control plane, all killed under load."""

from __future__ import annotations

from pathlib import Path

import kill_fleet
import pytest


@pytest.mark.timeout(300)
def test_whatever_is_killed_no_call_and_no_change_is_lost_and_budgets_are_what_ledgers_say(tmp_path: Path) -> None:
    left = kill_fleet.run(tmp_path, seconds=2, gateways=1, controls=1, clients=2, pause_s=0.7)
    assert left.answers > 20
    assert left.changes > 2
    assert left.micros > 0
