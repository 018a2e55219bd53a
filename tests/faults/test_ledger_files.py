"""Each write, sync, cut and rename of a ledger fails once, in each way, with the process going on or ending there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from entrepot.ledger import store
from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.read import entries_of, folders_of
from entrepot.ledger.writer import Writer
from ledgers import (
    HOWS,
    LOG,
    NAME,
    Fault,
    Faulty,
    Stale,
    decisions,
    findings,
    outcome,
    undisclosed,
    verified,
    write,
)

BATCHES = (2, 1, 3, 2, 1, 2)
WRITES = 2
"""Of a batch, before its syncs: to the segment and to the side file."""


@pytest.fixture(autouse=True)
def _little_room_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "AHEAD", 2048)
    monkeypatch.setattr(store, "STEPS", 2)


class Run:
    """One life of a ledger: what was acknowledged, under which index."""

    def __init__(self, data: Path, files: Faulty) -> None:
        self.data = data
        self.files = files
        self.acknowledged: dict[tuple[str, int], bytes] = {}
        self.made = 0

    def live(self, *, ends_at_failure: bool) -> None:
        """Opens, appends and closes. After a failure the process ends, or goes on as a gateway does."""
        writer: Writer | None = None
        try:
            writer = write(self.data, self.files)
            writer.longest = 7
            writer.log.segment_bytes = 1200
            for size in BATCHES:
                self._append(writer, size, again=not ends_at_failure)
                writer.log.checkpoint()
        except OSError:
            if ends_at_failure and writer is not None:
                writer.abandon()
                writer = None
        with suppress(OSError):
            if writer is not None:
                writer.close()

    def _append(self, writer: Writer, size: int, *, again: bool) -> None:
        batch = decisions(self.made, size)
        self.made += size
        try:
            origin, first = writer.append(batch)
        except OSError:
            if not again:
                raise
            origin, first = writer.append(batch)
        for index, entry in enumerate(batch.entries, first):
            assert (origin, index) not in self.acknowledged, "an index is given out twice"
            self.acknowledged[origin, index] = entry

    def look(self) -> None:
        held = {(r.origin, r.number): r.entry for log in folders_of(self.data / "ledger") for r in entries_of(log)}
        for place, entry in self.acknowledged.items():
            assert held.get(place) == entry, f"acknowledged entry {place} is not there"

    def look_at_privates(self) -> None:
        """After a start: what was acknowledged has its personal data, and what has none is named."""
        missing, named = undisclosed(self.data)
        assert missing == named
        assert not missing & self.acknowledged.keys()


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch each writes to the segment, then to the side file, and makes no room."""
    monkeypatch.setattr(store, "AHEAD", 1 << 16)


def operations(data: Path) -> int:
    files = Faulty()
    Run(data, files).live(ends_at_failure=True)
    return len(files.done)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: these tests bring their own failures, and a disk's syncs take long."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("how", HOWS)
def test_every_operation_fails_once(quick: Path, how: str) -> None:
    """Whatever fails: nothing acknowledged is lost, no index is given twice, and the next start makes it verify.

    Every other time the process ends at the failure; else it goes on.
    """
    count = operations(quick / "count")
    assert count > 100
    for at in range(count):
        data = quick / f"{at}"
        run = Run(data, Faulty(Fault(at, how)))
        run.live(ends_at_failure=(at + HOWS.index(how)) % 2 == 0)
        run.look()
        Run(data, Faulty()).live(ends_at_failure=True)
        run.look()
        run.look_at_privates()
        report = verified(data)
        assert report.findings() == [], (at, run.files.done[at])
        assert report.calls.decisions == report.calls.outcomes + report.open_calls()


def test_a_lost_sync_begins_a_new_segment(tmp_path: Path, roomy: None) -> None:
    """The file that failed is left alone, its unacknowledged tail kept beside; indices go on where they stood."""
    files = Faulty()
    writer = write(tmp_path, files)
    first = writer.append(decisions(0, 2))
    files.fault = Fault(len(files.done) + WRITES, "persists")
    with pytest.raises(OSError, match="Input/output error"):
        writer.append(decisions(2, 2))
    assert writer.append(decisions(4, 1)) == (first[0], first[1] + 2)
    log = tmp_path / "ledger" / first[0].replace("/", "_")
    assert [path.name for path in sorted(log.glob("*.entries"))] == ["00000000.entries", "00000003.entries"]
    assert len(list((tmp_path / "quarantine").rglob("*.tail"))) == 1
    writer.close()
    assert findings(tmp_path) == []


