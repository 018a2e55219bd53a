"""A slice of `kill_ledger.py`."""

from __future__ import annotations

from pathlib import Path

import kill_ledger


def test_a_writer_is_killed_again_and_again(tmp_path: Path) -> None:
    said = kill_ledger.run(tmp_path, 8)
    assert "all well" in said
