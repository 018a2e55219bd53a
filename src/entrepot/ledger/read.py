"""Reads the entries of a ledger's folder, in any process, while it is written or not. Proves nothing: `verify` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from entrepot.ledger.entries import Personal, disclose
from entrepot.ledger.frames import private_file, records
from entrepot.ledger.verify import LIST, SEGMENT, folder_name, read_header, walk


class Read(NamedTuple):
    origin: str
    number: int
    entry: bytes


def folders_of(ledger: Path) -> list[Path]:
    """The logs of a folder in the order of the list, those that it does not name last; or the one log that it is."""
    if any(ledger.glob(SEGMENT)):
        return [ledger]
    there = sorted(path for path in ledger.glob("[!.]*") if path.is_dir())
    try:
        lines = (ledger / LIST).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        lines = []
    order = {folder_name(line.split(" ")[0]): at for at, line in enumerate(lines)}
    return sorted(there, key=lambda path: order.get(path.name, len(order)))


def entries_of(log: Path, start: int = 0) -> Iterator[Read]:
    """Entries of one log from index `start` on, as far as they are whole. Raises Unproved for a damaged header."""
    segments = sorted(log.glob(SEGMENT))
    for at, path in enumerate(segments):
        if at + 1 < len(segments) and int(segments[at + 1].stem) <= start:
            continue
        data = path.read_bytes()
        origin, first, offset = read_header(data)
        for index, (begin, end) in enumerate(walk(data, offset)[0], first):
            if index >= start:
                yield Read(origin, index, data[begin:end])


def personal_of(log: Path) -> dict[int, Personal]:
    """The personal data of a log that was not erased, by index."""
    found: dict[int, Personal] = {}
    for segment in sorted(log.glob(SEGMENT)):
        path = private_file(log, int(segment.stem))
        for record in records(path.read_bytes()) if path.exists() else ():
            if record.private is not None:
                found[record.number] = disclose(record.private)
    return found
