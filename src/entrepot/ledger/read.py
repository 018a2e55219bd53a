"""Reads the entries of a ledger's folder, in any process, while it is written or not. Proves nothing: `verify` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from entrepot.ledger.entries import Personal, disclose
from entrepot.ledger.frames import private_file, records
from entrepot.ledger.verify import (
    CHECKPOINT,
    LIST,
    SEGMENT,
    Unproved,
    folder_name,
    read_checkpoint,
    read_header,
    segment_name,
    walk,
)


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
    """Entries of one log from index `start` on. What no checkpoint covers yet may be missing at the end, torn or not.

    Raises Unproved where an entry that a checkpoint covers, or that others stand behind, cannot be read: after those
    before it. Raises OSError.
    """
    # The checkpoint is read first: what it covers is in the files by then.
    origin, signed = covered(log)
    segments = sorted(log.glob(SEGMENT))
    size = 0
    for at, path in enumerate(segments):
        if at + 1 < len(segments) and int(segments[at + 1].stem) <= start:
            size = int(segments[at + 1].stem)
            continue
        data = path.read_bytes()
        try:
            origin, first, offset = read_header(data)
        except (Unproved, ValueError):
            raise Unproved(f"the header of `{path}` is damaged") from None
        if first != size or path.name != segment_name(first):
            raise Unproved(f"entry {size} of the log `{origin}` is damaged or missing: `{path.name}` follows")
        spans, _ = walk(data, offset)
        size = first + len(spans)
        for index, (begin, end) in enumerate(spans, first):
            if index >= start:
                yield Read(origin, index, data[begin:end])
    if size < signed:
        raise Unproved(f"entry {size} of the log `{origin}` is damaged or missing: its checkpoint covers {signed}")


def covered(log: Path) -> tuple[str, int]:
    """Origin and size of the last checkpoint; its signature is for `verify` to check. Without one, nothing is."""
    try:
        text = (log / CHECKPOINT).read_text(encoding="utf-8").partition("\n\n")[0] + "\n"
    except FileNotFoundError:
        return log.name, 0
    except UnicodeDecodeError:
        raise Unproved(f"the checkpoint of `{log.name}` is damaged") from None
    signed = read_checkpoint(text)
    return signed.origin, signed.size


def personal_of(log: Path) -> dict[int, Personal]:
    """The personal data of a log that was not erased, by index."""
    found: dict[int, Personal] = {}
    for segment in sorted(log.glob(SEGMENT)):
        path = private_file(log, int(segment.stem))
        for record in records(path.read_bytes()) if path.exists() else ():
            if record.private is not None:
                found[record.number] = disclose(record.private)
    return found
