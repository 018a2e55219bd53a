"""A slice of `mixed_calls.py`."""

from __future__ import annotations

from pathlib import Path

import mixed_calls

from harness import Fleet


def test_usage_and_replay_of_calls_of_every_fate(fleet: Fleet, tmp_path: Path) -> None:
    said = mixed_calls.run(tmp_path, 300, fleet)
    assert "all well" in said