def test_entries_whose_personal_data_was_lost_are_named(tmp_path: Path, roomy: None) -> None:
    """The process dies after the entries are durable and before their personal data is."""
    files = Faulty()
    writer = write(tmp_path, files)
    origin, _ = writer.append(decisions(0, 2))
    files.fault = Fault(len(files.done) + WRITES + 1, "fails")  # the entries first, then their personal data
    with pytest.raises(OSError, match="Input/output error"):
        writer.append(decisions(2, 2))
    # Both files go back to where they were, unless the process dies first: the segment is as it was then.
    assert writer.append(decisions(4, 2)) == (origin, 3)
    writer.abandon()
    private = tmp_path / "ledger" / LOG / "private" / "00000003.private"
    private.write_bytes(private.read_bytes()[:60])
    write(tmp_path).close()
    assert undisclosed(tmp_path) == ({(origin, 3), (origin, 4)}, {(origin, 3), (origin, 4)})
    assert findings(tmp_path) == []
    report = verified(tmp_path)
    assert (report.calls.decisions, report.open_calls()) == (4, 0), "they are kept, and got their outcome, `lost`"


@pytest.mark.pure
@pytest.mark.parametrize("which", ["00000000.entries", "private/00000000.private"])
def test_what_only_the_kernels_memory_holds_is_written_again(
    tmp_path: Path, roomy: None, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """A sync fails and the process dies: the next start reads what the disk does not have, and must not rest on it."""
    files = Faulty()
    writer = write(tmp_path, files)
    origin, _ = writer.append(decisions(0, 2))
    writer.log.checkpoint()
    path = tmp_path / "ledger" / LOG / which
    on_disk = path.read_bytes()
    files.fault = Fault(len(files.done) + WRITES + which.startswith("private"), "persists")
    with monkeypatch.context() as dying:
        dying.setattr(store.Store, "take_back", lambda *_: None)
        with pytest.raises(OSError, match="Input/output error"):
            writer.append(decisions(2, 2))
    writer.abandon()
    assert path.read_bytes() != on_disk
    stale = Stale({path: on_disk})
    again = write(tmp_path, stale)
    assert again.append(decisions(4, 1))[0] == origin
    again.log.checkpoint()
    again.abandon()
    stale.power_off()
    write(tmp_path).close()
    report = verified(tmp_path)
    assert (report.findings(), report.calls.decisions, report.open_calls()) == ([], 5, 0)
    assert undisclosed(tmp_path) == (set(), set())


def test_nothing_works_and_then_all_does(tmp_path: Path) -> None:
    files = Faulty(lasting=True)
    writer = write(tmp_path, files)
    writer.append(decisions(0, 2))
    files.fault = Fault(len(files.done), "tears")
    for number in range(2, 6):
        with pytest.raises(OSError, match="Input/output error"):
            writer.append(decisions(number, 1))
    files.heal()
    origin, index = writer.append(decisions(6, 2))
    assert index == 3
    writer.close()
    assert findings(tmp_path) == []
    again = write(tmp_path)
    assert again.log.open == {origin: set()}, "each got its outcome, `lost`"
    again.close()
    assert findings(tmp_path) == []


def test_a_file_that_cannot_be_read_back_is_not_replaced(tmp_path: Path, roomy: None) -> None:
    files = Faulty()
    writer = write(tmp_path, files)
    origin, _ = writer.append(decisions(0, 2))
    files.fault = Fault(len(files.done) + WRITES, "persists")
    with pytest.raises(OSError, match="Input/output error"):
        writer.append(decisions(2, 1))
    segment = tmp_path / "ledger" / origin.replace("/", "_") / "00000000.entries"
    damaged = bytearray(segment.read_bytes())
    damaged[300] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(OSError, match="cannot be read back"):
        writer.append(decisions(3, 1))
    assert segment.read_bytes() == damaged
    writer.abandon()


def test_outcomes_of_a_log_that_ended_are_known_in_the_next(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.longest = 4
    origin, index = writer.append(decisions(0, 3))
    following, _ = writer.append(decisions(3, 1))
    assert following == f"{NAME}/2026-11/1"
    assert origin == f"{NAME}/2026-11/0"
    entry = outcome(f"{origin}/{index}")
    writer.append(type(decisions(0, 1))([entry], [None]))
    writer.abandon()
    write(tmp_path).close()
    report = verified(tmp_path)
    assert report.findings() == []
    assert (report.calls.decisions, report.calls.outcomes, report.open_calls()) == (4, 4, 0)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    writer = write(tmp_path)
    with pytest.raises(LedgerRefused, match="a process already writes the log"):
        write(tmp_path)
    writer.close()
    write(tmp_path).close()
