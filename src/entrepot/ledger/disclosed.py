"""Compares personal data with what the entries commit to. Needs `private/`, which proofs do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from msgspec import UNSET

from entrepot.ledger.entries import Erasure, Opened, commitment_of, decode
from entrepot.ledger.erase import ranges
from entrepot.ledger.frames import Record, is_erased, private_file, records
from entrepot.ledger.log import OPENED
from entrepot.ledger.read import covered, entries_of, folders_of, segments_of

ERASURE = b'{"erasure":'


@dataclass
class _Log:
    """Indices of one log, each list sorted; `whole` has 1 for each entry whose personal data is there and right."""

    whole: bytearray
    erased: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    stray: list[int] = field(default_factory=list)


@dataclass
class Disclosed:
    """How many entries have the personal data that they commit to, and how many lack it for a reason that is told.

    `undisclosed` lost it with a process that died before anybody had been told of them. The rest are `findings`.
    """

    matching: int = 0
    erased: int = 0
    undisclosed: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = f"the personal data of {self.matching} entries is what they commit to; of {self.erased} it was erased"
        return f"{told}, of {self.undisclosed} lost in a crash before they were acknowledged"


def disclosed(ledger: Path) -> Disclosed:
    """Looks at all that checkpoints cover; behind that a gateway may be writing. Raises Unproved and OSError."""
    found, logs = Disclosed(), dict[str, _Log]()
    said: dict[str, set[int]] = {}
    lost: dict[str, set[int]] = {}
    for folder in folders_of(ledger):
        origin, size = covered(folder)
        logs[origin] = _compare(folder, origin, size, found, said, lost)
    for origin, log in logs.items():
        mine = said.get(origin, set())
        excused = lost.get(origin, set()) - mine
        told = mine | excused
        found.erased += sum(index in mine for index in (*log.erased, *log.missing))
        found.undisclosed += sum(index in excused for index in (*log.erased, *log.missing))
        for what, indices in (
            ("is not what they commit to", log.wrong),
            ("belongs to no entry that commits to any", log.stray),
            ("was erased, and no `erasure` entry says so", [i for i in log.erased if i not in told]),
            (
                "is there, and an `erasure` entry says that it was erased",
                [i for i in sorted(mine) if log.whole[i : i + 1] == b"\x01"],
            ),
            ("is missing, and no entry says why", [i for i in log.missing if i not in told]),
        ):
            found.findings += [f"{origin}: the personal data of entries {_spelled(indices)} {what}"] if indices else []
    return found


def _compare(
    folder: Path, origin: str, size: int, found: Disclosed, said: dict[str, set[int]], lost: dict[str, set[int]]
) -> _Log:
    log, firsts = _Log(bytearray(size)), [first for first, _ in segments_of(folder)]
    there: dict[int, tuple[Record, bool]] = {}
    for read in entries_of(folder):
        if read.number >= size:
            break
        if firsts and read.number == firsts[0]:
            log.stray += sorted(there)
            there = dict(_records(private_file(folder, firsts.pop(0))))
        _note(read.entry, origin, said, lost)
        wanted = commitment_of(read.entry) if not read.entry.startswith(ERASURE) else None
        if wanted is None:
            continue
        record, erased = there.pop(read.number, (None, False))
        if record is None:
            log.missing.append(read.number)
        elif erased:
            log.erased.append(read.number)
        elif record.private is not None and sha256(record.private).hexdigest().encode() == wanted:
            found.matching += 1
            log.whole[read.number] = 1
        else:
            log.wrong.append(read.number)
    log.stray += sorted(index for index in there if index < size)
    return log


def _records(path: Path) -> Iterator[tuple[int, tuple[Record, bool]]]:
    data = path.read_bytes() if path.exists() else b""
    for record in records(data):
        yield record.number, (record, is_erased(data, record))


def _note(entry: bytes, origin: str, said: dict[str, set[int]], lost: dict[str, set[int]]) -> None:
    """What an entry says of personal data that is not there."""
    if not entry.startswith((ERASURE, OPENED)):
        return
    told = decode(entry)
    if isinstance(told, Erasure):
        for log in told.logs:
            said.setdefault(log.origin, set()).update(*(range(*one) for one in log.indices))
    elif isinstance(told, Opened) and told.undisclosed is not UNSET:
        lost.setdefault(origin, set()).update(told.undisclosed)


def _spelled(indices: list[int]) -> str:
    return ", ".join(str(a) if b == a + 1 else f"{a} to {b - 1}" for a, b in ranges(indices))
