"""Damage of every kind to what is on disk: recovered exactly, or refused with words; `verify` names what was done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrepot.ledger import recover, store
from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.files import Files
from entrepot.ledger.frames import frame, header, header_end
from entrepot.ledger.keys import Signer, find_signer
from entrepot.ledger.read import entries_of
from entrepot.ledger.verify import BATCH, ENTRY, Checkpoint, Tree, check, leaf_hash, walk
from entrepot.ledger.writer import open_writer
from ledgers import LOG, NAME, NOW_MS, ORIGIN, decisions, findings, key_of, small, some_log, verified, write

FIRST = "00000000.entries"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(store, "AHEAD", 64)
    monkeypatch.setattr(store, "STEPS", 2)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def held(data: Path) -> list[bytes]:
    """The entries that were appended, without those of opening and closing."""
    return [r.entry for r in entries_of(data / "ledger" / LOG) if r.entry.startswith(b'{"decision"')]


def reopened(data: Path) -> str:
    """What the next start says: nothing, or why it refuses."""
    try:
        write(data).abandon()
    except LedgerRefused as refused:
        return str(refused)
    return ""


def test_what_a_refusal_advises_leads_to_no_second_history_of_a_log(quick: Path) -> None:
    """Under the name that it had, another ledger would have the origins and the key of the one that was moved away."""
    some_log(quick, (1,))
    (quick / "ledger" / LOG).rename(quick / "away")
    advice = reopened(quick)
    assert "move the ledger's folder away and give the gateway another `log_name`" in advice
    (quick / "ledger").rename(quick / "evidence")
    other, files = NAME.replace("gateway-1", "gateway-2"), Files()
    begun = open_writer(quick, other, find_signer(quick, other, files), files, lambda: NOW_MS)
    assert begun.log.origin == ORIGIN.replace("gateway-1", "gateway-2")
    begun.close()
    assert check(quick / "ledger", find_signer(quick, other, files).key).findings() == []


@pytest.mark.parametrize(
    "entry",
    [b'{"opened":{"open":null}}', b'{"opened":{"previous":"x"}}', b'{"closed":[]}', b"[[]]", b'{"opened":{"open":7}}'],
)
def test_what_stands_unsigned_behind_a_log_and_is_no_entry_is_a_finding(quick: Path, entry: bytes) -> None:
    some_log(quick, (1,))
    path = quick / "ledger" / LOG / FIRST
    whole = path.read_bytes()
    path.write_bytes(whole + frame(BATCH, entry, len(whole)))
    assert [each for each in findings(quick) if "entry 3 is of no known kind" in each]


def test_every_bit_of_a_closed_log_counts(quick: Path) -> None:
    """Any flipped bit in the log's folder fails verification, and the next start refuses it."""
    some_log(quick, (1, 2))
    folder = quick / "ledger" / LOG
    key = key_of(quick)
    for path in (folder / FIRST, folder / "checkpoint", quick / "ledger" / "logs"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            assert check(quick / "ledger", key).findings(), (path.name, at)
            if at % 16 == 0:
                assert reopened(quick), (path.name, at)
        path.write_bytes(whole)
    assert findings(quick) == []
    assert reopened(quick) == ""


def test_a_flipped_bit_behind_the_checkpoint(quick: Path) -> None:
    """Of entries that no checkpoint covers yet only the last batch can look torn; damage before it is refused."""
    appended = some_log(quick, (2, 2), small, close=False)
    path = quick / "ledger" / LOG / FIRST
    whole = path.read_bytes()
    batches = [at for at in range(len(whole)) if whole.startswith(BATCH, at) and walk(whole, at)[0]]
    last = batches[-1]
    end = walk(whole, header_end(whole))[1]
    keep = quick.with_name(quick.name + "-kept")
    shutil.copytree(quick, keep)
    try:
        for at in range(batches[1], len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            refused = reopened(quick)
            if at < last:
                assert "it was acknowledged and then changed" in refused
                continue
            assert refused == ""
            expected = appended[:2] if at < walk(whole, last)[0][0][1] else appended[:3]
            assert held(quick) == (expected if at < end else appended), at
            assert list((quick / "quarantine").rglob("*.tail")), "what was cut off is kept"
            assert findings(quick) == []
            shutil.rmtree(quick)
            shutil.copytree(keep, quick)
    finally:
        shutil.rmtree(keep)


def test_torn_tails(quick: Path) -> None:
    """Cut anywhere, and with the rest zeros: what was signed is demanded, of what was not whole entries stay."""
    appended = some_log(quick, (1, 2), small, close=False)
    path = quick / "ledger" / LOG / FIRST
    whole = path.read_bytes()
    spans, end = walk(whole, header_end(whole))
    keep = quick.with_name(quick.name + "-kept")
    shutil.copytree(quick, keep)
    try:
        for at in range(end):
            for tail in (b"", bytes(len(whole) - at)):
                path.write_bytes(whole[:at] + tail)
                refused = reopened(quick)
                if at < spans[0][1]:
                    assert refused, at
                    continue
                assert refused == "", at
                assert held(quick) == appended[: sum(stop <= at for _, stop in spans[1:])], at
                assert findings(quick) == [], at
                shutil.rmtree(quick)
                shutil.copytree(keep, quick)
    finally:
        shutil.rmtree(keep)


def sealed(data: Path) -> list[bytes]:
    """A ledger of three logs, the first of several segments; the first one's entries."""
    writer = write(data)
    writer.longest = 14
    writer.log.segment_bytes = 1500
    for number in range(30):
        writer.append(decisions(number, 1))
    writer.close()
    return [r.entry for r in entries_of(data / "ledger" / LOG)]


def rewrite(path: Path, first: int, entries: list[bytes]) -> None:
    """A segment as its writer would have written it: checksums and all."""
    data = header(ORIGIN, first)
    for at, entry in enumerate(entries):
        data += frame(ENTRY if at else BATCH, entry, len(data))
    path.write_bytes(data)


def segment(data: Path, at: int) -> Path:
    return sorted((data / "ledger" / LOG).glob("*.entries"))[at]


def content(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[start:stop] for start, stop in walk(data, header_end(data))[0]]


def truncate(data: Path) -> None:
    last = segment(data, -1)
    rewrite(last, int(last.stem), content(last)[:-1])


def reorder(data: Path) -> None:
    entries = content(segment(data, 0))
    rewrite(segment(data, 0), 0, [entries[0], entries[2], entries[1], *entries[3:]])


def replace(data: Path) -> None:
    entries = content(segment(data, 0))
    rewrite(segment(data, 0), 0, [entries[0], decisions(77, 1).entries[0], *entries[2:]])


def swap(data: Path) -> None:
    one, other = segment(data, 1), segment(data, 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def lose_segment(data: Path) -> None:
    segment(data, 1).unlink()


def lose_log(data: Path) -> None:
    shutil.rmtree(data / "ledger" / LOG.replace("_0", "_1"))


def lose_log_and_list(data: Path) -> None:
    lose_log(data)
    (data / "ledger" / "logs").unlink()


def forge(data: Path) -> None:
    """A checkpoint over changed entries, by another key of the same name."""
    replace(data)
    entries = [r.entry for r in entries_of(data / "ledger" / LOG)]
    tree = Tree()
    tree.extend([leaf_hash(entry) for entry in entries])
    other: Signer = find_signer(data / "elsewhere", NAME, Files())
    note = other.sign(str(Checkpoint(ORIGIN, tree.size, tree.root())))
    (data / "ledger" / LOG / "checkpoint").write_bytes(note)


def other_log(data: Path) -> None:
    """The folder of one log in the place of another."""
    lose_log(data)
    shutil.copytree(data / "ledger" / LOG, data / "ledger" / LOG.replace("_0", "_1"))


def add_file(data: Path) -> None:
    (data / "ledger" / LOG / "notes.txt").write_text("x")


def add_log(data: Path) -> None:
    shutil.copytree(data / "ledger" / LOG, data / "ledger" / "entrepot.example_gateway-2_2026-11_0")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "entries 14 to 14 are missing"),
        (reorder, "do not have the root that the checkpoint signs"),
        (replace, "do not have the root that the checkpoint signs"),
        (swap, "files were swapped or renamed"),
        (lose_segment, "a segment is missing"),
        (lose_log, "is in the list, but it is missing"),
        (lose_log_and_list, "the signed list of logs (`logs`) is missing"),
        (forge, "it is not signed by the key"),
        (other_log, "its checkpoint is that of the log"),
        (add_file, "does not belong there"),
        (add_log, "is not in the list of logs"),
    ],
)
def test_verify_names_what_was_done(quick: Path, damage: Callable[[Path], None], named: str) -> None:
    sealed(quick)
    assert findings(quick) == []
    damage(quick)
    assert any(named in finding for finding in findings(quick)), findings(quick)


