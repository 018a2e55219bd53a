"""A slice of `mixed_calls.py`."""

from __future__ import annotations

from pathlib import Path

import mixed_calls
import msgspec
import rfc8785

from entrepot.ledger import entries
from entrepot.ledger.read import entries_of, folders_of
from harness import Fleet


def test_usage_and_replay_of_calls_of_every_fate(fleet: Fleet, tmp_path: Path) -> None:
    said = mixed_calls.run(tmp_path, 300, fleet)
    assert "all well" in said
    # Frequent entries are spelled by the gateway itself: as the encoder would, and as the standard asks.
    written = [read.entry for log in folders_of(tmp_path / "data" / "ledger") for read in entries_of(log)]
    assert sum(entry.startswith(b'{"decision":{"admitted":true') for entry in written) > 100
    for entry in written:
        assert entries.encode(entries.decode(entry)) == entry == rfc8785.dumps(msgspec.json.decode(entry))
