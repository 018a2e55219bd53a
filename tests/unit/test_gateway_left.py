"""Workers that a gateway had and has no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.gateway.left import close_left
from entrepot.ledger import store
from entrepot.ledger.files import Files
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch
from entrepot.ledger.verify import folder_name
from entrepot.ledger.writer import Writer, open_writer
from ledgers import NAME, NOW_MS, decision, outcome, verified


@pytest.fixture(autouse=True)
def _little_room_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "AHEAD", 2048)
    monkeypatch.setattr(store, "STEPS", 2)


def worker(data: Path, number: int) -> Writer:
    files = Files()
    return open_writer(data, f"{NAME}/w{number}", find_signer(data, NAME, files), files, lambda: NOW_MS)


def test_the_calls_of_a_worker_that_died_and_does_not_come_back_are_lost(tmp_path: Path) -> None:
    for number in range(3):
        writer = worker(tmp_path, number)
        entry, private = decision(number)
        origin, index = writer.append(Batch([entry], [private]))
        if number == 1:
            writer.append(Batch([outcome(f"{origin}/{index}")], [None]))
            writer.close()
        else:
            writer.abandon()
    assert verified(tmp_path).open_calls() == 2
    close_left(tmp_path, NAME, 1)
    assert verified(tmp_path).calls.open[f"{NAME}/w0/2026-11/0"], "that worker comes back"
    worker(tmp_path, 0).close()
    report = verified(tmp_path)
    assert (report.findings(), report.open_calls(), report.calls.outcomes) == ([], 0, 3)

    before = {path: path.read_bytes() for path in (tmp_path / "ledger").rglob("*.entries")}
    close_left(tmp_path, NAME, 1)
    assert before == {path: path.read_bytes() for path in (tmp_path / "ledger").rglob("*.entries")}


def test_a_log_that_is_damaged_or_written_is_told_of_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writers = [worker(tmp_path, number) for number in range(3)]
    writers[1].abandon()
    (tmp_path / "ledger" / folder_name(f"{NAME}/w1/2026-11/0") / "checkpoint").unlink()
    close_left(tmp_path, NAME, 1)
    told = [record.fields["problem"] for record in caplog.records]  # type: ignore[attr-defined]
    assert len(told) == 2
    assert "is missing" in told[0]
    assert "a process already writes the log" in told[1]
    for writer in (writers[0], writers[2]):
        writer.abandon()
