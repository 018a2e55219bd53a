"""A slice of `kill_control.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import kill_control


def test_a_control_plane_is_killed_again_and_again(tmp_path: Path) -> None:
    said = asyncio.run(kill_control.run(tmp_path, 4))
    assert "all well" in said
