"""A slice of `kill_gateway.py`."""

from __future__ import annotations

from pathlib import Path

import kill_gateway


def test_a_gateway_is_killed_again_and_again(tmp_path: Path) -> None:
    said = kill_gateway.run(tmp_path, 4)
    assert "all well" in said
