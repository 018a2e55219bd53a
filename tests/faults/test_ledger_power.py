"""The power fails at any moment: what was written since the last sync is there, or not, or in part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from entrepot.ledger import store
from entrepot.ledger.disclosed import disclosed
from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.writer import Writer
from ledgers import Crash, Volatile, decisions, findings, undisclosed, verified, write

LIVES = 120


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(store, "AHEAD", 2048)
    monkeypatch.setattr(store, "STEPS", 2)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def live(data: Path, random: Random, acknowledged: dict[tuple[str, int], bytes], made: int) -> int:
    """One process over what the one before left, until the power fails."""
    writer: Writer | None = None
    try:
        writer = write(data, Volatile(random.randrange(1, 90), random))
        writer.longest = 30
        writer.log.segment_bytes = 2000
        for _ in range(12):
            batch = decisions(made, random.randrange(1, 4))
            made += len(batch.entries)
            origin, first = writer.append(batch)
            for index, entry in enumerate(batch.entries, first):
                assert (origin, index) not in acknowledged, "an index is given out twice"
                acknowledged[origin, index] = entry
            if random.random() < 0.5:
                writer.log.checkpoint()
        writer.close()
        writer = None
    except Crash:
        pass
    if writer is not None:
        writer.abandon()
    return made


@pytest.mark.parametrize("seed", range(4))
def test_power_fails_again_and_again(quick: Path, seed: int) -> None:
    """One ledger through many lives, some of which end while it still recovers."""
    random, acknowledged, made = Random(seed), {}, 0
    for number in range(LIVES // 4):
        made = live(quick, random, acknowledged, made)
        held = {(r.origin, r.number): r.entry for log in folders_of(quick / "ledger") for r in entries_of(log)}
        for place, entry in acknowledged.items():
            assert held.get(place) == entry, (number, place)
        missing, _ = undisclosed(quick)
        assert not missing & acknowledged.keys(), "acknowledged, and its personal data is gone"
    write(quick).close()
    missing, named = undisclosed(quick)
    assert missing == named, "each entry without its personal data is named"
    assert disclosed(quick / "ledger").findings == []
    report = verified(quick)
    assert report.findings() == []
    assert report.open_calls() == 0, "each decision has its outcome"
    assert report.calls.decisions >= len(acknowledged) > 50
    assert findings(quick) == []