def test_verify_names_where_a_checksum_is_wrong(quick: Path) -> None:
    """Whoever moves an entry without its checksum betrays the place."""
    sealed(quick)
    path = segment(quick, 1)
    data = path.read_bytes()
    (start, stop), *_ = walk(data, header_end(data))[0]
    path.write_bytes(data[:start] + data[start:stop].replace(b'"chat"', b'"chit"') + data[stop:])
    assert any(f"entry {int(path.stem)}: it was changed" in finding for finding in findings(quick))


def test_another_key_proves_nothing(quick: Path) -> None:
    sealed(quick)
    other = find_signer(quick / "elsewhere", NAME, Files()).key
    assert any("it is not signed by the key" in finding for finding in check(quick / "ledger", other).findings())


def test_an_earlier_checkpoint_shows_a_log_that_was_written_anew(quick: Path) -> None:
    """With the key one can sign another history, but not one that fits what was signed before."""
    some_log(quick, (3,))
    earlier = quick / "earlier"
    earlier.write_bytes((quick / "ledger" / LOG / "checkpoint").read_bytes())
    some_log(quick, (2,))
    assert check(quick / "ledger", key_of(quick), earlier).findings() == []
    shutil.rmtree(quick / "ledger")
    some_log(quick, (9,))
    assert findings(quick) == []
    anew = check(quick / "ledger", key_of(quick), earlier).findings()
    assert any("the root that the earlier checkpoint signs" in finding for finding in anew)
    shutil.rmtree(quick / "ledger")
    some_log(quick, (1,))
    cut = check(quick / "ledger", key_of(quick), earlier).findings()
    assert any("it was cut back" in finding for finding in cut)
    shutil.rmtree(quick / "ledger" / LOG)
    assert any("is not here" in finding for finding in check(quick / "ledger", key_of(quick), earlier).findings())


