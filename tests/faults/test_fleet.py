"""A slice of `fleet.py`, which is run by hand: a gateway, restarted, and two control planes over one PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import roll


@pytest.mark.timeout(180)
def test_no_call_fails_while_a_gateway_is_restarted(tmp_path: Path) -> None:
    load = roll(tmp_path, gateways=1, controls=2, rounds=1, clients=1, pause_s=0.3, spared=2)
    assert load.failures == []
    assert min(load.results["sdk served"], load.results["plain served"]) > 5, load.results