def test_the_next_start_refuses_a_log_that_is_not_what_was_signed(quick: Path) -> None:
    some_log(quick, (3,))
    for damage, said in (
        (truncate, "entries that were acknowledged are gone"),
        (replace, "do not have the root that was signed"),
        (forge, "it is not signed by the key"),
        (lambda data: (data / "ledger" / LOG / "checkpoint").unlink(), "is missing"),
        (lambda data: (data / "ledger" / "logs").unlink(), "the signed list of logs"),
        (lambda data: shutil.rmtree(data / "ledger" / LOG), "is in the signed list of logs, but it is missing"),
        (lambda data: segment(data, 0).unlink(), "has no segments"),
    ):
        copy = quick / "copy"
        shutil.copytree(quick / "ledger", copy / "ledger")
        shutil.copytree(quick / "keys", copy / "keys")
        damage(copy)
        refused = reopened(copy)
        assert said in refused
        assert "restore the log's folder" in refused, "it says what to do"
        shutil.rmtree(copy)
    assert verified(quick).findings() == []


def test_a_start_hashes_what_is_recent_and_all_without_derived_files(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "RECENT", 100)
    monkeypatch.setattr(recover, "_AT_ONCE", 64)
    some_log(quick, [50] * 8)
    segment = quick / "ledger" / LOG / "00000000.entries"
    whole = segment.read_bytes()
    for request, refused in ((b"guid-390", True), (b"guid-320", True), (b"guid-9", False)):
        segment.write_bytes(whole.replace(b'"%b"' % request, b'"%b"' % request.upper()))
        assert findings(quick)
        data = quick.with_name(f"{quick.name}-copy")
        shutil.copytree(quick, data)
        if refused:
            with pytest.raises(LedgerRefused, match="was changed"):
                write(data)
        else:
            write(data).close()
            assert findings(data), "what a start passes over is found when it is verified"
            shutil.rmtree(data)
            shutil.copytree(quick, data)
            shutil.rmtree(data / "derived")
            with pytest.raises(LedgerRefused, match="was changed"):
                write(data)
        shutil.rmtree(data)
    segment.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(LedgerRefused, match="its last checkpoint signs"):
        write(quick)
